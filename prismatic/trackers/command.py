"""python -m prismatic import"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from prismatic.errors import TrackerError
from prismatic.trackers.convert import READERS, convert, read_tracked
from prismatic.trackers.mapping import load_mapping
from prismatic.trackers.tracked import Tracked


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    command = commands.add_parser("import", help="make run files of what TensorBoard, W&B or trackio has logged")
    add = command.add_argument
    add("source", type=Path, metavar="SOURCE", help="a log folder, an event, .wandb or .db file, or a table")
    add("--map", type=Path, metavar="FILE", help="TOML: which of their names is which of ours; see docs/trackers.md")
    add("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options of the run, as seed=1")
    add("--format", choices=tuple(READERS), help="what SOURCE is; default: told by its name")
    add("--run", dest="only", metavar="NAME", help="only this one of several runs")
    add("--runs", type=Path, default=Path("build/runs"), metavar="DIR", help="where run folders are made")
    add("--overwrite", action="store_true", help="replace an earlier import")
    add("--dry-run", action="store_true", help="only tell what would be taken")
    command.set_defaults(run=run_import)


def run_import(options: argparse.Namespace) -> int:
    """Convert every run, one folder each; returns 0, or raises a PrismaticError."""
    mapping = load_mapping(options.map, options.set)
    try:
        runs = read_tracked(options.source, options.format)
    except ImportError as error:
        raise TrackerError(f"{options.source}: {error}") from error
    wanted = options.only
    chosen = [run for run in runs if wanted in (None, run.name)]
    if not chosen:
        raise TrackerError(
            f"{options.source}: no run {wanted!r}; there are {', '.join(run.name for run in runs) or 'none'}."
        )
    written = 0
    for run, name in zip(chosen, _folders(chosen), strict=True):
        target = None if options.dry_run else options.runs / name / "dynamics.db"
        try:
            report = convert(run, mapping, target, overwrite=options.overwrite)
        except TrackerError as error:
            if len(chosen) == 1:
                raise
            print(f"left out: {error}", file=sys.stderr)  # such as an evaluation that is logged beside the training
            continue
        written += 1
        print("\n".join(report.lines()))
        if target is not None:
            print(f"{target}\n\nRead the verdict:  python -m validation check {target}")
    return 0 if written else 2


def _folders(runs: list[Tracked]) -> list[str]:
    """A folder's name for each run, different ones: names of trackers are data and may be any text."""
    names: list[str] = []
    for run in runs:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{run.tracker}-{run.name}").strip(".-")[:80]
        taken = sum(name == plain or name.startswith(f"{plain}.") for name in names)
        names.append(f"{plain}.{taken + 1}" if taken else plain)
    return names
