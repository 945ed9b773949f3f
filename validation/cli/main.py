"""The judging commands, check to doctor, which `python -m validation` and `prismatic` run."""

from __future__ import annotations

import argparse
import os
import sys
import traceback

from validation.cli.check import add_check
from validation.cli.data import add_compact, add_export, add_query
from validation.cli.doctor import add_doctor
from validation.cli.gate import add_gate
from validation.cli.mcp import add_mcp
from validation.cli.report import add_report
from validation.report.exit_code import UNREADABLE
from validation.text import printable

BROKEN_PIPE = 128 + 13  # as a shell reports a program that SIGPIPE ended


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return run(parser().parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Run the command that the options name. An unexpected error exits with 2, never with the code of a verdict."""
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe. That is no error, and the verdict's exit code would be wrong.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or Python complains again when it flushes at the end
        return BROKEN_PIPE
    except Exception as error:
        # Python's own exit code for a traceback is 1, which here would mean "refuted".
        if os.environ.get("PRISMATIC_DEBUG"):
            traceback.print_exc()
        words = f"{type(error).__name__}: {printable(error, 200)}"
        print(f"error: this is a fault of prismatic ({words}). Set PRISMATIC_DEBUG=1 for a report.", file=sys.stderr)
        return UNREADABLE
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m validation`."""
    top = argparse.ArgumentParser(prog="python -m validation", description="Judge runs of Prismatic models.")
    add_commands(top.add_subparsers(required=True, metavar="command"))
    return top


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add every judging command to a parser, which may be that of the command `prismatic`."""
    for add in (add_check, add_gate, add_report, add_export, add_compact, add_query, add_mcp, add_doctor):
        add(commands)


if __name__ == "__main__":
    sys.exit(main())
