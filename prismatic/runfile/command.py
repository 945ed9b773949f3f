"""The commands `prismatic runs`, `snapshot`, `migrate` and `schema`: list, copy, upgrade and describe run files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prismatic.text import printable

if TYPE_CHECKING:
    from prismatic.runfile.manage import RunSummary

RUN_HELP = "a run file, its folder, or a run's hash"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the four commands and their options."""
    runs = commands.add_parser("runs", help="list runs with their status, steps and last update")
    runs.add_argument("folder", nargs="?", type=Path, default=Path("build/runs"), help="default: build/runs")
    runs.add_argument("--json", action="store_true", help="print them as a JSON list")
    runs.set_defaults(run=_runs)

    snapshot = commands.add_parser("snapshot", help="copy a run that is training to one complete file, for an upload")
    snapshot.add_argument("which", metavar="RUN", help=RUN_HELP)
    snapshot.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: RUN-step-N.db, here")
    snapshot.add_argument("--overwrite", action="store_true", help="replace FILE")
    snapshot.set_defaults(run=_snapshot)

    migrate = commands.add_parser("migrate", help="upgrade run files of earlier schema versions; originals are kept")
    migrate.add_argument("which", nargs="+", metavar="RUN", help=RUN_HELP)
    migrate.set_defaults(run=_migrate)

    schema = commands.add_parser("schema", help="print the tables, columns and units of a run file")
    schema.set_defaults(run=_schema)


def _runs(options: argparse.Namespace) -> int:
    from prismatic.runfile.manage import list_runs
    from prismatic.terminal import print_out, table

    found = list_runs(options.folder)
    if options.json:
        print(json.dumps([asdict(run) for run in found], default=str, indent=2))
    elif not found:
        print(f"{options.folder}: no runs here; make one with: prismatic train --config experiments/prismatic.yml")
    else:
        print_out(table([_cells(run) for run in found]))
    return 0


def _cells(run: RunSummary) -> dict[str, str]:
    """Return a run's row of the table, by column name."""
    planned = "?" if run.planned_steps is None else f"{run.planned_steps:,}"
    return {
        "run": run.run,
        "status": run.status,
        "step": "-" if run.last_step is None else f"{run.last_step + 1:,} of {planned}",
        "rows": f"{run.logged_steps:,}",
        "last update": datetime.fromtimestamp(run.last_update).strftime("%Y-%m-%d %H:%M:%S"),
        "seed": "-" if run.seed is None else str(run.seed),
        "scale": "-" if run.perturbation_scale is None else str(run.perturbation_scale),
        "file": printable(str(run.path), 1000),
    }


def _snapshot(options: argparse.Namespace) -> int:
    from prismatic.runfile.manage import find_run, snapshot, summarize

    output = snapshot(find_run(options.which), options.output, overwrite=options.overwrite)
    copied = summarize(output)
    print(f"{output}: {copied.logged_steps:,} logged steps, {output.stat().st_size / 1e6:.2f} MB")
    return 0


def _migrate(options: argparse.Namespace) -> int:
    from prismatic.runfile.manage import find_run, migrate

    for which in options.which:
        path = find_run(which)
        kept = migrate(path)
        print(f"{path}: has the current version" if kept is None else f"{path}: upgraded; the original is {kept}")
    return 0


def _schema(_: argparse.Namespace) -> int:
    from prismatic.contract.schema import describe

    print(describe())
    return 0
