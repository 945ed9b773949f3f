"""Options that several commands share: RUN, --limit, --no-cache, --set and --baseline, and `name=value` as values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace

from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError
from validation.files.limits import ReadLimits


def add_source_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that reads run files."""
    command.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a dynamics.db, a folder or zip of runs, or a set (folder or s3://); -: named on stdin",
    )
    command.add_argument("--no-cache", action="store_true", help="read every file again, and keep no copy")
    command.add_argument(
        "--limit",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="what one file may cost: " + ", ".join(field.name for field in fields(ReadLimits)),
    )


def add_judging_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that judges runs."""
    names = ", ".join(field.name for field in fields(Thresholds))
    command.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="change a threshold: " + names
    )
    command.add_argument(
        "--baseline", metavar="RUN", help="compare every claim with this run's (or folder's or set's), same thresholds"
    )


def parse_changes(overrides: Sequence[str]) -> dict[str, float]:
    """Thresholds as `name=value`. Raises ConfigError that names the option and what is allowed."""
    changes = {}
    for override in overrides:
        name, _, value = override.partition("=")
        try:
            changes[name] = float(value)
        except ValueError:
            raise ConfigError(
                f"--set {override}: {value!r} is not a number; expected such as --set {name}=0.1"
            ) from None
        try:
            Thresholds().changed({name: changes[name]})
        except ConfigError as error:
            raise ConfigError(f"--set {override}: {error}") from None
    return changes


def parse_limits(overrides: Sequence[str]) -> ReadLimits:
    """The defaults with `name=value` laid over them. Raises ValueError that names the limit and what is allowed."""
    limits, known = ReadLimits(), {field.name: field for field in fields(ReadLimits)}
    for override in overrides:
        name, _, value = override.partition("=")
        if name not in known:
            raise ValueError(f"--limit {override}: unknown limit {name!r}; the limits are {', '.join(known)}")
        kind = type(getattr(limits, name))
        try:
            number = kind(value)
        except ValueError:
            number = 0
        if not 0 < number < float("inf"):
            raise ValueError(f"--limit {override}: expected a number above 0, such as --limit {name}=1000000")
        limits = replace(limits, **{name: number})
    return limits
