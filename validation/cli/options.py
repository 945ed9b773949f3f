"""Options that several commands share: RUN, --limit, --no-cache, --set and --baseline, and `name=value` as values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace

from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError
from validation.files.limits import ReadLimits
from validation.verdict.claims import CLAIMS, DISTINCT


def add_source_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that reads run files."""
    command.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a dynamics.db, a folder or zip of runs, or a set (folder or s3://); - reads names from standard input",
    )
    command.add_argument("--no-cache", action="store_true", help="read every file again and keep no copy in the cache")
    command.add_argument(
        "--limit",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="change what reading one file may cost: " + ", ".join(field.name for field in fields(ReadLimits)),
    )


def add_judging_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that judges runs."""
    names = ", ".join(field.name for field in fields(Thresholds))
    command.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="change a threshold: " + names
    )
    command.add_argument(
        "--claim",
        choices=(*CLAIMS, DISTINCT),
        help="what the headline is about, and the exit code of check: by default the claims awakening, divergence and "
        "sustainment together, and of experts without roles whether they are distinct",
    )
    command.add_argument(
        "--baseline",
        metavar="RUN",
        help="compare every claim with those of this run, folder or set, judged by the same thresholds",
    )


def parse_changes(overrides: Sequence[str]) -> dict[str, float]:
    """Return thresholds by name from texts like `alpha=0.1`. Raise ConfigError for a bad name or value."""
    changes = {}
    for override in overrides:
        name, _, value = override.partition("=")
        try:
            changes[name] = float(value)
        except ValueError:
            raise ConfigError(
                f"--set {override}: {value!r} is not a number; expected for example --set {name}=0.1"
            ) from None
        try:
            Thresholds().changed({name: changes[name]})
        except ConfigError as error:
            raise ConfigError(f"--set {override}: {error}") from None
    return changes


def parse_limits(overrides: Sequence[str]) -> ReadLimits:
    """Return the default limits, changed by texts like `seconds=60`. Raise ValueError for a bad name or value."""
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
            raise ValueError(f"--limit {override}: expected a number above 0, for example --limit {name}=1000000")
        limits = replace(limits, **{name: number})
    return limits
