"""The options of a run of the byte-level model (RunConfig), and reading options from files and --set.

Options are flat, so that the YAML file, `--set name=value`, the `run` table and SQL queries share one name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, FiniteFloat, ValidationError, model_validator

from prismatic.contract.thresholds import Thresholds, read_registration
from prismatic.errors import ConfigError, LoggerError
from prismatic.layer.config import RouterConfig
from prismatic.runfile.manage import read_facts
from prismatic.train.experiment import Experiment, Positive
from prismatic.train.read_yaml import read_yaml

OPTION = "config."  # how the names of facts begin that are options
SQLITE = b"SQLite format 3\x00"  # the first bytes of a run file
Model = TypeVar("Model", bound=BaseModel)


class RunConfig(RouterConfig, Experiment):
    """The options of a training run of the byte-level language model."""

    router_type: Literal["prismatic"] = "prismatic"

    hidden_size: Positive = 96
    num_layers: Positive = 2
    num_heads: Positive = 4
    sequence_length: Annotated[int, Field(ge=2)] = 96

    batch_size: Positive = 8
    learning_rate: Annotated[FiniteFloat, Field(gt=0)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Clip the whole gradient to this norm, after logging it."""

    histogram_freq: Annotated[int, Field(ge=0)] = 0
    """Steps between histograms of each tier's gradient entries; 0 is never."""
    weight_freq: Annotated[int, Field(ge=0)] = 100
    """Steps between comparisons of the experts' weights; 0 is never."""

    @model_validator(mode="after")
    def _heads_divide_hidden_size(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}")
        return self

    @property
    def text_length(self) -> int:
        """A sequence and its next byte."""
        return self.sequence_length + 1

    @property
    def causal(self) -> bool:
        """False if routing on the mean of a whole sequence, or of a whole batch, lets a position see later ones."""
        return self.routing == "frozen" or (self.router_input == "first" and self.merge == "example")


def load_config(path: Path | None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read the options of a run of the byte-level model, see `overridden_options` and `parse_config`."""
    return parse_config(overridden_options(path, overrides), where=str(path or "--set"))


def overridden_options(path: Path | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Return the options in a file, or none, with `name=value` overrides, whose values are read as YAML, unchecked.

    path: a YAML file, or the run file of a training, whose options are used again. Raises ConfigError for a file that
    is neither, or an override without "=".
    """
    options = read_options(path) if path else {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected name=value, such as --set perturbation_scale=2.0.")
        try:
            options[name.strip()] = read_yaml(value, where=f"--set {name.strip()}")
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value cannot be read as YAML ({error}).") from error
    return options


def read_options(path: Path) -> dict[str, Any]:
    """Return the options in a YAML file, or those that a run file recorded, unchecked. Raises ConfigError."""
    try:
        content = Path(path).read_bytes()
        if content.startswith(SQLITE):
            return _recorded_options(path)
        options = read_yaml(content.decode("utf-8"), where=str(path))
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
    prefix = "option." if "option.trainer" in facts else OPTION  # of a program of the user's own
    options = {key.removeprefix(prefix): value for key, value in facts.items() if key.startswith(prefix)}
    if options.get("router_type") != "prismatic" and "trainer" not in options:
        raise ConfigError(f"{path}: this run was not trained by `prismatic train`. Use a YAML file of options.")
    registered = read_registration(facts)
    if registered is not None and registered.thresholds is not None:
        defaults = asdict(Thresholds())
        changed = {name: v for name, v in asdict(registered.thresholds).items() if v != defaults[name]}
        options |= {"thresholds": changed} if changed else {}
    return options


def parse_config(options: dict[str, Any], *, where: str = "config") -> RunConfig:
    """Check options of the byte-level model and fill in defaults, see `validated`."""
    return validated(RunConfig, options, where=where)


def validated(model: type[Model], options: dict[str, Any], *, where: str) -> Model:
    """Check options and fill in defaults. Raises ConfigError that names each bad key, its value and what is allowed."""
    misplaced = [*_misplaced_truth_values(model, options)]
    problems = [
        f"{where}: {name} = {options[name]!r} is not allowed: YAML reads yes, no, on, off, true and false as truth "
        "values. Write a number, or a text in quotes."
        for name in misplaced
    ]
    try:
        checked = model.model_validate(options)
    except ValidationError as error:
        others = [problem for problem in error.errors() if not {*problem["loc"][:1]} & {*misplaced}]
        problems += [_explain(model, where, dict(problem)) for problem in others]
    if problems:
        raise ConfigError("\n".join(problems))
    return checked


def _misplaced_truth_values(model: type[BaseModel], options: dict[str, Any]) -> Iterator[str]:
    """Yield the options with a truth value in place of a number, for which pydantic would take it, or of a text."""
    for name, value in options.items():
        field = model.model_fields.get(name)
        if field is not None and _holds_truth_value(value) and not _takes_truth_value(field.annotation):
            yield name


def _holds_truth_value(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, bool) or any(map(_holds_truth_value, inner))


def _takes_truth_value(annotation: Any) -> bool:
    """Return whether a truth value is allowed anywhere in a value of this type; a model checks its own."""
    if annotation in (bool, Any) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return True
    return any(map(_takes_truth_value, get_args(annotation)))


def _explain(model: type[BaseModel], where: str, problem: dict[str, Any]) -> str:
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown option {key!r}; the options are {', '.join(sorted(model.model_fields))}."
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not key:
        return f"{where}: {allowed}."
    return f"{where}: {key} = {problem['input']!r} is not allowed; it should be {allowed}."
