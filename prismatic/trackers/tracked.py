"""A run of any tracker (TrackedRun), and the number and config helpers that the readers share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

STEP_NAMES = ("prismatic/step", "step", "_step", "global_step", "trainer/global_step", "train/global_step", "Step")
"""Names of a step column, in order of preference; our own mirror writes the first."""
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass
class TrackedRun:
    """A run as a tracker stored it."""

    name: str
    tracker: str
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    """For each metric, its value at each step; of several values at one step, the last."""
    wall_times: dict[int, float] = field(default_factory=dict)
    """The time of each step's first row, in seconds since 1970, if the tracker stores it."""
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Sentences about what the reader skipped."""

    def add(self, step: int, values: Mapping[str, Any], wall_time: float | None = None) -> None:
        """Add the numbers among these values; text, pictures and other types are not metrics."""
        for name, value in values.items():
            number = as_number(value)
            if number is not None:
                self.metrics.setdefault(name, {})[step] = number
        if wall_time is not None:  # an evaluation of the step may be logged much later
            self.wall_times[step] = min(wall_time, self.wall_times.get(step, wall_time))

    def with_steps_of(self, name: str) -> TrackedRun:
        """Return the run with the values of one of its metrics as steps; drop values at steps without it."""
        steps = {old: int(new) for old, new in self.metrics[name].items() if math.isfinite(new)}
        metrics = {
            other: {steps[old]: value for old, value in values.items() if old in steps}
            for other, values in self.metrics.items()
            if other != name
        }
        walls = {steps[old]: wall for old, wall in self.wall_times.items() if old in steps}
        return TrackedRun(self.name, self.tracker, metrics, walls, self.config, self.notes)


def as_number(value: Any) -> float | None:
    """Return a number as a float, also NaN and infinities written as text in JSON; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return NOT_FINITE.get(value) if isinstance(value, str) else None


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the scalars of a nested config under dotted names, without the tracker's own, which begin with `_`."""
    for key, value in config.items():
        if str(key).startswith("_"):
            continue
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool):
            yield f"{prefix}{key}", value
