"""The command `prismatic study`: train the runs of a study file, judge them as they registered, write one report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prismatic.sweep.command import INTERRUPTED, add_engine_options, check_engine_options, report_failed, train_all

if TYPE_CHECKING:
    from prismatic.sweep.plan import Sweep
    from prismatic.sweep.runner import Outcome


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `study` and its options."""
    study = commands.add_parser(
        "study",
        help="train all runs of a study file, judge its registered hypotheses, and write one report",
        epilog="exit codes: 0 all runs are finished and judged, 1 some are not, 2 unusable options or file, 5 the runs "
        "registered other hypotheses or thresholds than the file or belong to another study, 130 interrupted",
    )
    add = study.add_argument
    add("file", type=Path, metavar="FILE", help="the study as YAML: docs/studies.md explains it")
    add("--plan", action="store_true", help="print what the study costs and can decide, and train nothing else")
    add("--runs", type=Path, metavar="DIR", help="folder of the run folders and of the report (build/runs/NAME)")
    add("--checkpoint-freq", type=int, default=500, metavar="N", help="steps between checkpoints, 0 for none (500)")
    add_engine_options(study)
    study.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run a study and return the exit code.

    Raises ConfigError, CorpusError, SweepError or StudyError before any run is trained.
    """
    # Imported here because pydantic and torch take seconds, and `--help` must not wait for them.
    from prismatic.sweep.cost import plan_lines
    from prismatic.sweep.study import load_study, plan_study, require_own_folder, require_registered, write_config

    check_engine_options(options)
    study = load_study(options.file)
    sweep = plan_study(study, options.runs, checkpoint_freq=max(0, options.checkpoint_freq))
    require_registered(sweep)
    require_own_folder(sweep)
    if options.plan:
        print("\n".join(plan_lines(sweep, study, workers=options.workers)))
        return 0
    write_config(study, sweep)
    outcome = train_all(sweep, options, "study")
    return INTERRUPTED if outcome is None else _report(sweep, outcome)


def _report(sweep: Sweep, outcome: Outcome) -> int:
    """Judge the finished runs, write the report of the study and return its exit code."""
    from prismatic.sweep.judge import judge, report

    run_set = judge(sweep, outcome.finished) if outcome.finished else None
    written = report(sweep, run_set) if run_set else []
    if run_set and written:
        print(
            f"\nThe report of the study: {written[0]}\nThe same as JSON: {written[-1]}\nIts runs as one set: {run_set}"
        )
    code = report_failed(sweep, outcome)
    return code or int(len(written) < 2)
