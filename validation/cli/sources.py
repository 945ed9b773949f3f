"""Reading the run files that a command line names: files, folders, zips, sets, and names on standard input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from validation.cli.options import parse_limits
from validation.files.cache import Cache
from validation.files.run_file import Rejected, RunFile
from validation.files.sources import read_sources


def read_runs(
    options: argparse.Namespace, sources: Sequence[str] | None = None
) -> tuple[list[RunFile], list[Rejected]]:
    """Read the runs that the options name, or other sources by the same options.

    Raises ValueError for a limit that cannot be used.
    """
    cache = None if options.no_cache else Cache()
    if cache and cache.problem:
        print(f"warning: the cache is not used: {cache.problem}", file=sys.stderr)
    names = named_sources(options.runs if sources is None else sources)
    return read_sources(names, limits=parse_limits(options.limit), cache=cache)


def named_sources(sources: Sequence[str]) -> list[str]:
    """Return the sources with the lines of standard input in place of `-`, for more names than a command line holds."""
    lines = [line.rstrip("\n") for line in sys.stdin] if "-" in sources else []
    return [name for source in sources for name in (filter(None, lines) if source == "-" else [source])]


def report_skipped(rejected: Sequence[Rejected]) -> None:
    """Print a line on stderr for each file that could not be read."""
    for file in rejected:
        print(f"skipped: {file.error}", file=sys.stderr)
