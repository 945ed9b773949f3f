"""`prismatic report`: write the verdict as one HTML, Markdown or JSON file that needs nothing beside it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from prismatic.errors import ConfigError
from validation.cli.options import add_judging_options, add_source_options, parse_changes
from validation.cli.sources import read_runs, report_skipped
from validation.judgement.baseline import Comparison, compare
from validation.judgement.judge import Judgement, judge, without_failing_runs
from validation.judgement.study import require_registered
from validation.report.exit_code import UNREADABLE
from validation.report.json_report import as_json
from validation.report.study_report import as_study_json

FORMATS = (".html", ".md", ".json")


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    report = commands.add_parser("report", help="write the verdict as one file: HTML, Markdown or JSON")
    add_source_options(report)
    add_judging_options(report)
    report.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="a name that ends in " + ", ".join(FORMATS)
    )
    report.add_argument(
        "--study",
        action="store_true",
        help="the report of a study, by the thresholds that its runs registered; it holds no file hashes, events or "
        "command, which differ when the same runs are trained again",
    )
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    try:
        if Path(options.output).suffix.lower() not in FORMATS:
            raise ConfigError(f"-o {options.output}: expected a name that ends in {', '.join(FORMATS)}")
        changes = parse_changes(options.set)
        judgement = judge(*read_runs(options), changes, options.claim)
        require_registered(judgement, study=options.study)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", UNREADABLE)
    comparison = judge_baseline(judgement, options)
    content = without_failing_runs(judgement, lambda shown: _content(shown, comparison, options, changes))
    if not write_file(options.output, content):
        return UNREADABLE
    print(f"{options.output}: {judgement.verdict.status}")
    skipped = [*judgement.rejected, *(comparison.baseline.rejected if comparison else ())]
    report_skipped(skipped)
    return UNREADABLE if skipped else 0


def _content(
    judgement: Judgement, comparison: Comparison | None, options: argparse.Namespace, changes: Mapping[str, float]
) -> str:
    """Return the report in the format that the output's name asks for."""
    kind = Path(options.output).suffix.lower()
    if kind == ".json":
        report = as_json(judgement, comparison)
        report = as_study_json(judgement, report) if options.study else report
        return json.dumps(report, indent=2, allow_nan=False) + "\n"
    from validation.report.html_report import as_html, as_markdown  # slow to load: it draws charts

    write = as_html if kind == ".html" else as_markdown
    command = "" if options.study else _command(options, changes)
    return write(judgement, now=datetime.now(UTC), command=command, comparison=comparison, repeatable=options.study)


def _command(options: argparse.Namespace, changes: Mapping[str, float]) -> str:
    """Return the command line that writes this report again."""
    words = ["--claim", options.claim] if options.claim is not None else []
    words += ["--baseline", options.baseline] if options.baseline is not None else []
    words += ["--set", *(f"{name}={value:g}" for name, value in changes.items())] if changes else []
    return shlex.join(["prismatic", "report", *options.runs, "-o", options.output, *words])


def judge_baseline(judgement: Judgement, options: argparse.Namespace) -> Comparison | None:
    """Compare a judgement to the baseline's, by the same thresholds. Return None without `--baseline`."""
    if options.baseline is None:
        return None
    runs, rejected = read_runs(options, [options.baseline])
    return compare(judgement, judge(runs, rejected, asdict(judgement.verdict.thresholds), options.claim))


def write_file(path: str, text: str) -> bool:
    """Write text as UTF-8. Return False, after an error on stderr, if the file cannot be written."""
    try:
        Path(path).write_text(text, encoding="utf-8", errors="replace", newline="\n")
    except (OSError, ValueError) as error:
        print(f"error: {path} cannot be written: {error}", file=sys.stderr)
        return False
    return True
