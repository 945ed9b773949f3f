"""The thresholds of the verdict (margins, ratios, alpha, warm-up, minimum steps and seeds), and their registration.

A threshold that was chosen before the data exists cannot be chosen to fit it. So a run file holds, from the start of
training, the thresholds, the version of the rules and a hash over both, and a report states whether it judges by them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from prismatic.errors import ConfigError

RULES = 1
"""Version of the rules in docs/verdict.md. Raise it whenever a run could be judged differently."""
SHAM_SCALE = 0.001
"""Largest perturbation scale of a sham run, whose experts differ by chance only."""
PREFIX = "registered."


def _value(default: float, meaning: str) -> float:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Thresholds:
    """The numbers that a decision depends on. `check --set name=value` changes one, and the report shows them all."""

    divergence_supported: float = _value(
        0.05, "As written: the mean score above which the documentation calls experts divergent."
    )
    divergence_refuted: float = _value(
        0.01, "As written: the mean score below which the documentation calls experts the same."
    )
    awakening_ratio: float = _value(
        1.10, "Controlled: the factor by which the bottom tier must gain beyond the middle tier."
    )
    divergence_ratio: float = _value(
        1.10, "Controlled: the factor by which a tier's norm must differ beyond routing and control."
    )
    divergence_direction: float = _value(0.05, "Controlled: the amount by which 1 - cosine must exceed the control's.")
    sham_spread: float = _value(
        3.0,
        "Controlled: the number of standard deviations between sham runs that an effect must exceed, if there are any.",
    )
    sustained_share: float = _value(
        0.5, "Controlled: the share of the first third's divergence that must be left in the last third."
    )
    dormant_ratio: float = _value(
        0.5, "Premise: a bottom weight is dormant if it receives less than this share of a middle weight's gradient."
    )
    alpha: float = _value(0.05, "Every interval holds the truth with probability 1 - alpha.")
    warmup: float = _value(0.10, "Share of the planned run that is dropped at the start.")
    min_points: float = _value(100, "Logged steps after the warm-up that a decision needs at least.")
    min_runs: float = _value(3, "Seeds that a decision over several runs needs at least.")

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """Return the meaning of each threshold, by name."""
        return {entry.name: str(entry.metadata["meaning"]) for entry in fields(cls)}

    def changed(self, changes: Mapping[str, float]) -> Self:
        """Return thresholds with these values changed. Raises ConfigError for an unknown name or a bad value."""
        known = [entry.name for entry in fields(self)]
        for name, value in changes.items():
            if name not in known:
                raise ConfigError(f"unknown threshold {name!r}; the thresholds are {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{name} = {value!r} is not a number; expected a value such as {name}=0.1")
            share = name in ("alpha", "warmup", "sustained_share", "dormant_ratio")
            if not 0 < value < math.inf or (share and value >= 1):
                raise ConfigError(f"{name} = {value!r} must be above 0" + (" and below 1" if share else ""))
        return replace(self, **{name: float(value) for name, value in changes.items()})

    @property
    def sha256(self) -> str:
        """The hash over every value and the version of the rules."""
        return _sha256(asdict(self), RULES)

    def registration(self) -> dict[str, float | int | str]:
        """Return the facts that a run writes when it starts."""
        values = {f"{PREFIX}{name}": float(value) for name, value in asdict(self).items()}
        return {**values, f"{PREFIX}rules": RULES, f"{PREFIX}sha256": self.sha256}


@dataclass(frozen=True)
class RegisteredThresholds:
    """The thresholds in a run file. values: by name, because another version of the rules may have other names."""

    values: Mapping[str, float]
    rules: int
    intact: bool
    """True if the values match the hash that was written with them."""

    @property
    def thresholds(self) -> Thresholds | None:
        """The thresholds to judge by; None if they were altered or belong to another version of the rules."""
        if not self.intact or self.rules != RULES:
            return None
        try:
            return Thresholds().changed(self.values)
        except ConfigError:
            return None

    def differences(self, used: Thresholds) -> dict[str, tuple[float | None, float | None]]:
        """Return (registered value, used value) of each threshold that differs, by name."""
        current = asdict(used)
        pairs = {name: (self.values.get(name), current.get(name)) for name in {**self.values, **current}}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def read_registration(facts: Mapping[str, Any]) -> RegisteredThresholds | None:
    """Return the thresholds that the facts of a run file hold; None if there are none."""
    entries = {key.removeprefix(PREFIX): value for key, value in facts.items() if key.startswith(PREFIX)}
    digest, rules = entries.pop("sha256", None), entries.pop("rules", None)
    values = {name: float(value) for name, value in entries.items() if _is_number(value)}
    if digest is None or not _is_number(rules) or not values:
        return None
    intact = len(values) == len(entries) and _sha256(values, int(rules)) == digest
    return RegisteredThresholds(values, int(rules), intact)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _sha256(values: Mapping[str, float], rules: int) -> str:
    text = json.dumps({"rules": rules, **{name: float(value) for name, value in values.items()}}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
