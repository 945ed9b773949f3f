"""Options of the command line as values: thresholds and limits, each as `name=value`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError
from validation.files.errors import Limits


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


def parse_limits(overrides: Sequence[str]) -> Limits:
    """The defaults with `name=value` laid over them. Raises ValueError that names the limit and what is allowed."""
    limits, known = Limits(), {field.name: field for field in fields(Limits)}
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
