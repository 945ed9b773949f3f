"""python -m validation check RUN.db [RUN.db ...]"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from dataclasses import fields, replace
from pathlib import Path

from validation.claims import Thresholds
from validation.diagnostics import ERROR, Finding
from validation.judge import judge
from validation.report import UNREADABLE, as_json, as_text, exit_code
from validation.runs import read_files

EXIT_CODES = (
    "exit codes: 0 supported, 1 refuted, 2 usage or unreadable file, 3 inconclusive or confounded, 4 invalid data"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except Exception:
        # Python's own exit code for a traceback is 1, which here would mean "refuted".
        traceback.print_exc()
        return UNREADABLE
    return code


def parser() -> argparse.ArgumentParser:
    """Every command and its options."""
    top = argparse.ArgumentParser(prog="python -m validation", description="Judge runs of Prismatic models.")
    commands = top.add_subparsers(required=True, metavar="command")
    check = commands.add_parser("check", help="read run files and print the verdict", epilog=EXIT_CODES)
    check.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a dynamics.db, or a folder of runs")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="change a threshold: " + _names()
    )
    check.set_defaults(run=_check)
    return top


def _names() -> str:
    return ", ".join(field.name for field in fields(Thresholds))


def _check(options: argparse.Namespace) -> int:
    try:
        thresholds = parse_thresholds(options.set)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        if options.json:
            finding = Finding(
                "usage", ERROR, "the options cannot be used", str(error), "a mistyped option", "see --help"
            )
            print(json.dumps(as_json(replace(judge([]), findings=(finding,))), indent=2))
        return UNREADABLE
    judgement = judge(*read_files(options.runs), thresholds)
    print(json.dumps(as_json(judgement), indent=2, allow_nan=False) if options.json else as_text(judgement))
    return exit_code(judgement)


def parse_thresholds(overrides: list[str]) -> Thresholds:
    """The defaults with `name=value` laid over them. Raises ValueError that names the option and what is allowed."""
    thresholds = Thresholds()
    for override in overrides:
        name, _, value = override.partition("=")
        if name not in {field.name for field in fields(Thresholds)}:
            raise ValueError(f"--set {override}: unknown threshold {name!r}; the thresholds are {_names()}")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(
                f"--set {override}: {value!r} is not a number; expected such as --set {name}=0.1"
            ) from None
        if not 0 < number < float("inf") or (name == "alpha" and number >= 1):
            raise ValueError(f"--set {override}: {name} must be above 0" + (" and below 1" if name == "alpha" else ""))
        thresholds = replace(thresholds, **{name: number})
    return thresholds


if __name__ == "__main__":
    sys.exit(main())
