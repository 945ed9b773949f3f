"""The installed command `prismatic`: the commands of training and of judging, and `prismatic app`."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import prismatic.cli as training
import validation.cli.main as judging
from prismatic._version import __version__
from prismatic.command_line import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    if words[:1] == ["app"] and not {"-h", "--help"} & {*words}:
        return _app(words[1:])  # its options are those of Streamlit, which this parser does not know
    return exit_code(lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    options = parser().parse_args(words)
    code: int = options.side(options)
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command and its options."""
    top = argparse.ArgumentParser(
        prog="prismatic", description="Train Prismatic models and judge what their experts learned."
    )
    top.add_argument("--version", action="version", version=f"prismatic {__version__}")
    commands = top.add_subparsers(required=True, metavar="command")
    for side in (training, judging):
        known = {*commands.choices}
        side.add_commands(commands)
        for name in {*commands.choices} - known:
            commands.choices[name].set_defaults(side=side.run)
    commands.add_parser("app", help="open the app in the browser; takes the options of `streamlit run`")
    return top


def _app(options: Sequence[str]) -> int:
    command = [sys.executable, "-m", "streamlit", "run", str(app_file()), *options]
    if os.name == "posix":
        os.execv(command[0], command)  # replaces this process, so that a signal to it reaches the server
    return subprocess.call(command)


def app_file() -> Path:
    """Return the path of app.py: beside the packages in a checkout, under share/ in an installation."""
    try:
        installed = importlib.metadata.files("prismatic-dynamics") or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    found = [Path(str(file.locate())) for file in installed if file.parts[-3:] == ("share", "prismatic", "app.py")]
    return found[0].resolve() if found else Path(__file__).parents[2] / "app.py"


if __name__ == "__main__":
    sys.exit(main())
