"""python -m prismatic train | sweep | runs | snapshot | migrate | import | schema"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prismatic.errors import PrismaticError
from prismatic.trackers.command import add_import

if TYPE_CHECKING:
    from prismatic.runfile.manage import RunSummary


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 for options or files that cannot be used."""
    return run(parser().parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Run the command that the options name; its errors become a line on stderr and an exit code."""
    try:
        code: int = options.run(options)
        return code
    except PrismaticError as error:
        if _is_first():  # of several processes all have it
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if _is_first():
            print("interrupted; what was logged is kept", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Every command and its options."""
    top = argparse.ArgumentParser(
        prog="python -m prismatic", description="Train Prismatic models and log their dynamics."
    )
    add_commands(top.add_subparsers(required=True, metavar="command"))
    return top


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Every command of this side, also for the parser of another one."""
    made_of = argparse.ArgumentParser(add_help=False)
    made_of.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML options, see experiments/; default: the documented experiment"
    )
    made_of.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options over the file's"
    )
    made_of.add_argument(
        "--data", type=Path, metavar="FILE", help="text to train on; default: Python's own documentation"
    )
    made_of.add_argument(
        "--runs", type=Path, default=Path("build/runs"), metavar="DIR", help="where run folders are made"
    )
    made_of.add_argument(
        "--checkpoint-freq", type=int, default=500, metavar="N", help="steps between checkpoints, 0 for none (500)"
    )

    train = commands.add_parser(
        "train", parents=[made_of], help="train a model; its dynamics go to build/runs/{hash}/dynamics.db"
    )
    train.add_argument("--overwrite", action="store_true", help="replace an earlier run of the same options")
    train.add_argument(
        "--resume",
        choices=("never", "allow", "must"),
        default="never",
        help="allow: go on with an earlier run of the same options; must: only that (default: never)",
    )
    train.add_argument(
        "--parallel",
        choices=("ddp", "fsdp2"),
        help="how the processes of `torchrun --nproc-per-node=N -m prismatic train` share each batch",
    )
    train.set_defaults(run=_train)
    _add_sweep(commands, made_of)

    runs = commands.add_parser("runs", help="list runs with their status, steps and last update")
    runs.add_argument("folder", nargs="?", type=Path, default=Path("build/runs"), help="default: build/runs")
    runs.add_argument("--json", action="store_true", help="print them as a JSON list")
    runs.set_defaults(run=_runs)

    snapshot = commands.add_parser("snapshot", help="copy a run that is training to one whole file, for an upload")
    snapshot.add_argument("which", metavar="RUN", help="a run file, its folder, or a run's hash")
    snapshot.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: RUN-step-N.db, here")
    snapshot.add_argument("--overwrite", action="store_true", help="replace FILE")
    snapshot.set_defaults(run=_snapshot)

    migrate = commands.add_parser("migrate", help="upgrade run files of earlier schema versions; originals are kept")
    migrate.add_argument("which", nargs="+", metavar="RUN", help="a run file, its folder, or a run's hash")
    migrate.set_defaults(run=_migrate)

    add_import(commands)

    schema = commands.add_parser("schema", help="print what a run file holds: tables, columns, units")
    schema.set_defaults(run=_schema)


def _add_sweep(commands: argparse._SubParsersAction[argparse.ArgumentParser], made_of: argparse.ArgumentParser) -> None:
    sweep = commands.add_parser(
        "sweep",
        parents=[made_of],
        help="train every combination of options, and judge the runs together",
        epilog="exit codes: 0 every run is finished, 1 some are not, 2 options that cannot be used, 130 interrupted",
    )
    sweep.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUES",
        help="values of an option, such as perturbation_scale=0.5,1,2 or seed=0..4",
    )
    sweep.add_argument(
        "--with-controls",
        action="store_true",
        help="also the sham runs and positive controls, of the same seeds, that a verdict needs",
    )
    sweep.add_argument(
        "--engine",
        choices=("local", "ray", "slurm"),
        default="local",
        help="a pool of processes here, a Ray cluster, or Slurm (default: local)",
    )
    sweep.add_argument(
        "--address",
        help="of Ray: ray://HOST:PORT, HOST:PORT, auto or local. local tries what Slurm would do, too",
    )
    sweep.add_argument(
        "--workers", type=int, metavar="N", help="runs at a time (local: as many as cores; else: all that find a place)"
    )
    sweep.add_argument("--cpus", type=float, default=1, metavar="N", help="of Ray: cores for each run (1)")
    sweep.add_argument("--gpus", type=float, default=0, metavar="N", help="of Ray: devices for each run (0)")
    sweep.add_argument(
        "--slurm",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="parameters of submitit, such as timeout_min=120 gpus_per_node=1 slurm_partition=long",
    )
    sweep.add_argument("--retries", type=int, default=1, metavar="N", help="times that a failed run is tried again (1)")
    sweep.add_argument("--dry-run", action="store_true", help="print the training commands, and run none")
    sweep.set_defaults(run=_sweep)


def _train(options: argparse.Namespace) -> int:
    # Imported here: torch takes seconds, and `schema` or `--help` need none of it.
    from prismatic.train.config import load_config
    from prismatic.train.train import train

    config = load_config(options.config, options.set)
    if options.data:
        # Not as an override, which is read as YAML: a file may be called `2024` or `notes: a.txt`.
        config = config.model_copy(update={"data": options.data})
    result = train(
        config,
        runs=options.runs,
        resume=options.resume,
        overwrite=options.overwrite,
        checkpoint_freq=max(0, options.checkpoint_freq),
        parallel=options.parallel,
    )
    if not _is_first():
        return 0
    print(f"run {result.run_hash}: loss {result.loss:.3f}, held-out loss {result.held_out_loss:.3f} nats per byte")
    print(result.db_path)
    print(f"\nRead the verdict:  python -m validation check {result.db_path}\nor in the browser: streamlit run app.py")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from prismatic.sweep import command

    return command.run(options)


def _is_first() -> bool:
    """Whether this process speaks for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _runs(options: argparse.Namespace) -> int:
    from prismatic.runfile.manage import list_runs
    from prismatic.sweep.progress import table

    found = list_runs(options.folder)
    if options.json:
        print(json.dumps([asdict(run) for run in found], default=str, indent=2))
    elif not found:
        print(f"no runs in {options.folder}; python -m prismatic train --config experiments/prismatic.yml makes one")
    else:
        print("\n".join(table([_cells(run) for run in found])))
    return 0


def _cells(run: RunSummary) -> dict[str, str]:
    """A line of the table of runs."""
    planned = "?" if run.planned_steps is None else f"{run.planned_steps:,}"
    return {
        "run": run.run,
        "status": run.status,
        "step": "-" if run.last_step is None else f"{run.last_step + 1:,} of {planned}",
        "rows": f"{run.logged_steps:,}",
        "last update": datetime.fromtimestamp(run.last_update).strftime("%Y-%m-%d %H:%M:%S"),
        "seed": "-" if run.seed is None else str(run.seed),
        "scale": "-" if run.perturbation_scale is None else str(run.perturbation_scale),
        "file": str(run.path),
    }


def _snapshot(options: argparse.Namespace) -> int:
    from prismatic.runfile.manage import find_run, snapshot, summary

    output = snapshot(find_run(options.which), options.output, overwrite=options.overwrite)
    copied = summary(output)
    print(f"{output}: {copied.logged_steps:,} logged steps, {output.stat().st_size / 1e6:.2f} MB")
    return 0


def _migrate(options: argparse.Namespace) -> int:
    from prismatic.runfile.manage import find_run, migrate

    for which in options.which:
        path = find_run(which)
        kept = migrate(path)
        print(f"{path}: is of the current version" if kept is None else f"{path}: upgraded; the original is {kept}")
    return 0


def _schema(_: argparse.Namespace) -> int:
    from prismatic.contract.schema import describe

    print(describe())
    return 0


if __name__ == "__main__":
    sys.exit(main())
