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

RULES = 2
"""Version of the rules in docs/verdict.md. Raise it whenever a run could be judged differently."""
SHAM_SCALE = 0.001
"""Largest perturbation scale of a sham run, whose experts differ by chance only."""
PREFIX = "registered."
LARGEST = 1e15  # of a registered number; a whole number of JSON may be too large for a float


def _value(default: float, meaning: str, *, least: float = 0.0, most: float = math.inf, lax: int = 0) -> float:
    """Return a field. lax: 1 if a higher value makes support easier, -1 if a lower one does."""
    return field(default=default, metadata={"meaning": meaning, "least": least, "most": most, "lax": lax})


@dataclass(frozen=True)
class Thresholds:
    """The numbers that a decision depends on. `check --set name=value` changes one, and the report shows them all.

    Each has bounds, so that no registered value makes a decision meaningless.
    """

    divergence_supported: float = _value(
        0.05, "As written: the mean score above which the documentation calls experts divergent."
    )
    divergence_refuted: float = _value(
        0.01, "As written: the mean score below which the documentation calls experts the same."
    )
    awakening_ratio: float = _value(
        1.10, "The factor by which the bottom tier must gain beyond the middle tier.", least=1.05, lax=-1
    )
    divergence_ratio: float = _value(1.10, "The factor by which the size of gradients must differ.", least=1.05, lax=-1)
    divergence_direction: float = _value(
        0.05, "The amount by which 1 - cosine must exceed that of the control experts.", least=0.02, most=2, lax=-1
    )
    sustained_share: float = _value(
        0.5, "The share of the first third's effect that must be left in the last third.", least=0.1, most=0.99, lax=-1
    )
    dormant_ratio: float = _value(
        0.5,
        "Premise: a bottom weight is dormant if it receives less than this share of a middle weight's gradient.",
        most=0.99,
    )
    alpha: float = _value(0.05, "Every interval holds the truth with probability 1 - alpha.", most=0.1, lax=1)
    warmup: float = _value(0.10, "Share of the planned run that is dropped at the start.", most=1 / 3)
    min_seeds: float = _value(6, "Seeds that a decision over several runs needs at least.", least=3, lax=-1)
    min_experts: float = _value(
        3, "Perturbed and control experts, of each, that a decision in one run needs at least.", least=3, lax=-1
    )
    rows_share: float = _value(
        0.8, "Share of its planned rows that each of six bins of time needs at least.", least=0.5, most=1, lax=-1
    )
    reliability: float = _value(
        0.1, "Share of a squared gradient norm that two halves of a batch must agree on.", least=0.05, most=0.9, lax=-1
    )
    saturated: float = _value(
        0.9, "1 - cosine of the control experts above which a direction cannot show more.", least=0.5, most=2, lax=1
    )

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
            least, most = self.bounds(name)
            if not (least <= value <= most and 0 < value < math.inf):
                allowed = f"at least {least:g}" if math.isinf(most) else f"between {least:g} and {most:.3g}"
                raise ConfigError(f"{name} = {value!r} is not allowed; it must be above 0 and {allowed}")
        return replace(self, **{name: float(value) for name, value in changes.items()})

    @classmethod
    def bounds(cls, name: str) -> tuple[float, float]:
        """Return the smallest and the largest value that a threshold may have."""
        metadata = cls.__dataclass_fields__[name].metadata
        return metadata["least"], metadata["most"]

    def laxer(self) -> list[str]:
        """Return the names of the thresholds that make support easier than their defaults do."""
        values = [(entry, getattr(self, entry.name)) for entry in fields(self)]
        return [entry.name for entry, value in values if (value - entry.default) * entry.metadata["lax"] > 0]

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
        """Return (registered value, used value) of each threshold that differs, by name.

        Another version of the rules has other thresholds; then only those of the same name are compared.
        """
        current = asdict(used)
        names = {**self.values, **current} if self.rules == RULES else self.values.keys() & current.keys()
        pairs = {name: (self.values.get(name), current.get(name)) for name in sorted(names)}
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
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _sha256(values: Mapping[str, float], rules: int) -> str:
    text = json.dumps({"rules": rules, **{name: float(value) for name, value in values.items()}}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
