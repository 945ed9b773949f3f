"""`prismatic gate`: say of one claim if it is kept, discarded, or needs more seeds, for builds and agents."""

from __future__ import annotations

import argparse
import json
import sys

from validation.cli.check import usage_error
from validation.cli.options import add_source_options
from validation.cli.sources import read_runs
from validation.judgement.gate.decision import gate
from validation.judgement.judge import Judgement, judge, without_failing_runs
from validation.report.exit_code import UNREADABLE
from validation.report.gate_report import as_gate_json, gate_exit_code, gate_lines
from validation.verdict.claims import CLAIMS, DISTINCT

EXIT_CODES = (
    "exit codes: 0 keep, 1 discard, 2 usage error, unreadable file or unwritable output, 3 more seeds are needed, 4 "
    "discard because the data carries no verdict or the A/A pair fails"
)


def add_gate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "gate", help="say of a claim if it is kept, discarded, or needs more seeds", epilog=EXIT_CODES
    )
    add_source_options(command)
    command.add_argument("--claim", required=True, choices=(*CLAIMS, DISTINCT), help="the claim that is asked for")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_gate)


def _gate(options: argparse.Namespace) -> int:
    try:
        judgement = judge(*read_runs(options), claim=options.claim)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        if not options.json:
            return UNREADABLE
        judgement = usage_error(error)

    def write(shown: Judgement) -> tuple[int, str]:
        found = gate(shown, options.claim)
        text = json.dumps(as_gate_json(found, shown), indent=2, allow_nan=False) if options.json else ""
        return gate_exit_code(found), text or "\n".join(gate_lines(found))

    code, text = without_failing_runs(judgement, write)
    print(text)
    return code
