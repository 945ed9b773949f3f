"""The options of a training run (RunConfig): names, defaults and allowed values; reading them from files and --set.

Options are flat, so that the YAML file, `--set name=value`, the `run` table and SQL queries share one name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from prismatic.contract.options import misfit_of_pairs
from prismatic.contract.run_hash import run_hash
from prismatic.contract.thresholds import Thresholds, read_registration
from prismatic.errors import ConfigError, LoggerError
from prismatic.layer.config import RouterConfig
from prismatic.runfile.manage import read_facts

OPTION = "config."  # how the names of facts begin that are options
SQLITE = b"SQLite format 3\x00"  # the first bytes of a run file
Positive = Annotated[int, Field(ge=1)]


class RunConfig(RouterConfig):
    """The options of a training run."""

    router_type: Literal["prismatic"] = "prismatic"

    hidden_size: Positive = 96
    num_layers: Positive = 2
    num_heads: Positive = 4
    sequence_length: Annotated[int, Field(ge=2)] = 96

    steps: Positive = 1500
    batch_size: Positive = 8
    learning_rate: Annotated[FiniteFloat, Field(gt=0)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Clip the whole gradient to this norm, after logging it."""
    device: str = "cpu"
    data: Path | None = None
    """A text file to train on; the default is the English text of Python's own documentation."""

    log_freq: Positive = 10
    """Steps between logged steps; the first and the last step are always logged."""
    probe_freq: Annotated[int, Field(ge=0)] = 0
    """Steps between isolated probes: each expert's gradient measured alone on the same batch; 0 is never."""
    pair_freq: Annotated[int, Field(ge=0)] | None = None
    """Steps between comparisons of the experts with each other, in which the probe runs; unset is with every probe,
    0 is never."""
    histogram_freq: Annotated[int, Field(ge=0)] = 0
    """Steps between histograms of each tier's gradient entries; 0 is never."""
    weight_freq: Annotated[int, Field(ge=0)] = 100
    """Steps between comparisons of the experts' weights; 0 is never."""

    thresholds: dict[str, float] = {}  # noqa: RUF012 (pydantic copies it)
    """Thresholds of the verdict other than the defaults, registered in the run file before the first step.
    They do not change the run's hash, so nobody can train one run twice and choose between thresholds."""

    @model_validator(mode="after")
    def _heads_divide_hidden_size(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}")
        return self

    @model_serializer(mode="wrap")
    def _without_unset(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an unset pair_freq: it changes no hash of runs that were trained before there was one."""
        options: dict[str, Any] = dump(self)
        return {name: value for name, value in options.items() if name != "pair_freq" or value is not None}

    @model_validator(mode="after")
    def _pairs_fit_probes(self) -> Self:
        if problem := misfit_of_pairs(self.probe_freq, self.pair_freq):
            raise ValueError(problem.removesuffix("."))
        return self

    @model_validator(mode="after")
    def _thresholds_exist(self) -> Self:
        Thresholds().changed(self.thresholds)
        return self

    def facts(self) -> dict[str, Any]:
        """Return every option of the experiment as plain JSON values, by name."""
        return self.model_dump(mode="json", exclude={"thresholds"})

    def run_hash(self, corpus_sha256: str) -> str:
        """Return nine hex digits that identify the experiment: the config and the text's content, not its path."""
        return run_hash(self.facts(), corpus_sha256)


def load_config(path: Path | None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a config, or take the defaults, and apply `name=value` overrides, whose values are read as YAML.

    path: a YAML file, or the run file of a training, whose options are used again. Raises ConfigError for a file that
    is neither, an override without "=", an unknown name or a bad value.
    """
    options = read_options(path) if path else {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected name=value, such as --set perturbation_scale=2.0.")
        try:
            options[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value cannot be read as YAML ({error}).") from error
    return parse_config(options, where=str(path or "--set"))


def read_options(path: Path) -> dict[str, Any]:
    """Return the options in a YAML file, or those that a run file recorded, unchecked. Raises ConfigError."""
    try:
        content = Path(path).read_bytes()
        if content.startswith(SQLITE):
            return _recorded_options(path)
        options = yaml.safe_load(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error}). `experiments/` holds working configs.") from error
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise ConfigError(f"{path}: expected lines of `name: value`, found a {type(options).__name__}.")
    return options


def _recorded_options(path: Path) -> dict[str, Any]:
    """Return the options and thresholds of the training that wrote a run file."""
    try:
        facts = read_facts(path)
    except (LoggerError, ValueError) as error:
        raise ConfigError(f"{path}: the options of the run cannot be read ({error}). Use its YAML file.") from error
    options = {key.removeprefix(OPTION): value for key, value in facts.items() if key.startswith(OPTION)}
    if options.get("router_type") != "prismatic":
        raise ConfigError(f"{path}: this run was not trained by `prismatic train`. Use a YAML file of options.")
    registered = read_registration(facts)
    if registered is not None and registered.thresholds is not None:
        defaults = asdict(Thresholds())
        changed = {name: v for name, v in asdict(registered.thresholds).items() if v != defaults[name]}
        options |= {"thresholds": changed} if changed else {}
    return options


def parse_config(options: dict[str, Any], *, where: str = "config") -> RunConfig:
    """Check options and fill in defaults. Raises ConfigError that names each bad key, its value and what is allowed."""
    try:
        return RunConfig.model_validate(options)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(where, dict(problem)) for problem in error.errors())) from error


def _explain(where: str, problem: dict[str, Any]) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown option {key!r}; the options are {', '.join(sorted(RunConfig.model_fields))}."
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not key:
        return f"{where}: {allowed}."
    return f"{where}: {key} = {problem['input']!r} is not allowed; it should be {allowed}."
