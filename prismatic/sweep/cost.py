"""The cost of a study and what it can decide, before anything is trained: runs, steps, time, smallest effect."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import yaml

from prismatic.contract.study_plan import named
from prismatic.errors import ConfigError
from prismatic.runfile.manage import read_facts, summarize
from prismatic.sweep.design import design_lines, smallest_effects
from prismatic.sweep.engines import environment
from prismatic.sweep.plan import Job, Sweep
from prismatic.sweep.runner import last_lines
from prismatic.sweep.study import StudyFile
from prismatic.terminal import format_duration

TRIAL_ROWS = (1, 4)  # logged rows of the shorter and the longer trial


@dataclass(frozen=True)
class Cost:
    """The seconds of a run: to start it, and for each of its steps."""

    start: float
    step: float
    source: str
    """The source of the estimate, in words."""

    def of(self, jobs: Sequence[Job]) -> float:
        """Return the seconds of runs, one after the other."""
        return sum(self.start + self.step * job.config.steps for job in jobs)


def plan_lines(sweep: Sweep, study: StudyFile, *, workers: int | None = None) -> list[str]:
    """Return the lines of `--plan`: the study, its runs by role, its hypotheses, its cost, what it can decide.

    Trains one run for a few steps if none is finished. Raises ConfigError if this fails.
    """
    assert sweep.plan is not None
    steps = sum(job.config.steps for job in sweep.jobs)
    lines = [f"study {sweep.name}: {study.question}".rstrip(": "), *design_lines(sweep)]
    lines += [f"experiment: {named(options) or 'as configured'}" for options in sweep.plan.experiments]
    lines += [f"hypothesis: {hypothesis.sentence}" for hypothesis in sweep.plan.hypotheses]
    lines += [f"{len(sweep.jobs):,} runs of {_range([job.config.steps for job in sweep.jobs])} steps, {steps:,} in all"]
    return [*lines, _time(sweep, study, workers), *smallest_effects(sweep)]


def _time(sweep: Sweep, study: StudyFile, workers: int | None) -> str:
    cost = finished_cost(sweep) or trial_cost(sweep, study)
    missing = [job for job in sweep.jobs if not _is_finished(sweep, job)]
    at_a_time = min(workers or os.cpu_count() or 1, max(1, len(missing)))
    left = cost.of(missing) / at_a_time
    trained = format_duration(cost.step * mean(job.config.steps for job in sweep.jobs))
    starting = f"and {format_duration(cost.start)} of start-up" if cost.start else "plus start-up"
    each = f"{trained} of training {starting}"
    return f"about {format_duration(left)}, {at_a_time} at a time, for {len(missing)} runs of {each}: {cost.source}"


def finished_cost(sweep: Sweep) -> Cost | None:
    """Return the mean cost of the finished runs of a study; None without any."""
    done = [job for job in sweep.jobs if _is_finished(sweep, job)]
    facts = [read_facts(sweep.db_path(job)) for job in done]
    times = [(each.get("started"), each.get("ended")) for each in facts]
    seconds = [float(end - start) for start, end in times if isinstance(start, float) and isinstance(end, float)]
    if not seconds:
        return None
    steps = sum(job.config.steps for job in done)
    return Cost(0.0, sum(seconds) / steps, f"as long as its {len(done)} finished runs trained")


def trial_cost(sweep: Sweep, study: StudyFile) -> Cost:
    """Train the first run for a few steps, twice, and return the cost that follows. Raises ConfigError if it fails."""
    job = sweep.jobs[0]
    found = [job.facts.get(name) for name in ("log_freq", "probe_freq")]
    period = max([1, *(value for value in found if isinstance(value, int))])
    lengths = [min(job.config.steps, 1 + rows * period) for rows in TRIAL_ROWS]
    with tempfile.TemporaryDirectory() as folder:
        seconds = [_train_for(job, study, steps, Path(folder) / str(number)) for number, steps in enumerate(lengths)]
    rate = (seconds[1] - seconds[0]) / max(1, lengths[1] - lengths[0])
    step = max(rate, 0.0)
    source = f"by a trial of one run, {lengths[0]} and {lengths[1]} steps"
    return Cost(max(0.0, mean(seconds) - step * mean(lengths)), step, source)


def _train_for(job: Job, study: StudyFile, steps: int, folder: Path) -> float:
    """Train a run of that many steps in a process of its own, as an engine does, and return its seconds."""
    folder.mkdir()
    config, log = folder / "config.yml", folder / "train.log"
    config.write_text(yaml.safe_dump({**study.config, **job.options, "steps": steps}), encoding="utf-8")
    words = [sys.executable, "-m", "prismatic", "train", "--config", str(config), "--runs", str(folder)]
    started = time.monotonic()
    with log.open("wb") as output:
        code = subprocess.run(
            words,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": "1", **os.environ, **environment()},  # as a pool of one run per core gives each
            check=False,
        ).returncode
    if code:
        raise ConfigError("the trial of one run failed: " + " | ".join(last_lines(log)))
    return time.monotonic() - started


def _is_finished(sweep: Sweep, job: Job) -> bool:
    return summarize(sweep.db_path(job)).status == "finished"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
