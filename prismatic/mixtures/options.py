"""Options of a treatment: their checks, and the roles that follow from them."""

from __future__ import annotations

import math

from prismatic.errors import ConfigError


def check(name: str, value: object, allowed: bool, meaning: str) -> None:
    """Raise ConfigError unless the value of an option is allowed."""
    if not allowed:
        raise ConfigError(f"{name} = {value!r} is not allowed; it is {meaning}.")


def check_integers(**at_least: tuple[int, int]) -> None:
    """Raise ConfigError unless each option is an integer of at least so much. at_least: by name, value and limit."""
    for name, (value, least) in at_least.items():
        check(name, value, type(value) is int and value >= least, f"an integer of {least} or more")


def check_seed(seed: int) -> None:
    """Raise ConfigError unless a seed can be recorded: SQLite's integers have 64 bits."""
    check("seed", seed, type(seed) is int and 0 <= seed < 2**63, "an integer from 0 to 2**63 - 1")


def check_scales(**scales: float) -> None:
    """Raise ConfigError unless each option can be the largest change of a weight."""
    for name, value in scales.items():
        check(name, value, math.isfinite(value) and value >= 0, "a share of each weight's magnitude, 0 or more")


def roles(experts: int, control_experts: int) -> tuple[str, ...]:
    """Return the role of each expert: clean, perturbed, control. Raises ConfigError if none is left to be perturbed."""
    if experts < control_experts + 2:
        raise ConfigError(
            f"control_experts = {control_experts} leaves none of {experts} experts to be perturbed, because the first "
            f"stays clean. Use at most {experts - 2}."
        )
    return ("clean", *["perturbed"] * (experts - 1 - control_experts), *["control"] * control_experts)
