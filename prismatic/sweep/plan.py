"""Which runs: every combination of the values that --grid names, and the controls that a verdict needs beside them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from prismatic.contract.thresholds import SHAM_SCALE
from prismatic.errors import ConfigError
from prismatic.train.config import RunConfig, load_config, parse_config
from prismatic.train.corpus import Corpus

MOST_RUNS = 100_000
RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
SCALE, SEED, POSITIVE = "perturbation_scale", "seed", "positive_control"
POSITIVE_GAIN = 1.5

Values = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    run_hash: str
    options: Values
    """What differs from the other runs, by name."""
    config: RunConfig

    def __str__(self) -> str:
        return " ".join(f"{name}={shown(value)}" for name, value in self.options.items()) or "as configured"


@dataclass(frozen=True)
class Sweep:
    """What is to be trained. `command` is the unit: any of its runs can be had by hand."""

    jobs: tuple[Job, ...]
    runs: Path
    config: Path | None
    overrides: tuple[str, ...] = ()
    data: Path | None = None
    checkpoint_freq: int = 500

    @cached_property
    def name(self) -> str:
        """Nine hex digits that stand for its runs, whatever their order."""
        return hashlib.sha256("".join(sorted(job.run_hash for job in self.jobs)).encode()).hexdigest()[:9]

    @property
    def folder(self) -> Path:
        """Where the sweep keeps what is not of one run."""
        return self.runs / "sweeps" / self.name

    def db_path(self, job: Job) -> Path:
        """Where the run file is, or will be."""
        return self.runs / job.run_hash / "dynamics.db"

    def command(self, job: Job) -> list[str]:
        """The training command of one run, from `train` on."""
        options = [*self.overrides, *(f"{name}={shown(value)}" for name, value in job.options.items())]
        words = ["train", *(["--config", str(self.config)] if self.config else [])]
        words += ["--set", *options] if options else []
        words += ["--data", str(self.data)] if self.data else []
        words += ["--runs", str(self.runs), "--resume", "allow"]
        return [*words, *(["--checkpoint-freq", str(self.checkpoint_freq)] if self.checkpoint_freq != 500 else [])]

    def frozen(self) -> Sweep:
        """The same sweep by a copy of its config: what is edited while it runs changes none of its runs."""
        if self.config is None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        copy = self.folder / "config.yml"
        copy.write_bytes(self.config.read_bytes())
        return replace(self, config=copy)


def plan(
    config: Path | None,
    grid: Sequence[str],
    *,
    overrides: Sequence[str] = (),
    data: Path | None = None,
    runs: Path = Path("build/runs"),
    with_controls: bool = False,
    checkpoint_freq: int = 500,
) -> Sweep:
    """The sweep over every combination of `NAME=VALUES`, the last name changing fastest, then the controls.

    Every run is checked before any is trained: raises ConfigError for a grid that names no option, no value or a value
    twice, or values that cannot be; CorpusError for text that cannot be read.
    """
    base = load_config(config, overrides)
    if data is not None:
        base = base.model_copy(update={"data": data})
    axes = _axes(grid, {override.partition("=")[0].strip() for override in overrides}, data is not None)
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_RUNS:
        raise ConfigError(f"--grid: these are {count:,} runs; at most {MOST_RUNS:,} can be one sweep.")
    corpora = _Corpora()
    jobs = [corpora.job(base, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    if with_controls:
        jobs += _controls(base, jobs, corpora)
    _require_different(jobs)
    return Sweep(tuple(jobs), runs, config, tuple(overrides), data, checkpoint_freq)


def _axes(grid: Sequence[str], overridden: set[str], has_data: bool) -> dict[str, list[Any]]:
    """The values of each option."""
    axes: dict[str, list[Any]] = {}
    for given in grid:
        name, equals, text = given.partition("=")
        name = name.strip()
        if not equals:
            raise ConfigError(f"--grid {given}: expected NAME=VALUES, such as --grid perturbation_scale=0,0.5,1,2.")
        if name in axes:
            raise ConfigError(f"--grid {name}: is there twice; give all of its values at once.")
        if name in overridden or (name == "data" and has_data):
            option = "--data" if name == "data" and has_data else f"--set {name}"
            raise ConfigError(f"--grid {name}: has one value by {option} already; leave one of them out.")
        axes[name] = _values(given, text)
    return axes


def _values(given: str, text: str) -> list[Any]:
    """Values with commas between them, read as YAML; `0..4` are the integers from 0 to 4."""
    try:
        read = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise ConfigError(f"--grid {given}: the values cannot be read as YAML ({error}).") from error
    if not read:
        raise ConfigError(f"--grid {given}: there is no value; expected such as --grid seed=0..4.")
    return list(itertools.chain(*(_expanded(given, value) for value in read)))


def _expanded(given: str, value: Any) -> Iterable[Any]:
    match = RANGE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        return [value]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MOST_RUNS:
        raise ConfigError(f"--grid {given}: {value} holds no value, or more than {MOST_RUNS:,}; 0..4 is 0, 1, 2, 3, 4.")
    return range(first, last + 1)


class _Corpora:
    """Makes jobs; each text is read once."""

    def __init__(self) -> None:
        self._sha256: dict[Path | None, str] = {}

    def job(self, base: RunConfig, options: Values) -> Job:
        """The run with these options. Raises ConfigError, CorpusError."""
        where = "--grid " + " ".join(f"{name}={shown(value)}" for name, value in options.items())
        config = parse_config({**base.model_dump(), **options}, where=where) if options else base
        if config.data not in self._sha256:
            corpus = Corpus.load(config.data)
            corpus.require(config.sequence_length + 1)
            self._sha256[config.data] = corpus.sha256
        return Job(config.run_hash(self._sha256[config.data]), options, config)


def _controls(base: RunConfig, jobs: Sequence[Job], corpora: _Corpora) -> Iterator[Job]:
    """Of each experiment and seed, a run in which nothing is perturbed and one whose effect is put in by hand.

    Those that the grid holds already are not added. The artificial yes is made at the smallest scale that perturbs.
    """
    families: dict[str, dict[int, list[Job]]] = {}
    for job in jobs:
        facts = job.config.facts()
        alike = json.dumps({name: value for name, value in facts.items() if name not in (SCALE, SEED, POSITIVE)})
        families.setdefault(alike, {}).setdefault(job.config.seed, []).append(job)
    for seed_jobs in (some for by_seed in families.values() for some in by_seed.values()):
        plain = [job for job in seed_jobs if job.config.positive_control == 1.0]
        treated = [job for job in plain if job.config.perturbation_scale > SHAM_SCALE]
        if treated and len(treated) == len(plain):
            yield corpora.job(base, treated[0].options | {SCALE: 0.0})
        if treated and len(plain) == len(seed_jobs):
            least = min(treated, key=lambda job: job.config.perturbation_scale)
            yield corpora.job(base, least.options | {POSITIVE: POSITIVE_GAIN})


def _require_different(jobs: Sequence[Job]) -> None:
    known: dict[str, Job] = {}
    for job in jobs:
        twin = known.setdefault(job.run_hash, job)
        if twin is not job:
            raise ConfigError(f"--grid: {twin} and {job} are the same run; give each value once.")


def shown(value: Any) -> str:
    """A value as `--set` reads it: the plain word where YAML takes that for the same value, else as JSON."""
    text = str(value)
    if isinstance(value, Path) or (isinstance(value, str) and not re.search(r"[\s,'\"]", text)):
        try:
            if yaml.safe_load(text) == text:
                return text
        except yaml.YAMLError:
            pass
    if isinstance(value, float):
        return str(yaml.safe_dump(value)).splitlines()[0]  # a float without a point, such as 1e-07, is a text to YAML
    return json.dumps(text if isinstance(value, Path) else value, default=str)
