"""python -m prismatic train | schema"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prismatic.errors import PrismaticError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 for options or files that cannot be used."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except PrismaticError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was logged is kept", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Every command and its options."""
    top = argparse.ArgumentParser(
        prog="python -m prismatic", description="Train Prismatic models and log their dynamics."
    )
    commands = top.add_subparsers(required=True, metavar="command")

    train = commands.add_parser("train", help="train a model; its dynamics go to build/runs/{hash}/dynamics.db")
    train.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML options, see experiments/")
    train.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options over the file's"
    )
    train.add_argument(
        "--data", type=Path, metavar="FILE", help="text to train on; default: Python's own documentation"
    )
    train.add_argument(
        "--runs", type=Path, default=Path("build/runs"), metavar="DIR", help="where run folders are made"
    )
    train.add_argument("--overwrite", action="store_true", help="replace an earlier run of the same options")
    train.set_defaults(run=_train)

    schema = commands.add_parser("schema", help="print what a run file holds: tables, columns, units")
    schema.set_defaults(run=_schema)
    return top


def _train(options: argparse.Namespace) -> int:
    # Imported here: torch takes seconds, and `schema` or `--help` need none of it.
    from prismatic.config import load_config
    from prismatic.train import train

    config = load_config(options.config, options.set)
    if options.data:
        # Not as an override, which is read as YAML: a file may be called `2024` or `notes: a.txt`.
        config = config.model_copy(update={"data": options.data})
    result = train(config, runs=options.runs, overwrite=options.overwrite)
    print(f"run {result.run_hash}: loss {result.loss:.3f}, held-out loss {result.held_out_loss:.3f} nats per byte")
    print(result.db_path)
    print(f"\nRead the verdict:  python -m validation check {result.db_path}\nor in the browser: streamlit run app.py")
    return 0


def _schema(_: argparse.Namespace) -> int:
    from prismatic.schema import describe

    print(describe())
    return 0


if __name__ == "__main__":
    sys.exit(main())
