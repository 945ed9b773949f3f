"""python -m validation check | report | export | compact | query"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError, SweepError
from validation.cli.options import parse_changes, parse_limits
from validation.diagnostics import ERROR, Finding
from validation.files.cache import Cache
from validation.files.errors import Limits, RunFileError
from validation.files.parquet_set import connect_sets, is_set, write_set
from validation.files.read_files import Rejected, RunFile
from validation.files.sources import read_sources
from validation.judgement.baseline import Comparison, compare
from validation.judgement.judge import Judgement, judge
from validation.query.database import RELATIONS, connect
from validation.query.export import export
from validation.query.user_sql import ROWS, SECONDS, answer, as_rows
from validation.report.json_report import UNREADABLE, UNSURE, as_json, as_text, exit_code, objections
from validation.report.junit_report import as_junit
from validation.verdict.claims import SUPPORTED

EXIT_CODES = (
    "exit codes: 0 supported, 1 refuted (or, with --baseline, a claim that it supported no longer is), "
    "2 usage or unreadable file, 3 inconclusive or confounded (or, with --strict, a warning beside a yes), "
    "4 invalid data"
)
FORMATS = (".html", ".md", ".json")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    return run(parser().parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Run the command that the options name; nothing that goes wrong looks like a verdict."""
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has enough, such as `head`: nothing is wrong, but no code of ours would be the verdict's either.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or Python complains again when it flushes at the end
        return 128 + 13
    except Exception:
        # Python's own exit code for a traceback is 1, which here would mean "refuted".
        traceback.print_exc()
        return UNREADABLE
    return code


def parser() -> argparse.ArgumentParser:
    """Every command and its options."""
    top = argparse.ArgumentParser(prog="python -m validation", description="Judge runs of Prismatic models.")
    add_commands(top.add_subparsers(required=True, metavar="command"))
    return top


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Every command of this side, also for the parser of another one."""
    sources = argparse.ArgumentParser(add_help=False)
    sources.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a dynamics.db, a folder or zip of runs, or a set (folder or s3://); -: named on stdin",
    )
    sources.add_argument("--no-cache", action="store_true", help="read every file anew, and keep nothing of it")
    sources.add_argument(
        "--limit",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="what one file may cost: " + ", ".join(field.name for field in fields(Limits)),
    )

    judging = argparse.ArgumentParser(add_help=False)
    judging.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="change a threshold: " + _names()
    )
    judging.add_argument(
        "--baseline", metavar="RUN", help="compare every claim with this run's (or folder's or set's), same thresholds"
    )
    check = commands.add_parser(
        "check", parents=[sources, judging], help="read run files and print the verdict", epilog=EXIT_CODES
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.add_argument("--junit", metavar="FILE", help="also write JUnit XML, for a build server")
    check.add_argument("--strict", action="store_true", help="take nothing for a yes but supported without any warning")
    check.add_argument(
        "--ray", metavar="ADDRESS", help="judge on a Ray cluster, which must reach the runs: ray://..., auto or local"
    )
    check.add_argument("--brief", action="store_true", help="leave out what is said of single runs")
    check.set_defaults(run=_check)

    report = commands.add_parser(
        "report", parents=[sources, judging], help="write the verdict as one file that stands alone"
    )
    report.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="its name says the format: " + ", ".join(FORMATS)
    )
    report.set_defaults(run=_report)

    rows = commands.add_parser("export", parents=[sources], help="write every row of the runs for other programs")
    rows.add_argument("-o", "--output", required=True, metavar="FILE", help="its name says the format: .csv, .parquet")
    rows.add_argument("--relation", choices=tuple(RELATIONS), default="dynamics", help="default: dynamics")
    rows.set_defaults(run=_export)

    compact = commands.add_parser(
        "compact", parents=[sources], help="write runs as one set of Parquet files, which stands for the run files"
    )
    compact.add_argument("-o", "--output", required=True, metavar="DIR", help="a folder, or s3://BUCKET/PREFIX")
    compact.set_defaults(run=_compact)

    query = commands.add_parser("query", help="ask runs a question of your own, in SQL", epilog=_RELATIONS)
    query.add_argument("sql", metavar="SQL", help="one SELECT")
    query.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: table")
    query.add_argument("--rows", type=int, default=ROWS, metavar="N", help=f"at most so many rows ({ROWS:,})")
    query.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=f"at most so long ({SECONDS:g})")
    for action in sources._actions:
        query._add_action(action)
    query.set_defaults(run=_query)


_RELATIONS = "relations: runs, facts (run, key, value), dynamics (a row per run, step, expert), layers, histograms"


def _names() -> str:
    return ", ".join(field.name for field in fields(Thresholds))


def _check(options: argparse.Namespace) -> int:
    try:
        changes = parse_changes(options.set)
        parse_limits(options.limit)
        judgement = _judged(options, changes)
    except (ValueError, SweepError) as error:
        print(f"error: {error}", file=sys.stderr)
        if options.json:
            finding = Finding(
                "usage", ERROR, "the options cannot be used", str(error), "a mistyped option", "see --help"
            )
            _print_json(replace(judge([]), findings=(finding,)))
        return UNREADABLE
    comparison = _compared(judgement, options)
    code = exit_code(judgement, strict=options.strict, comparison=comparison)
    if options.junit is not None and not _write(options.junit, as_junit(judgement, options.strict, comparison)):
        code = UNREADABLE
    if options.json:
        _print_json(judgement, comparison)
    else:
        print(as_text(judgement, comparison, brief=options.brief))
    if options.strict and code == UNSURE and judgement.verdict.status == SUPPORTED:
        print(f"strict: no clean yes beside {', '.join(objections(judgement))}", file=sys.stderr)
    return code


def _judged(options: argparse.Namespace, changes: Mapping[str, float]) -> Judgement:
    """What is said of the runs that the options name, here or on the cluster that they name."""
    if options.ray is None:
        return judge(*_read(options), changes)
    # Here and not at the top: Ray is an extra.
    from validation.judgement import on_ray

    sources, limits = _named(options.runs), parse_limits(options.limit)
    return on_ray.check(sources, options.ray, limits=limits, cached=not options.no_cache, changed=changes)


def _print_json(judgement: Judgement, comparison: Comparison | None = None) -> None:
    print(json.dumps(as_json(judgement, comparison), indent=2, allow_nan=False))


def _compared(judgement: Judgement, options: argparse.Namespace) -> Comparison | None:
    """The judgement beside the baseline's, by the same thresholds; None where no baseline is named."""
    if options.baseline is None:
        return None
    runs, rejected = _read(argparse.Namespace(**{**vars(options), "runs": [options.baseline]}))
    return compare(judgement, judge(runs, rejected, asdict(judgement.verdict.thresholds)))


def _report(options: argparse.Namespace) -> int:
    # Here and not at the top: who only checks does not wait for the libraries that draw.
    from validation.report.html_report import as_html, as_markdown

    kind = Path(options.output).suffix.lower()
    try:
        if kind not in FORMATS:
            raise ConfigError(f"-o {options.output}: expected a name that ends in {', '.join(FORMATS)}")
        changes = parse_changes(options.set)
        judgement = judge(*_read(options), changes)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREADABLE
    comparison = _compared(judgement, options)
    if kind == ".json":
        text = json.dumps(as_json(judgement, comparison), indent=2, allow_nan=False) + "\n"
    else:
        write = as_html if kind == ".html" else as_markdown
        now, command = datetime.now(UTC), _command(options, changes)
        text = write(judgement, now=now, command=command, comparison=comparison)
    if not _write(options.output, text):
        return UNREADABLE
    print(f"{options.output}: {judgement.verdict.status}")
    left_out = [*judgement.rejected, *(comparison.baseline.rejected if comparison else ())]
    for file in left_out:
        print(f"left out: {file.error}", file=sys.stderr)
    return UNREADABLE if left_out else 0


def _command(options: argparse.Namespace, changes: Mapping[str, float]) -> str:
    """The line that writes this report again."""
    words = ["--baseline", options.baseline] if options.baseline is not None else []
    words += ["--set", *(f"{name}={value:g}" for name, value in changes.items())] if changes else []
    return shlex.join(["python", "-m", "validation", "report", *options.runs, "-o", options.output, *words])


def _write(path: str, text: str) -> bool:
    """Writes a file as UTF-8; says why where it cannot."""
    try:
        Path(path).write_text(text, encoding="utf-8", errors="replace", newline="\n")
    except (OSError, ValueError) as error:
        print(f"error: {path} cannot be written: {error}", file=sys.stderr)
        return False
    return True


def _read(options: argparse.Namespace) -> tuple[list[RunFile], list[Rejected]]:
    """The runs that the options name; ValueError for a limit that cannot be used."""
    cache = None if options.no_cache else Cache()
    return read_sources(_named(options.runs), limits=parse_limits(options.limit), cache=cache)


def _named(sources: Sequence[str]) -> list[str]:
    """The sources, with the lines of standard input in place of `-`: more than fit on a command line."""
    lines = [line.rstrip("\n") for line in sys.stdin] if "-" in sources else []
    return [name for source in sources for name in (filter(None, lines) if source == "-" else [source])]


def _compact(options: argparse.Namespace) -> int:
    try:
        runs, rejected = _read(options)
        for file in rejected:
            print(f"left out: {file.error}", file=sys.stderr)
        count = write_set(runs, options.output)
    except (RunFileError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREADABLE
    print(f"{options.output}: {count} runs; every command takes it in place of the run files")
    return UNREADABLE if rejected else 0


def _export(options: argparse.Namespace) -> int:
    try:
        con, rejected = _connected(options)
        rows = export(con, options.relation, Path(options.output))
    except (RunFileError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREADABLE
    print(f"{options.output}: {rows:,} rows of {options.relation}")
    return UNREADABLE if rejected else 0


def _connected(options: argparse.Namespace) -> tuple[duckdb.DuckDBPyConnection, list[Rejected]]:
    """The relations over all runs that can be read; what cannot is said on stderr."""
    if all(map(is_set, options.runs)):
        return connect_sets(options.runs), []
    runs, rejected = _read(options)
    for file in rejected:
        print(f"left out: {file.error}", file=sys.stderr)
    return connect(runs), rejected


def _query(options: argparse.Namespace) -> int:
    try:
        con, _ = _connected(options)
        found = answer(con, options.sql, rows=options.rows, seconds=options.seconds)
    except (ValueError, RunFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREADABLE
    print(as_rows(found.table, options.format))
    if found.cut:
        print(f"only the first {options.rows:,} rows; --rows shows more", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
