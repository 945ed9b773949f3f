"""The command `prismatic sweep`: plan the runs, train them on an engine, judge them together.

It is the short form of `prismatic study`, which registers hypotheses as well and writes a report.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prismatic.errors import ConfigError
from prismatic.train.command import run_options

if TYPE_CHECKING:
    from prismatic.sweep.engines import Engine
    from prismatic.sweep.plan import Sweep
    from prismatic.sweep.runner import Outcome

INTERRUPTED = 130
CONTINUES = "interrupted; what was logged is kept. The same command continues; finished runs are not trained again."


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `sweep` and its options."""

    sweep = commands.add_parser(
        "sweep",
        parents=[run_options()],
        help="train every combination of options, and judge the runs together",
        epilog="exit codes: 0 all runs are finished, 1 some are not, 2 unusable options, 130 interrupted",
    )
    add = sweep.add_argument
    add(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUES",
        help="values of an option, such as perturbation_scale=0.5,1,2 or seed=0..5",
    )
    add(
        "--with-controls",
        action="store_true",
        help="also train the sham runs and positive controls, with the same seeds, that a verdict needs; six seeds "
        "if --grid has none",
    )
    add("--dry-run", action="store_true", help="print the training commands without running them")
    add_engine_options(sweep)
    sweep.set_defaults(run=run)


def add_engine_options(command: argparse.ArgumentParser) -> None:
    """Add the options that say where runs are trained, and how often a failed one is tried again."""
    add = command.add_argument
    add("--retries", type=int, default=1, metavar="N", help="how often a failed run is tried again (1)")
    add(
        "--engine",
        choices=("local", "ray", "slurm"),
        default="local",
        help="where to train: a pool of processes here, a Ray cluster, or Slurm (default: local)",
    )
    add(
        "--address",
        help="Ray: ray://HOST:PORT, HOST:PORT, auto or local. Slurm: local tries the same jobs on this machine",
    )
    add("--workers", type=int, metavar="N", help="runs at a time (local: one per core; Ray and Slurm: no limit)")
    add("--cpus", type=float, default=1, metavar="N", help="Ray: cores for each run (1)")
    add("--gpus", type=float, default=0, metavar="N", help="Ray: devices for each run (0)")
    add(
        "--slurm",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="submitit's parameters, such as timeout_min=120 gpus_per_node=1 slurm_partition=long",
    )


def run(options: argparse.Namespace) -> int:
    """Run a sweep and return the exit code.

    Raises ConfigError, CorpusError or SweepError before any run is trained.
    """
    # Imported here because pydantic and torch take seconds, and `--help` must not wait for them.
    from prismatic.sweep.design import design_lines
    from prismatic.sweep.plan import plan

    check_engine_options(options)
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
        print("\n".join(design_lines(sweep)), file=sys.stderr)
        for job in sweep.jobs:
            print(shlex.join(["prismatic", *sweep.command(job)]))
        return 0
    outcome = train_all(sweep, options, "sweep")
    return INTERRUPTED if outcome is None else _judge(sweep, outcome)


def check_engine_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for numbers that no engine can use."""
    if (options.workers is not None and options.workers < 1) or options.retries < 0:
        raise ConfigError("--workers must be at least 1, and --retries at least 0.")


def train_all(sweep: Sweep, options: argparse.Namespace, kind: str) -> Outcome | None:
    """Train the runs on the engine of the options and print what happens; None if the user interrupts it."""
    from prismatic.sweep.design import design_lines
    from prismatic.sweep.progress import Progress
    from prismatic.sweep.runner import failure_lines, run_sweep

    engine = _engine(options, sweep)
    progress = Progress()
    for line in (f"{kind} {sweep.name}: {len(sweep.jobs)} runs, in {sweep.runs}", *design_lines(sweep)):
        progress.print(line)
    try:
        outcome = run_sweep(sweep.with_copied_config(), engine, progress, retries=options.retries)
    except KeyboardInterrupt:
        print(CONTINUES)
        return None
    for line in failure_lines(outcome):
        print(line)
    return outcome


def _judge(sweep: Sweep, outcome: Outcome) -> int:
    """Print the verdict on the finished runs and return the exit code of the sweep."""
    from prismatic.sweep.judge import judge

    run_set = judge(sweep, outcome.finished) if outcome.finished else None
    if run_set:
        print(f"\nThe runs as one set: {run_set}")
        print(f"For the verdict as a page: prismatic report {run_set} -o verdict.html")
    return report_failed(sweep, outcome)


def report_failed(sweep: Sweep, outcome: Outcome) -> int:
    """Print how many runs failed, and return the exit code: 1 if any did."""
    if outcome.failed:
        count = f"{len(outcome.failed)} of {len(sweep.jobs)} runs failed"
        print(f"\n{count}, see above; the same command tries them again.")
    return 1 if outcome.failed else 0


def _engine(options: argparse.Namespace, sweep: Sweep) -> Engine:
    from prismatic.sweep.engines import Local, OnRay, OnSlurm

    if options.engine == "ray":
        return OnRay(options.address, options.workers, cpus=options.cpus, gpus=options.gpus)
    if options.engine == "slurm":
        folder = sweep.folder.absolute() / "slurm"
        return OnSlurm(folder, options.workers, address=options.address, settings=_settings(options.slurm))
    on_cpu = all(job.config.device == "cpu" for job in sweep.jobs)
    return Local(options.workers or (os.cpu_count() or 1 if on_cpu else 1))


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """Return `NAME=VALUE` words as submitit's parameters. Raises ConfigError for a word without a value."""
    import yaml

    pairs = [setting.partition("=") for setting in given]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        raise ConfigError(f"--slurm {wrong[0]}: expected NAME=VALUE, such as --slurm timeout_min=120.")
    return {name: yaml.safe_load(value) for name, _, value in pairs}
