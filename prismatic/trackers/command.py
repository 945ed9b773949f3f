"""The command `prismatic import`: its options, one run folder per run, and its printed report."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from prismatic.errors import TrackerError
from prismatic.text import printable
from prismatic.trackers.confined import read_confined
from prismatic.trackers.convert import convert
from prismatic.trackers.formats import READERS
from prismatic.trackers.mapping import load_mapping
from prismatic.trackers.report import Report
from prismatic.trackers.tracked import TrackedRun

NAMES_SHOWN, LINE = 8, 2000
FACTS_HELP = "options in the names of runs or files: a pattern with one group, as 'seed=_s([0-9]+)'"
IGNORE_HELP = "names of the tracker's config that say nothing about the experiment"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `import` and its options."""
    command = commands.add_parser("import", help="convert runs of other trackers, or tables, to run files")
    add = command.add_argument
    add("sources", type=Path, nargs="+", metavar="SOURCE", help="log folders or files; see docs/trackers.md")
    add("--map", type=Path, metavar="FILE", help="TOML that maps metric names to our columns; see docs/trackers.md")
    add("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options of the runs, as seed=1")
    add("--facts", nargs="+", action="extend", default=[], metavar="NAME=PATTERN", help=FACTS_HELP)
    add("--ignore", nargs="+", action="extend", default=[], metavar="NAME", help=IGNORE_HELP)
    add("--format", choices=tuple(READERS), help="the format of the sources; default: by their names and content")
    add("--run", dest="only", metavar="NAME", help="import only the run with this name or id")
    add("--runs", type=Path, default=Path("build/runs"), metavar="DIR", help="folder of the run folders (build/runs)")
    add("--overwrite", action="store_true", help="replace an earlier import")
    add("--dry-run", action="store_true", help="only print what would be imported")
    command.set_defaults(run=run_import)


def run_import(options: argparse.Namespace) -> int:
    """Convert runs, each to a folder of its own, and return 0, or 2 if none could be converted.

    Raises PrismaticError.
    """
    mapping = load_mapping(options.map, options.set, options.facts, options.ignore)
    reports: list[Report] = []
    folders: list[str] = []
    for runs in _chosen(options):
        for run in runs:
            folders.append(_folder(run, folders))
            target = None if options.dry_run else options.runs / folders[-1] / "dynamics.db"
            try:
                report = convert(run, mapping, target, overwrite=options.overwrite)
            except TrackerError as error:
                if len(runs) == len(options.sources) == 1:
                    raise
                _say_skipped(error)  # for example, an evaluation logged beside the training
                continue
            _print(report, reports)
            if target is not None:
                print(target, end="\n\n")
            reports.append(report)
    for line in _differences(reports):
        print(line)
    if reports and not options.dry_run:
        print(f"Read the verdict:  prismatic check {options.runs if len(reports) > 1 else target}")
    return 0 if reports else 2


def _chosen(options: argparse.Namespace) -> Iterator[list[TrackedRun]]:
    """Yield the runs of each source that are to be imported. Raises TrackerError if there are none at all."""
    names: list[str] = []
    found = False
    for source in options.sources:
        try:
            runs = read_confined(source, options.format, options.only)
        except TrackerError as error:
            if len(options.sources) == 1:
                raise
            _say_skipped(error)
            continue
        names += [run.name for run in runs]
        if chosen := [run for run in runs if run.is_wanted(options.only)]:
            found = True
            yield chosen
    if not found:
        where = ", ".join(map(str, options.sources[:NAMES_SHOWN]))
        have = ", ".join(names[:NAMES_SHOWN]) or "none"
        raise TrackerError(f"{where}: there is no run {options.only or ''!r}; the runs are: {have}.")


def _print(report: Report, earlier: Sequence[Report]) -> None:
    """Print a report; of many runs of one kind, only the first in full."""
    head, *rest = report.lines()
    alike = bool(earlier) and earlier[-1].lines()[1:] == rest
    print("\n".join(printable(line, LINE) for line in [head, *(["  as the run before"] if alike else rest)]))


def _say_skipped(error: TrackerError) -> None:
    print(f"skipped: {printable(error, LINE)}", file=sys.stderr)


def _differences(reports: Sequence[Report]) -> Iterator[str]:
    """Yield a line if options of the tracker, which the user did not choose, keep the runs from being replicates."""
    names = {name for report in reports for name in report.tracker_options}
    differ = sorted(name for name in names if len({repr(report.tracker_options.get(name)) for report in reports}) > 1)
    if differ:
        more = f" and {len(differ) - NAMES_SHOWN} more" if len(differ) > NAMES_SHOWN else ""
        yield (
            f"The tracker's options {', '.join(differ[:NAMES_SHOWN])}{more} differ between these runs, "
            "which makes them different experiments. If one says nothing about the experiment, "
            f"import with --ignore {differ[0]}"
        )


def _folder(run: TrackedRun, taken: Sequence[str]) -> str:
    """Return a safe name for a run's folder that is not taken: a tracker's names are untrusted text."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{run.tracker}-{run.name}").strip(".-")[:80]
    earlier = sum(name == safe or name.startswith(f"{safe}.") for name in taken)
    return f"{safe}.{earlier + 1}" if earlier else safe
