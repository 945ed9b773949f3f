"""The judging commands, check to doctor, which `python -m validation` and `prismatic` run."""

from __future__ import annotations

import argparse
import os
import sys
import traceback

from prismatic.command_line import exit_code
from prismatic.errors import PrismaticError
from prismatic.text import printable

FAULT = 2  # of a command that fails, as of a file that cannot be read: never the exit code of a verdict


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return exit_code(lambda: run(parser().parse_args(arguments)))


def run(options: argparse.Namespace) -> int:
    """Run the command that the options name. An unexpected error exits with 2, never with the code of a verdict."""
    try:
        code: int = options.run(options)
        return code
    except PrismaticError:
        raise
    except Exception as error:
        # Python's own exit code for a traceback is 1, which here would mean "refuted".
        if os.environ.get("PRISMATIC_DEBUG"):
            traceback.print_exc()
        words = f"{type(error).__name__}: {printable(error, 200)}"
        print(f"error: this is a fault of prismatic ({words}). Set PRISMATIC_DEBUG=1 for a report.", file=sys.stderr)
        return FAULT


def parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m validation`."""
    top = argparse.ArgumentParser(prog="python -m validation", description="Judge runs of Prismatic models.")
    add_commands(top.add_subparsers(required=True, metavar="command"))
    return top


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add every judging command to a parser, which may be that of the command `prismatic`."""
    # Imported here, so that an interrupt while they load is one of the command.
    from validation.cli.check import add_check
    from validation.cli.data import add_compact, add_export, add_query
    from validation.cli.doctor import add_doctor
    from validation.cli.gate import add_gate
    from validation.cli.mcp import add_mcp
    from validation.cli.report import add_report

    for add in (add_check, add_gate, add_report, add_export, add_compact, add_query, add_mcp, add_doctor):
        add(commands)


if __name__ == "__main__":
    sys.exit(main())
