"""What any tracker's run comes to, and small things that several readers share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

STEP_NAMES = ("prismatic/step", "step", "_step", "global_step", "trainer/global_step", "train/global_step", "Step")
"""Under which a step is looked for in what has none of its own; the first is that of our own mirror."""
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass
class Tracked:
    """One run as a tracker kept it."""

    name: str
    tracker: str
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    """By their name, the value at each step; of several at one step the last."""
    wall_times: dict[int, float] = field(default_factory=dict)
    """When each step was logged, in seconds since 1970; only where the tracker says."""
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What was left out while reading, in sentences."""

    def add(self, step: int, values: Mapping[str, Any], wall_time: float | None = None) -> None:
        """Take in the numbers among these values; whatever else a tracker keeps (text, pictures) is no metric."""
        for name, value in values.items():
            number = as_number(value)
            if number is not None:
                self.metrics.setdefault(name, {})[step] = number
        if wall_time is not None:
            self.wall_times[step] = wall_time

    def by_step_of(self, name: str) -> Tracked:
        """The same run counted by one of its own metrics; what has no value of it is left out."""
        steps = {old: int(new) for old, new in self.metrics[name].items() if math.isfinite(new)}
        metrics = {
            other: {steps[old]: value for old, value in values.items() if old in steps}
            for other, values in self.metrics.items()
            if other != name
        }
        walls = {steps[old]: wall for old, wall in self.wall_times.items() if old in steps}
        return Tracked(self.name, self.tracker, metrics, walls, self.config, self.notes)


def as_number(value: Any) -> float | None:
    """A number, also as JSON writes what is not finite; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return NOT_FINITE.get(value) if isinstance(value, str) else None


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The scalars of a nested config by dotted names; names with an underscore first are the tracker's own."""
    for key, value in config.items():
        if str(key).startswith("_"):
            continue
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool):
            yield f"{prefix}{key}", value
