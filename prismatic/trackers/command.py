"""The command `prismatic import`: its options, one run folder per run, and its printed report."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from prismatic.errors import TrackerError
from prismatic.trackers.convert import READERS, convert, read_tracked
from prismatic.trackers.mapping import load_mapping
from prismatic.trackers.tracked import TrackedRun


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `import` and its options."""
    command = commands.add_parser("import", help="convert runs from TensorBoard, W&B, trackio or tables to run files")
    add = command.add_argument
    add("source", type=Path, metavar="SOURCE", help="a log folder, an event, .wandb or .db file, or a table")
    add("--map", type=Path, metavar="FILE", help="TOML that maps metric names to our columns; see docs/trackers.md")
    add("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options of the run, as seed=1")
    add("--format", choices=tuple(READERS), help="the format of SOURCE; default: by its name")
    add("--run", dest="only", metavar="NAME", help="import only this run")
    add("--runs", type=Path, default=Path("build/runs"), metavar="DIR", help="folder of the run folders (build/runs)")
    add("--overwrite", action="store_true", help="replace an earlier import")
    add("--dry-run", action="store_true", help="only print what would be imported")
    command.set_defaults(run=run_import)


def run_import(options: argparse.Namespace) -> int:
    """Convert runs, each to a folder of its own, and return 0, or 2 if none could be converted.

    Raises PrismaticError.
    """
    mapping = load_mapping(options.map, options.set)
    try:
        runs = read_tracked(options.source, options.format)
    except ImportError as error:
        raise TrackerError(f"{options.source}: {error}") from error
    chosen = [run for run in runs if options.only in (None, run.name)]
    if not chosen:
        names = ", ".join(run.name for run in runs) or "none"
        raise TrackerError(f"{options.source}: there is no run {options.only!r}; the runs are: {names}.")
    written = 0
    for run, name in zip(chosen, _folders(chosen), strict=True):
        target = None if options.dry_run else options.runs / name / "dynamics.db"
        try:
            report = convert(run, mapping, target, overwrite=options.overwrite)
        except TrackerError as error:
            if len(chosen) == 1:
                raise
            print(f"skipped: {error}", file=sys.stderr)  # for example, an evaluation logged beside the training
            continue
        written += 1
        print("\n".join(report.lines()))
        if target is not None:
            print(f"{target}\n\nRead the verdict:  prismatic check {target}")
    return 0 if written else 2


def _folders(runs: list[TrackedRun]) -> list[str]:
    """Return a different, safe folder name for each run: a tracker's names are untrusted text."""
    names: list[str] = []
    for run in runs:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{run.tracker}-{run.name}").strip(".-")[:80]
        earlier = sum(name == safe or name.startswith(f"{safe}.") for name in names)
        names.append(f"{safe}.{earlier + 1}" if earlier else safe)
    return names
