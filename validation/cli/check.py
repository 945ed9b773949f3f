"""`prismatic check`: read run files, print the verdict as text or JSON, write JUnit XML, return the exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace

from prismatic.errors import SweepError
from prismatic.terminal import print_out
from validation.cli.options import add_judging_options, add_source_options, parse_changes, parse_limits
from validation.cli.report import judge_baseline, write_file
from validation.cli.sources import named_sources, read_runs
from validation.diagnostics import ERROR, Finding
from validation.judgement.baseline import Comparison
from validation.judgement.judge import Judgement, judge, without_failing_runs
from validation.judgement.study import require_registered
from validation.report.exit_code import UNREADABLE, UNSURE, exit_code, objections
from validation.report.json_report import as_json
from validation.report.junit_report import as_junit
from validation.report.text_report import render
from validation.verdict.claims import SUPPORTED

EXIT_CODES = (
    "exit codes: 0 supported, 1 refuted (with --baseline, also if a claim that the baseline supports or a check that "
    "it passes is lost), 2 usage error, unreadable file or unwritable output, 3 inconclusive or confounded (with "
    "--strict, also supported with an objection), 4 invalid data, 5 the runs of a study would be judged by other "
    "thresholds than they registered"
)


def add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    check = commands.add_parser("check", help="read run files and print the verdict", epilog=EXIT_CODES)
    add_source_options(check)
    add_judging_options(check)
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.add_argument("--junit", metavar="FILE", help="also write JUnit XML, for a build server")
    check.add_argument(
        "--strict", action="store_true", help="exit with 3 if supported comes with a warning, or by other thresholds"
    )
    check.add_argument(
        "--ray", metavar="ADDRESS", help="judge on a Ray cluster that can read the runs: ray://..., auto or local"
    )
    check.add_argument("--verbose", action="store_true", help="print every group and run, both readings, all findings")
    check.add_argument("--brief", action="store_true", help="with --verbose: skip single runs where there are several")
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    try:
        changes = parse_changes(options.set)
        parse_limits(options.limit)
        judgement = _judge(options, changes)
        require_registered(judgement)
    except (ValueError, SweepError) as error:
        print(f"error: {error}", file=sys.stderr)
        if options.json:
            _print_json(usage_error(error))
        return getattr(error, "exit_code", UNREADABLE)
    comparison = judge_baseline(judgement, options)
    code = exit_code(judgement, strict=options.strict, comparison=comparison)
    if options.junit is not None:
        junit = without_failing_runs(judgement, lambda shown: as_junit(shown, options.strict, comparison))
        code = code if write_file(options.junit, junit) else UNREADABLE
    if options.json:
        _print_json(judgement, comparison)
    else:
        look = {"verbose": options.verbose, "brief": options.brief}
        print_out(*without_failing_runs(judgement, lambda shown: render(shown, comparison, **look)))
    if options.strict and code == UNSURE and judgement.verdict.status == SUPPORTED:
        print(f"strict: supported, but with {', '.join(objections(judgement))}", file=sys.stderr)
    return code


def _judge(options: argparse.Namespace, changes: Mapping[str, float]) -> Judgement:
    """Judge the runs that the options name, here or on the Ray cluster that they name."""
    if options.ray is None:
        return judge(*read_runs(options), changes, options.claim)
    from validation.judgement import on_ray  # Ray is an optional dependency

    sources, limits = named_sources(options.runs), parse_limits(options.limit)
    asked = {"changed": changes, "claim": options.claim}
    return on_ray.check(sources, options.ray, limits=limits, cached=not options.no_cache, **asked)


def usage_error(error: Exception) -> Judgement:
    """Return a judgement of no runs with the error as its finding, so that `--json` always prints an object."""
    finding = Finding("usage", ERROR, "the options cannot be used", str(error), "a mistyped option", "see --help")
    return replace(judge([]), findings=(finding,))


def _print_json(judgement: Judgement, comparison: Comparison | None = None) -> None:
    text = without_failing_runs(
        judgement, lambda shown: json.dumps(as_json(shown, comparison), indent=2, allow_nan=False)
    )
    print(text)
