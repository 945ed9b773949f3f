"""The runs of a sweep or a study: all combinations of values, and the sham runs and positive controls they need."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from prismatic.contract.study import Study
from prismatic.contract.study_plan import StudyPlan
from prismatic.contract.thresholds import SHAM_SCALE, Thresholds
from prismatic.errors import ConfigError
from prismatic.train.config import overridden_options, read_options
from prismatic.train.experiment import Experiment
from prismatic.train.trainers import load_corpus, parse

MAX_RUNS = 100_000
RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
SCALE, SEED, POSITIVE = "perturbation_scale", "seed", "positive_control"
POSITIVE_GAIN = 1.5
FEWEST_SEEDS = int(Thresholds().min_seeds)
"""Fewer seeds decide nothing: with five, 6 % of runs without any effect would be called divergent."""

SHAM, POSITIVE_CONTROL = "sham", "positive"
CONTROLS = (SHAM, POSITIVE_CONTROL)

Values = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A run of a sweep."""

    run_hash: str
    options: Values
    """The options in which the runs of the sweep differ, by name."""
    config: Experiment

    @property
    def facts(self) -> dict[str, Any]:
        """All options of the run as JSON values."""
        return self.config.facts()

    def __str__(self) -> str:
        return " ".join(f"{name}={format_value(value)}" for name, value in self.options.items()) or "as configured"


@dataclass(frozen=True)
class Sweep:
    """The planned runs of a sweep or a study. `command` gives the plain training command of each."""

    jobs: tuple[Job, ...]
    runs: Path
    config: Path | None
    overrides: tuple[str, ...] = ()
    data: Path | None = None
    checkpoint_freq: int = 500
    plan: StudyPlan | None = None
    """The plan of a named study; None of a sweep."""

    @cached_property
    def study(self) -> Study:
        """The plan that each run registers: the seeds of every experiment, and the hash of all runs, in any order."""
        digest = hashlib.sha256("".join(sorted(job.run_hash for job in self.jobs)).encode()).hexdigest()
        return Study(tuple(sorted({job.config.seed for job in self.jobs})), len(self.jobs), digest, self.plan)

    @property
    def name(self) -> str:
        """The name of the study; of a sweep the nine hex digits that identify the set of runs."""
        return self.study.sha256[:9] if self.plan is None else self.plan.name

    @property
    def folder(self) -> Path:
        """The folder of the sweep's own files: the set, the copied config, Slurm's logs, the report of a study."""
        return self.runs / "sweeps" / self.name if self.plan is None else self.runs / "study"

    @property
    def plan_file(self) -> Path | None:
        """The file from which each run reads the plan of a study that it registers; None of a sweep."""
        return None if self.plan is None else self.folder / "plan.json"

    def db_path(self, job: Job) -> Path:
        """Return the path of a job's run file, which may not exist yet."""
        return self.runs / job.run_hash / "dynamics.db"

    def command(self, job: Job) -> list[str]:
        """Return the training command of one run, from `train` on."""
        options = [*self.overrides, *(f"{name}={format_value(value)}" for name, value in job.options.items())]
        words = ["train", *(["--config", str(self.config)] if self.config else [])]
        words += ["--set", *options] if options else []
        words += ["--data", str(self.data)] if self.data else []
        words += ["--runs", str(self.runs), "--resume", "allow"]
        words += ["--checkpoint-freq", str(self.checkpoint_freq)] if self.checkpoint_freq != 500 else []
        return [*words, "--study", *self.study.words(self.plan_file)]

    def with_copied_config(self) -> Sweep:
        """Return the same sweep with a copy of its config as YAML, so that later edits of the file change no run.

        Of a study, write its plan instead; its config is a file of its own already.
        """
        if self.plan is not None and self.plan_file is not None:
            self.plan_file.write_text(self.plan.text + "\n", encoding="utf-8")
            return self
        if self.config is None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        copy = self.folder / "config.yml"
        copy.write_text(yaml.safe_dump(read_options(self.config), sort_keys=False), encoding="utf-8")
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
    """Return a sweep over all combinations of `NAME=VALUES`, the last name changing fastest, then the controls.

    with_controls: also plan FEWEST_SEEDS seeds where neither the grid nor the overrides name any. All runs are checked
    here, before any is trained. Raises ConfigError for an unknown option, a missing, repeated or
    invalid value, and CorpusError for an unreadable text.
    """
    overridden = {override.partition("=")[0].strip() for override in overrides}
    axes = _axes(grid, overridden, data is not None)
    first = {name: values[0] for name, values in axes.items()}  # a program's command may need an option that varies
    base = parse({**overridden_options(config, overrides), **first}, where=str(config or "--set"))
    if data is not None:
        base = base.model_copy(update={"data": data})
    if with_controls and SEED not in {*axes, *overridden}:
        axes[SEED] = [*range(FEWEST_SEEDS)]
    jobs = jobs_of(base, axes, CONTROLS if with_controls else ())
    return Sweep(jobs, runs, config, tuple(overrides), data, checkpoint_freq)


def jobs_of(base: Experiment, axes: Mapping[str, Sequence[Any]], controls: Sequence[str]) -> tuple[Job, ...]:
    """Return a run for each combination of the values of `axes`, the last name changing fastest, then the controls.

    controls: some of CONTROLS. Raises ConfigError and CorpusError for a run that cannot be trained, or is there twice.
    """
    count = math.prod(len(values) for values in axes.values())
    if count > MAX_RUNS:
        raise ConfigError(f"--grid: these are {count:,} runs; at most {MAX_RUNS:,} can be one sweep.")
    make = _JobFactory()
    jobs = [make.job(base, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    if controls:
        jobs += _controls(base, jobs, make, controls)
    _require_different(jobs)
    return tuple(jobs)


def _axes(grid: Sequence[str], overridden: set[str], has_data: bool) -> dict[str, list[Any]]:
    """Return the values of each option of the grid."""
    axes: dict[str, list[Any]] = {}
    for given in grid:
        name, equals, text = given.partition("=")
        name = name.strip()
        if not equals:
            raise ConfigError(f"--grid {given}: expected NAME=VALUES, such as --grid perturbation_scale=0,0.5,1,2.")
        if name in axes:
            raise ConfigError(f"--grid {name} is given twice; give all of its values at once.")
        if name in overridden or (name == "data" and has_data):
            option = "--data" if name == "data" and has_data else f"--set {name}"
            raise ConfigError(f"--grid {name} already has one value by {option}; remove one of the two.")
        axes[name] = _values(given, text)
    return axes


def _values(given: str, text: str) -> list[Any]:
    """Return comma-separated values read as YAML; `0..4` stands for the integers from 0 to 4."""
    try:
        read = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise ConfigError(f"--grid {given}: the values cannot be read as YAML ({error}).") from error
    if not read:
        raise ConfigError(f"--grid {given}: there is no value; expected some, such as --grid seed=0..5.")
    return list(itertools.chain(*(expand_range(given, value) for value in read)))


def expand_range(given: str, value: Any) -> Iterable[Any]:
    """Return the integers from the first to the last of a text such as 0..4, and any other value alone.

    given: what an error names. Raises ConfigError for a range without a value, or with too many.
    """
    match = RANGE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        return [value]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_RUNS:
        raise ConfigError(f"--grid {given}: {value} has no value or more than {MAX_RUNS:,}; 0..4 means 0, 1, 2, 3, 4.")
    return range(first, last + 1)


class _JobFactory:
    """Makes jobs, and reads each corpus only once."""

    def __init__(self) -> None:
        self._sha256: dict[Path | None, str] = {}

    def job(self, base: Experiment, options: Values) -> Job:
        """Return the run with these options. Raises ConfigError, CorpusError."""
        where = "--grid " + " ".join(f"{name}={format_value(value)}" for name, value in options.items())
        config = parse({**base.model_dump(), **options}, where=where) if options else base
        if config.data not in self._sha256:
            corpus = load_corpus(config)
            self._sha256[config.data] = corpus.sha256 if corpus is not None else ""
        return Job(config.run_hash(self._sha256[config.data]), options, config)


def _controls(base: Experiment, jobs: Sequence[Job], make: _JobFactory, controls: Sequence[str]) -> Iterator[Job]:
    """Yield a sham run and a positive control for each experiment and seed, unless the grid has them already.

    The sham run is the twin of every treated run of that experiment and seed: the other options are the same.

    The positive control has the smallest perturbation scale of the treated runs. Raises ConfigError if the trainer has
    no option that makes a control.
    """
    for control, option in ((SHAM, SCALE), (POSITIVE_CONTROL, POSITIVE)):
        if control in controls and option not in base.facts():
            raise ConfigError(f"controls: {control} needs the option {option}, which this trainer does not have.")
    experiments: dict[str, dict[int, list[Job]]] = {}
    for job in jobs:
        facts = job.facts
        experiment = json.dumps({name: value for name, value in facts.items() if name not in (SCALE, SEED, POSITIVE)})
        experiments.setdefault(experiment, {}).setdefault(job.config.seed, []).append(job)
    for seed_jobs in (group for by_seed in experiments.values() for group in by_seed.values()):
        plain = [job for job in seed_jobs if job.facts.get(POSITIVE, 1.0) == 1.0]
        treated = [job for job in plain if job.facts[SCALE] > SHAM_SCALE]
        if SHAM in controls and treated and len(treated) == len(plain):
            yield make.job(base, treated[0].options | {SCALE: 0.0})
        if POSITIVE_CONTROL in controls and treated and len(plain) == len(seed_jobs):
            smallest = min(treated, key=lambda job: job.facts[SCALE])
            yield make.job(base, smallest.options | {POSITIVE: POSITIVE_GAIN})


def _require_different(jobs: Sequence[Job]) -> None:
    known: dict[str, Job] = {}
    for job in jobs:
        first = known.setdefault(job.run_hash, job)
        if first is not job:
            raise ConfigError(f"--grid: {first} and {job} are the same run; give each value once.")


def format_value(value: Any) -> str:
    """Return a value as a word that `--set` reads as the same value: unquoted where YAML allows it, else as JSON."""
    text = str(value)
    if isinstance(value, Path) or (isinstance(value, str) and not re.search(r"[\s,'\"]", text)):
        try:
            if yaml.safe_load(text) == text:
                return text
        except yaml.YAMLError:
            pass
    if isinstance(value, float):
        return str(yaml.safe_dump(value)).splitlines()[0]  # JSON's 1e-07, without a point, would be a string in YAML
    return json.dumps(text if isinstance(value, Path) else value, default=str)
