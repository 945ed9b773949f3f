"""The records that wait to be written (StepRecord, InsertRow, ...) and their conversion to SQL rows and values.

`log()` only copies numbers that could still change; the writing thread does the rest. So `log()` costs microseconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from operator import ne
from threading import Event
from typing import Any, NamedTuple

from prismatic.contract.schema import STEP_COLUMNS

COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
STEP_SIZE = 10  # the memory and the time to write that a step takes beside its values, in values
IMMUTABLE = {float, int, bool, str, type(None)}
_INTEGER_COLUMNS = {column.name for column in STEP_COLUMNS if column.type == "INTEGER"}


class Refused(str):
    """The reason why a value cannot be logged, in place of the value."""


class StepRecord(NamedTuple):
    """A logged step: scalars of the wide table, and rows of `layers`, `pairs` and `histograms`."""

    step: int
    shape: tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]
    """The experts, how many scalars each has, and the names of all scalars; those of the step itself come last."""
    values: tuple[Any, ...]
    total: float | None
    """The sum of the values if all are Python numbers, else None. NaN if any value is NaN."""
    tables: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def size(self) -> int:
        """The number of values it holds, and STEP_SIZE for the step itself."""
        if not self.tables:
            return len(self.values) + STEP_SIZE
        return len(self.values) + STEP_SIZE + sum(len(rows) * len(rows[0]) for rows in self.tables.values() if rows)


class InsertRow(NamedTuple):
    """A row of a table other than the wide one."""

    table: str
    row: dict[str, Any]


class Rewind(NamedTuple):
    """A rewind of the training: delete the rows from `step` to `last`, the newest step so far."""

    step: int
    last: int


class AddColumns(NamedTuple):
    """Add the columns of this many experts to the wide table."""

    num_experts: int


class ClearTable(NamedTuple):
    """Delete all rows of a table before it is written again."""

    table: str


class Flush:
    """A request to the writing thread: set `done` when all earlier records are in the file or could not be written."""

    def __init__(self) -> None:
        self.done = Event()
        self.written = False


def step_record(step: int, dynamics: Mapping[str, Any], metrics: Mapping[str, Any]) -> StepRecord:
    """Return a record of a step; later changes of these dicts, or of tensors in them, do not change it.

    Raises any exception if the dicts do not have the form that `log_gradient_dynamics` returns.
    """
    others = {**dynamics.get("divergence_scores", {}), "wall_time": time.time()}
    for name in ("nonfinite", "missing_gradients"):
        if name in dynamics:
            others[name] = dynamics[name]
    for name, value in metrics.items():
        others[name] = value if type(value) is float else to_python(value)
    tables = {}
    for table in ("layers", "pairs", "histograms"):
        if table in dynamics:
            tables[table] = [*map(frozen_copy, dynamics[table])]
    gradients = dynamics["expert_gradients"]
    groups = [*gradients.values(), others]
    # Tuples of strings and numbers alone: the garbage collector of the training process stops tracking them.
    shape = tuple(gradients), tuple(map(len, groups)), tuple(chain.from_iterable(groups))
    values = tuple(chain.from_iterable([group.values() for group in groups]))
    try:
        # A cheap test: the sum is a Python float only if every value is a Python number.
        total = sum(values)
        if type(total) is float:
            # The constructor of a NamedTuple is Python code and takes twice as long.
            return tuple.__new__(StepRecord, (step, shape, values, total, tables))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass  # None, or not a number
    return StepRecord(step, shape, tuple(map(to_python, values)), None, tables)


def frozen_copy(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with Python numbers: a tensor or an array may be overwritten before it reaches the file."""
    if IMMUTABLE.issuperset(map(type, values.values())):
        return dict(values)
    return {name: to_python(value) for name, value in values.items()}


def to_python(value: Any) -> Any:
    """Return a Python number: sqlite3 stores numpy.float32 as bytes and refuses numpy.int64 as a key."""
    if type(value) in IMMUTABLE:
        return value
    try:
        if hasattr(value, "item"):  # numpy and torch; float() would warn about a tensor that requires a gradient
            value = value.item()
        return value if type(value) in IMMUTABLE else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        return Refused(str(error))


class Columns(NamedTuple):
    """The columns of the wide table that records of one shape fill."""

    names: tuple[str, ...]
    positions: tuple[int, ...] | None
    """The index of each column's value in a record; None if the record has exactly these values in this order."""
    refused: tuple[str, ...]
    """Names that are not valid as column names."""


class ColumnCache:
    """Computes the columns of records and keeps the last result: building names takes longer than writing values."""

    def __init__(self) -> None:
        self._shape: tuple[Any, ...] = ()
        self._columns = Columns((), None, ())

    def of(self, record: StepRecord) -> Columns:
        """Return the record's columns; consecutive records of the same shape get the same object."""
        if record.shape != self._shape:
            experts, lengths, names = record.shape
            prefixes = chain.from_iterable(
                [f"{expert}_"] * length for expert, length in zip(experts, lengths, strict=False)
            )
            self._shape = record.shape
            self._columns = _columns([f"{prefix}{name}" for prefix, name in zip_longest(prefixes, names, fillvalue="")])
        return self._columns


def _columns(names: Sequence[str]) -> Columns:
    valid = {name: index for index, name in enumerate(names) if COLUMN_NAME.fullmatch(name) and name != "step"}
    refused = tuple(name for name in names if name not in valid)
    positions = tuple(valid.values()) if len(valid) < len(names) else None
    return Columns(tuple(valid), positions, refused)


def wide_row(record: StepRecord, columns: Columns) -> tuple[int, Sequence[Any]]:
    """Return the number of NaN values, and the values of these columns, with Refused for those that are not numbers."""
    values: Sequence[Any] = record.values
    if columns.positions is not None:
        values = [values[index] for index in columns.positions]
    if record.total is None:
        types = ["INTEGER" if name in _INTEGER_COLUMNS else "REAL" for name in columns.names]
        values = [to_sql_value(value, sql_type) for value, sql_type in zip(values, types, strict=True)]
    elif record.total == record.total:
        return 0, values
    return sum(map(ne, values, values)), values  # NaN is the only value that differs from itself


def to_sql_value(value: Any, sql_type: str) -> Any:
    """Return the value for a column of this SQL type, or Refused with the reason."""
    if value is None or isinstance(value, Refused) or (sql_type == "TEXT" and isinstance(value, str)):
        return value
    try:
        if sql_type == "INTEGER":
            return int(value)
        return float(value) if sql_type == "REAL" else str(value)
    except (TypeError, ValueError, OverflowError) as error:
        return Refused(str(error))
