"""python -m prismatic sweep: plan, train, judge."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from prismatic.errors import ConfigError
from prismatic.sweep import judge as verdict
from prismatic.sweep.engines import Engine, Local, OnRay, OnSlurm
from prismatic.sweep.plan import Sweep, plan
from prismatic.sweep.progress import Progress
from prismatic.sweep.runner import conduct, report

INTERRUPTED = 130


def run(options: argparse.Namespace) -> int:
    """The whole sweep; returns the exit code. Raises ConfigError, CorpusError, SweepError before any run is trained."""
    if (options.workers is not None and options.workers < 1) or options.retries < 0:
        raise ConfigError("--workers must be at least 1, and --retries at least 0.")
    sweep = plan(
        options.config,
        options.grid,
        overrides=options.set,
        data=options.data,
        runs=options.runs,
        with_controls=options.with_controls,
        checkpoint_freq=max(0, options.checkpoint_freq),
    )
    if options.dry_run:
        for job in sweep.jobs:
            print(shlex.join(["python", "-m", "prismatic", *sweep.command(job)]))
        return 0
    engine = _engine(options, sweep)
    progress = Progress()
    progress.say(f"sweep {sweep.name}: {len(sweep.jobs)} runs, in {sweep.runs}")
    try:
        outcome = conduct(sweep.frozen(), engine, progress, retries=options.retries)
    except KeyboardInterrupt:
        print("interrupted; what was logged is kept. The same command goes on: finished runs are not trained again.")
        return INTERRUPTED
    for line in report(outcome):
        print(line)
    together = verdict.judge(sweep, outcome.finished) if outcome.finished else None
    if together:
        print(f"\nThe runs as one set: {together}")
        print(f"The verdict as a page of its own: python -m validation report {together} -o verdict.html")
    if outcome.failed:
        count = f"{len(outcome.failed)} of {len(sweep.jobs)} runs failed"
        print(f"\n{count}, see above; the same command tries them again.")
    return 1 if outcome.failed else 0


def _engine(options: argparse.Namespace, sweep: Sweep) -> Engine:
    if options.engine == "ray":
        return OnRay(options.address, options.workers, cpus=options.cpus, gpus=options.gpus)
    if options.engine == "slurm":
        folder = sweep.folder.absolute() / "slurm"
        return OnSlurm(folder, options.workers, address=options.address, settings=_settings(options.slurm))
    on_cpu = all(job.config.device == "cpu" for job in sweep.jobs)
    return Local(options.workers or (os.cpu_count() or 1 if on_cpu else 1))


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """`name=value` as submitit takes them. Raises ConfigError."""
    pairs = [setting.partition("=") for setting in given]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        raise ConfigError(f"--slurm {wrong[0]}: expected NAME=VALUE, such as --slurm timeout_min=120.")
    return {name: yaml.safe_load(value) for name, _, value in pairs}
