"""What waits to be written, and the rows it becomes.

A record is taken when it is logged: numbers that could still change are read then, everything else is done later, in
the thread that writes. So `log()` costs microseconds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from operator import ne
from struct import Struct
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from prismatic.schema import STEP_COLUMNS

COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
UNCHANGEABLE = {float, int, bool, str, type(None)}
_INTEGERS = {column.name for column in STEP_COLUMNS if column.type == "INTEGER"}


class Refused(str):
    """Why a value is not logged, in place of the value."""


class Columns(NamedTuple):
    """The columns of the wide table that records of one shape fill."""

    names: tuple[str, ...]
    places: tuple[int, ...] | None
    """Which of a record's values they take; None: all of them, in their order."""
    refused: tuple[str, ...]
    """Names that can be no column."""
    packing: Struct
    """All of a record's values as eight bytes each."""


class Measured(NamedTuple):
    """One logged step: values of the wide table, and rows of the tables beside it."""

    step: int
    columns: Columns
    values: bytes | list[Any]
    """Packed, where all are numbers."""
    tables: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def size(self) -> int:
        """How many values it holds."""
        beside = sum([len(rows) * len(rows[0]) for rows in self.tables.values() if rows]) if self.tables else 0
        return len(self.columns.names) + beside


class Told(NamedTuple):
    """A row of a table beside the measurements."""

    table: str
    row: dict[str, Any]


class Rewound(NamedTuple):
    """Training went back: the rows of `step` and of all later ones are of a course that was given up."""

    step: int
    last: int


class Widened(NamedTuple):
    """The wide table needs the columns of this many experts."""

    num_experts: int


class Flush:
    """Asks the writer to say when everything before it is in the file, or could not be written."""

    def __init__(self) -> None:
        self.done = Event()
        self.written = False


class Shapes:
    """Makes records, and remembers their column names: thousands share a few, and names take longer than values."""

    def __init__(self) -> None:
        self._last: tuple[list[str], list[int], list[str]] = ([], [], [])
        self._columns = _columns([])

    def measured(
        self,
        step: int,
        gradients: Mapping[str, Mapping[str, Any]],
        others: Mapping[str, Any],
        tables: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> Measured:
        """A record of a step: gradients by expert, whose columns are called {expert}_{name}, and other scalars."""
        groups = [*gradients.values(), others]
        shape = list(gradients), list(map(len, groups)), list(chain.from_iterable(groups))
        if shape != self._last:
            own = (f"{expert}_{name}" for expert, values in gradients.items() for name in values)
            self._last, self._columns = shape, _columns([*own, *others])
        values = list(chain.from_iterable([group.values() for group in groups]))
        # Tensors come in whole groups or not at all; and torch warns where packing reads one that has a gradient.
        if not hasattr(values[0], "item"):
            with suppress(struct.error, TypeError, OverflowError):  # None, or what is no number
                return Measured(step, self._columns, self._columns.packing.pack(*values), tables)
        return Measured(step, self._columns, list(map(number, values)), tables)


def _columns(names: Sequence[str]) -> Columns:
    sound = {name: place for place, name in enumerate(names) if COLUMN_NAME.fullmatch(name) and name != "step"}
    refused = tuple(name for name in names if name not in sound)
    places = tuple(sound.values()) if len(sound) < len(names) else None
    return Columns(tuple(sound), places, refused, Struct(f"{len(names)}d"))


def taken(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of these values as they are now: a tensor or an array may be written over before it reaches the file."""
    return (
        dict(values)
        if UNCHANGEABLE.issuperset(map(type, values.values()))
        else {name: number(value) for name, value in values.items()}
    )


def number(value: Any) -> Any:
    """A Python number: sqlite3 would store numpy.float32 as bytes and refuse numpy.int64 as a key."""
    if type(value) in UNCHANGEABLE:
        return value
    try:
        if hasattr(value, "item"):  # numpy and torch; float() would warn of a tensor that requires a gradient
            value = value.item()
        return value if type(value) in UNCHANGEABLE else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        return Refused(str(error))


def wide_values(run: Sequence[Measured]) -> list[tuple[int, list[Any]]]:
    """Of records with the same columns, how many values are NaN, and the values; Refused for what is no number."""
    columns = run[0].columns
    packed = b"".join([record.values for record in run if isinstance(record.values, bytes)])
    matrix = np.frombuffer(packed).reshape(-1, columns.packing.size // 8)
    if columns.places is not None:
        matrix = matrix[:, list(columns.places)]
    rows = zip(np.isnan(matrix).sum(1).tolist(), matrix.tolist(), strict=True)
    return [next(rows) if isinstance(record.values, bytes) else _loose_values(record) for record in run]


def _loose_values(record: Measured) -> tuple[int, list[Any]]:
    columns, values = record.columns, list(record.values)
    if columns.places is not None:
        values = [values[place] for place in columns.places]
    kinds = ["INTEGER" if name in _INTEGERS else "REAL" for name in columns.names]
    # NaN is the only value that differs from itself.
    return sum(map(ne, values, values)), [plain(value, kind) for value, kind in zip(values, kinds, strict=True)]


def plain(value: Any, kind: str) -> Any:
    """The value as a column of this SQL type takes it, or why it cannot."""
    if value is None or isinstance(value, Refused) or (kind == "TEXT" and isinstance(value, str)):
        return value
    try:
        if kind == "INTEGER":
            return int(value)
        return float(value) if kind == "REAL" else str(value)
    except (TypeError, ValueError, OverflowError) as error:
        return Refused(str(error))
