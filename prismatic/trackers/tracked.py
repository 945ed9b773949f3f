"""A run of any tracker (TrackedRun), and the helpers for numbers and configs that the readers share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError

STEP_NAMES = ("prismatic/step", "step", "_step", "global_step", "trainer/global_step", "train/global_step", "Step")
"""Names of a step column, in order of preference; our own mirror writes the first."""
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
NUMBER = re.compile(r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
MAX_VALUES, MAX_OPTIONS, MAX_STEP = 10_000_000, 1000, 2**63 - 1
MAX_JSON_BYTES = 256 << 20


@dataclass
class TrackedRun:
    """A run as a tracker stored it."""

    name: str
    tracker: str
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    """For each metric, its value at each step; of several values at one step, the last."""
    wall_times: dict[int, float] = field(default_factory=dict)
    """The time of each step's first row, in seconds since 1970, if the tracker stores it."""
    config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Sentences about what the reader skipped."""
    id: str = ""
    """The id by which the tracker tells runs of one name apart."""
    group: str = ""
    """The tracker's name for what the run belongs to: an experiment or a project."""
    file: str = ""
    """The path of the run's file or folder, as the user gave it."""
    planned_steps: int | None = None
    values: int = 0
    """The number of values that were added."""

    @property
    def names(self) -> tuple[str, ...]:
        """The texts that may say what the run is, the most telling first."""
        return tuple(filter(None, (self.name, self.group, self.file)))

    def is_wanted(self, only: str | None) -> bool:
        """Return whether this is the run that the user named, by its name or id; True if none was named."""
        return only is None or only in (self.name, self.id)

    def add(self, step: int, values: Mapping[str, Any], wall_time: float | None = None) -> None:
        """Add the numbers among these values; text, pictures and other types are not metrics.

        Raises TrackerError at more values than fit into memory.
        """
        if abs(step) > MAX_STEP:
            self.notes.append("a step is larger than a run file can hold, and was left out")
            return
        for name, value in values.items():
            number = as_number(value)
            if number is not None:
                self.metrics.setdefault(name, {})[step] = number
                self.values += 1
        if self.values > MAX_VALUES:
            raise TrackerError(
                f"run {self.name}: expected at most {MAX_VALUES:,} values, found more. "
                "Export the metrics of the experts alone as a table, and import that."
            )
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
        return replace(self, metrics=metrics, wall_times=walls)


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


def literal(text: str) -> int | float | str:
    """Return the number that a text writes out in decimal digits, else the text."""
    if not NUMBER.fullmatch(text):
        return text
    try:
        return int(text)
    except ValueError:
        return float(text) if math.isfinite(float(text)) else text


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the scalars of a nested config under dotted names, without the tracker's own, which begin with `_`."""
    for key, value in config.items():
        if str(key).startswith("_"):
            continue
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool):
            yield f"{prefix}{key}", value


def last_part(name: str) -> str:
    """Return the last part of a config's nested name, as `seed` of `train.seed` and `config/Seed`."""
    return re.split("[./]", name.lower())[-1]


def read_text(path: Path, most_bytes: int = MAX_JSON_BYTES) -> str:
    """Return the text of a file. Raises TrackerError if it is larger than `most_bytes`, OSError, UnicodeError."""
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise TrackerError(f"{path}: expected at most {most_bytes:,} bytes, found more.")
    return data.decode("utf-8-sig")


def name_of(path: Path, source: Path) -> str:
    """Return a run's name by its folder: its place in the folder that was given, else the last two folders."""
    if path == source:
        return "-".join(path.absolute().parts[1:][-2:])
    return path.relative_to(source).as_posix()
