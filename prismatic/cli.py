"""The training side's command line: collects train, sweep, study, runs, snapshot, migrate, schema and import.

Each folder defines its commands, with their options, in its command.py or a file of that ending.
"""

from __future__ import annotations

import argparse

from prismatic.command_line import exit_code


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for unfinished runs, 2 for unusable options or files, or 130.

    5: a study refuses to be judged by other thresholds or hypotheses than its runs registered.
    """
    return exit_code(lambda: run(parser().parse_args(arguments)))


def run(options: argparse.Namespace) -> int:
    """Run the command that the parsed options name and return its exit code. Raises PrismaticError if it fails."""
    code: int = options.run(options)
    return code


def parser() -> argparse.ArgumentParser:
    """Return a parser of all commands and their options."""
    top = argparse.ArgumentParser(prog="prismatic", description="Train Prismatic models and log their dynamics.")
    add_commands(top.add_subparsers(required=True, metavar="command"))
    return top


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add all commands of the training side to a parser, which may have others."""
    # Imported here, so that an interrupt while they load is one of the command.
    import prismatic.runfile.command
    import prismatic.sweep.command
    import prismatic.sweep.study_command
    import prismatic.trackers.command
    import prismatic.train.command

    prismatic.train.command.add_commands(commands)
    prismatic.sweep.command.add_commands(commands)
    prismatic.sweep.study_command.add_commands(commands)
    prismatic.runfile.command.add_commands(commands)
    prismatic.trackers.command.add_commands(commands)
