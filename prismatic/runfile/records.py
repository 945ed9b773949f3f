"""What waits to be written, and the rows it becomes.

A record is taken when it is logged: numbers that could still change are read then, everything else is done later, in
the thread that writes. So `log()` costs microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from operator import ne
from threading import Event
from typing import Any, NamedTuple

from prismatic.contract.schema import STEP_COLUMNS

COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
UNCHANGEABLE = {float, int, bool, str, type(None)}
_INTEGERS = {column.name for column in STEP_COLUMNS if column.type == "INTEGER"}


class Refused(str):
    """Why a value is not logged, in place of the value."""


class Measured(NamedTuple):
    """One logged step: scalars of the wide table, and rows of the tables beside it."""

    step: int
    shape: tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]
    """Experts, how many scalars each has, and the names of all; the step's own stand at the end, behind no expert."""
    values: tuple[Any, ...]
    total: float | None
    """Their sum, where all are Python numbers: NaN as soon as one is."""
    tables: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def size(self) -> int:
        """How many values it holds."""
        return len(self.values) + sum(len(rows) * len(rows[0]) for rows in self.tables.values() if rows)


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


class Emptied(NamedTuple):
    """A table is about to be told anew."""

    table: str


class Flush:
    """Asks the writer to say when everything before it is in the file, or could not be written."""

    def __init__(self) -> None:
        self.done = Event()
        self.written = False


def measured(
    step: int,
    gradients: Mapping[str, Mapping[str, Any]],
    others: dict[str, Any],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Measured:
    """A record of a step as it is now, whatever becomes of these dicts and of tensors in them."""
    groups = [*gradients.values(), others]
    # Tuples: of strings and numbers alone, the garbage collector of the training process looks at each only once.
    shape = tuple(gradients), tuple(map(len, groups)), tuple(chain.from_iterable(groups))
    values = tuple(chain.from_iterable([group.values() for group in groups]))
    try:
        # It costs little, and is a Python float only if every part of it is a Python number.
        total = sum(values)
        if type(total) is float:
            return Measured(step, shape, values, total, tables)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass  # None, or what is no number
    return Measured(step, shape, tuple(map(number, values)), None, tables)


def taken(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of these values as they are now: a tensor or an array may be written over before it reaches the file."""
    if UNCHANGEABLE.issuperset(map(type, values.values())):
        return dict(values)
    return {name: number(value) for name, value in values.items()}


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


class Columns(NamedTuple):
    """The columns of the wide table that records of one shape fill."""

    names: tuple[str, ...]
    places: tuple[int, ...] | None
    """Which of a record's values they take; None: all of them, in their order."""
    refused: tuple[str, ...]
    """Names that can be no column."""


class Shapes:
    """The columns of records, remembered: thousands share a few, and names take longer to make than values to write."""

    def __init__(self) -> None:
        self._last: tuple[Any, ...] = ()
        self._columns = Columns((), None, ())

    def of(self, record: Measured) -> Columns:
        """The record's columns; the same object for records of the same shape that come one after another."""
        if record.shape != self._last:
            experts, lengths, names = record.shape
            prefixes = chain.from_iterable(
                [f"{expert}_"] * length for expert, length in zip(experts, lengths, strict=False)
            )
            self._last = record.shape
            self._columns = _columns([f"{prefix}{name}" for prefix, name in zip_longest(prefixes, names, fillvalue="")])
        return self._columns


def _columns(names: Sequence[str]) -> Columns:
    sound = {name: place for place, name in enumerate(names) if COLUMN_NAME.fullmatch(name) and name != "step"}
    refused = tuple(name for name in names if name not in sound)
    places = tuple(sound.values()) if len(sound) < len(names) else None
    return Columns(tuple(sound), places, refused)


def wide_row(record: Measured, columns: Columns) -> tuple[int, Sequence[Any]]:
    """How many of the values are NaN, and the values of these columns; Refused for what is no number."""
    values: Sequence[Any] = record.values
    if columns.places is not None:
        values = [values[place] for place in columns.places]
    if record.total is None:
        kinds = ["INTEGER" if name in _INTEGERS else "REAL" for name in columns.names]
        values = [plain(value, kind) for value, kind in zip(values, kinds, strict=True)]
    elif record.total == record.total:
        return 0, values
    return sum(map(ne, values, values)), values  # NaN is the only value that differs from itself


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
