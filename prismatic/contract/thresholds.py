"""Every number that a verdict depends on, and how a run registers them before its first step.

What is decided before the data is there cannot be chosen to please. So the run file holds, from the start of training,
the thresholds, the version of the rules and a hash over both; a report says whether it judges by them.
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
"""Version of the rules of docs/verdict.md. Raise it whenever a run could be judged differently."""
SHAM_SCALE = 0.001
"""Largest perturbation scale of a sham run: so small that it tells how far equal runs drift apart by chance."""
PREFIX = "registered."


def _value(default: float, meaning: str) -> float:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Thresholds:
    """Every number that a decision depends on. Change one with `check --set name=value`; the report shows them all."""

    divergence_supported: float = _value(
        0.05, "As written: the mean score above which the documentation calls experts divergent."
    )
    divergence_refuted: float = _value(0.01, "As written: the mean score below which it calls them the same.")
    awakening_ratio: float = _value(
        1.10, "Controlled: by which factor the bottom tier must gain beyond the middle tier."
    )
    divergence_ratio: float = _value(
        1.10, "Controlled: by which factor a tier's norm must differ beyond routing and control."
    )
    divergence_direction: float = _value(0.05, "Controlled: by how much 1 - cosine must exceed the control's.")
    sham_spread: float = _value(
        3.0,
        "Controlled: how many standard deviations between sham runs an effect must exceed, where there are sham runs.",
    )
    sustained_share: float = _value(
        0.5, "Controlled: what share of the first third's divergence must be left in the last third."
    )
    dormant_ratio: float = _value(
        0.5, "Premise: a bottom weight is dormant if it receives less than this share of a middle weight's gradient."
    )
    alpha: float = _value(0.05, "Every interval holds the truth with probability 1 - alpha.")
    warmup: float = _value(0.10, "Share of the planned run that is dropped at the beginning.")
    min_points: float = _value(100, "Logged steps after the warm-up below which nothing is decided.")
    min_runs: float = _value(3, "Seeds below which nothing is decided over several runs.")

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """By name, what each number is."""
        return {one.name: str(one.metadata["meaning"]) for one in fields(cls)}

    def changed(self, changes: Mapping[str, float]) -> Self:
        """With other values. Raises ConfigError for an unknown name or a value that cannot be."""
        known = [one.name for one in fields(self)]
        for name, value in changes.items():
            if name not in known:
                raise ConfigError(f"unknown threshold {name!r}; the thresholds are {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{name} = {value!r} is not a number; expected such as {name}=0.1")
            share = name in ("alpha", "warmup", "sustained_share", "dormant_ratio")
            if not 0 < value < math.inf or (share and value >= 1):
                raise ConfigError(f"{name} = {value!r} must be above 0" + (" and below 1" if share else ""))
        return replace(self, **{name: float(value) for name, value in changes.items()})

    @property
    def sha256(self) -> str:
        """Over every value and the version of the rules."""
        return _sha256(asdict(self), RULES)

    def registration(self) -> dict[str, float | int | str]:
        """The facts that a run writes when it starts."""
        values = {f"{PREFIX}{name}": float(value) for name, value in asdict(self).items()}
        return {**values, f"{PREFIX}rules": RULES, f"{PREFIX}sha256": self.sha256}


@dataclass(frozen=True)
class Registered:
    """What a run file says was registered. values: by name, as another version of the rules may have other names."""

    values: Mapping[str, float]
    rules: int
    whole: bool
    """Whether the values still are those of the hash that was written with them."""

    @property
    def thresholds(self) -> Thresholds | None:
        """As thresholds of today; None where they cannot be used: altered, or of other rules."""
        if not self.whole or self.rules != RULES:
            return None
        try:
            return Thresholds().changed(self.values)
        except ConfigError:
            return None

    def differences(self, used: Thresholds) -> dict[str, tuple[float | None, float | None]]:
        """By name, what was registered and what is used, where they differ."""
        today = asdict(used)
        pairs = {name: (self.values.get(name), today.get(name)) for name in {**self.values, **today}}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def registered(facts: Mapping[str, Any]) -> Registered | None:
    """What the facts of a run file say was registered; None if nothing was."""
    own = {key.removeprefix(PREFIX): value for key, value in facts.items() if key.startswith(PREFIX)}
    digest, rules = own.pop("sha256", None), own.pop("rules", None)
    values = {name: float(value) for name, value in own.items() if _is_number(value)}
    if digest is None or not _is_number(rules) or not values:
        return None
    whole = len(values) == len(own) and _sha256(values, int(rules)) == digest
    return Registered(values, int(rules), whole)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _sha256(values: Mapping[str, float], rules: int) -> str:
    text = json.dumps({"rules": rules, **{name: float(value) for name, value in values.items()}}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
