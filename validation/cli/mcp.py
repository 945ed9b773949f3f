"""`prismatic mcp`: serve check, gate, query and plan to an agent, over standard input and output."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from validation.report.exit_code import UNREADABLE


def add_mcp(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "mcp",
        help="serve check, gate, query and plan to an agent, read-only (Model Context Protocol)",
        epilog="Speaks MCP over standard input and output until the input ends. Needs prismatic-dynamics[mcp].",
    )
    command.add_argument(
        "--root", type=Path, default=Path(), metavar="DIR", help="the folder whose runs may be read; default: this one"
    )
    command.add_argument("--no-cache", action="store_true", help="keep no copy of read runs in the cache")
    command.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    try:
        from validation.agents.server import serve  # the package mcp is an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types", "pydantic"):
            raise
        print(f'error: {error.name} is not installed: pip install "prismatic-dynamics[mcp]"', file=sys.stderr)
        return UNREADABLE
    from validation.agents.tools import Tools

    try:
        tools = Tools(options.root, cached=not options.no_cache)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREADABLE
    serve(tools)
    return 0
