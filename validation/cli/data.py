"""`prismatic export`, `compact` and `query`: rows of runs as CSV or Parquet, runs as one Parquet set, and SQL."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from validation.cli.options import add_source_options
from validation.cli.sources import read_runs, report_skipped
from validation.files.errors import RunFileError
from validation.files.parquet_set import write_set
from validation.files.run_file import Rejected, RunFile
from validation.files.set_manifest import is_set
from validation.judgement.guard import each_guarded
from validation.query.database import RELATIONS, open_database, relations_of
from validation.query.export import export
from validation.query.relations import Relations
from validation.query.result import format_rows
from validation.query.set_database import relations_of_sets
from validation.query.user_sql import ROWS, SECONDS, BadQuery, run_query
from validation.report.exit_code import UNREADABLE

T = TypeVar("T")
TABLES = "tables: runs, facts (run, key, value), dynamics (a row per run, step and expert), layers, pairs, histograms"


def add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    rows = commands.add_parser("export", help="write the rows of runs as CSV or Parquet")
    add_source_options(rows)
    rows.add_argument("-o", "--output", required=True, metavar="FILE", help="a name that ends in .csv or .parquet")
    rows.add_argument(
        "--relation", choices=tuple(RELATIONS), default="dynamics", help="the table to write; default: dynamics"
    )
    rows.set_defaults(run=_export)


def add_compact(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    compact = commands.add_parser(
        "compact", help="write runs as one set of Parquet files, for use in place of the run files"
    )
    add_source_options(compact)
    compact.add_argument("-o", "--output", required=True, metavar="DIR", help="a folder, or s3://BUCKET/PREFIX")
    compact.set_defaults(run=_compact)


def add_query(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    query = commands.add_parser("query", help="query runs in SQL", epilog=TABLES)
    query.add_argument("sql", metavar="SQL", help="one SELECT statement")
    query.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: table")
    query.add_argument("--rows", type=int, default=ROWS, metavar="N", help=f"print at most N rows ({ROWS:,})")
    query.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help=f"stop after S seconds ({SECONDS:g})"
    )
    add_source_options(query)
    query.set_defaults(run=_query)


def _export(options: argparse.Namespace) -> int:
    def write(relations: Relations) -> int:
        with open_database(relations) as con:
            return export(con, options.relation, Path(options.output))

    try:
        rows, rejected = _with_relations(options, write, (OSError, ValueError))
    except (RunFileError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREADABLE
    print(f"{options.output}: {rows:,} rows of {options.relation}")
    return UNREADABLE if rejected else 0


def _compact(options: argparse.Namespace) -> int:
    try:
        runs, rejected = read_runs(options)
        report_skipped(rejected)
        count = write_set(runs, options.output)
    except (RunFileError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREADABLE
    print(f"{options.output}: {count} runs; every command reads this set in place of the run files")
    return UNREADABLE if rejected else 0


def _query(options: argparse.Namespace) -> int:
    try:
        found, _ = _with_relations(
            options,
            lambda relations: run_query(relations, options.sql, rows=options.rows, seconds=options.seconds),
            (BadQuery,),
        )
    except (ValueError, RunFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREADABLE
    print(format_rows(found.table, options.format))
    for note in found.notes():
        print(note, file=sys.stderr)
    return 0


def _with_relations(
    options: argparse.Namespace, use: Callable[[Relations], T], meant: tuple[type[Exception], ...]
) -> tuple[T, list[Rejected]]:
    """Return use(relations) of the runs that can be read, and the rejected files, after naming them on stderr.

    Runs on which this program fails are left out and named, too. meant: errors of `use` that are no such failure.
    """
    if all(map(is_set, options.runs)):
        return use(relations_of_sets(options.runs)), []
    runs, rejected = read_runs(options)
    report_skipped(rejected)

    def of_files(files: Sequence[RunFile]) -> T:
        for file in files:
            if file.failure:
                print(f"warning: {file.name}: no rows of this run, {file.failure}; report it", file=sys.stderr)
        return use(relations_of(files))

    return each_guarded(of_files, runs, meant=meant), rejected
