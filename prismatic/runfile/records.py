"""The records that wait to be written (StepRecord, InsertRow, ...) and their conversion to SQL rows and values.

`log()` only copies numbers that could still change; the writing thread does the rest. So `log()` costs microseconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from operator import ne
from statistics import fmean
from threading import Event
from typing import Any, NamedTuple

from prismatic.contract.packing import PackedRows
from prismatic.contract.schema import PACKED_ABOVE, PACKED_TABLES, PEER

COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
STEP_SIZE = 10  # the memory and the time to write that a step takes beside its values, in values
IMMUTABLE = {float, int, bool, str, bytes, type(None)}
NUMBER_BYTES = 64  # of memory that a Python number takes; the arrays of packed rows take far less
TAKEN = ("step", "nan_values")  # columns that the logger fills itself
NAME_RULE = "a column name has at most 63 lower-case letters, digits and underscores, and is not `step` or `nan_values`"
TWICE = "the step has two values of this name, and the first is kept"


class Refused(str):
    """The reason why a value cannot be logged, in place of the value."""


Shape = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]
"""The experts, and the names of the scalars of each; those of the step itself and its metrics come last."""
BEFORE_SCALARS = 2  # step and nan_values, at the beginning of a row


class StepRecord(NamedTuple):
    """A logged step: scalars of the wide table, and rows of `layers`, `pairs` and `histograms` or their packed form."""

    step: int
    shape: Shape
    row: tuple[Any, ...]
    """The step, the number of NaN values (0 until `wide_row` counts them), and the scalars that `shape` names."""
    total: float | None
    """The sum of the row if all of it are Python numbers, else None. NaN if any value is NaN."""
    tables: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def size(self) -> int:
        """The number of values it holds, and STEP_SIZE for the step itself."""
        if not self.tables:
            return len(self.row) + STEP_SIZE
        return len(self.row) + STEP_SIZE + sum(_size(table, rows) for table, rows in self.tables.items() if rows)


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


def _size(table: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of values in rows of one table, as Python numbers of the same memory."""
    cells = len(rows) * len(rows[0])
    if table not in PACKED_TABLES.values():
        return cells
    arrays = sum(len(value) for value in rows[0].values() if type(value) is bytes)
    return cells + len(rows) * arrays // NUMBER_BYTES


def step_record(
    step: int, dynamics: Mapping[str, Any], metrics: Mapping[str, Any], known: Shape | None = None
) -> StepRecord:
    """Return a record of a step; later changes of these dicts, or of tensors in them, do not change it.

    known: the shape of an earlier record, which is shared if it is the same. Raises any exception if the dicts do not
    have the form that `log_gradient_dynamics` returns.
    """
    gradients, scores = dynamics["expert_gradients"], dynamics.get("divergence_scores", {})
    if "roles" in dynamics and len(gradients) > PACKED_ABOVE:
        gradients, scores = means_by_role(gradients, scores, dynamics["roles"]), {}
    others = {**scores} if "wall_time" in metrics else {**scores, "wall_time": time.time()}
    for name in ("nonfinite", "missing_gradients"):
        if name in dynamics:
            others[name] = dynamics[name]
    own = {name: value if type(value) is float else to_python(value) for name, value in metrics.items()}
    tables: dict[str, Sequence[Mapping[str, Any]]] = {}
    for table in ("layers", "pairs", "histograms"):
        if table not in dynamics:
            continue
        rows = dynamics[table]
        if isinstance(rows, PackedRows):
            tables[PACKED_TABLES[table]] = rows.packed
        else:
            tables[table] = [*map(frozen_copy, rows)]
    groups = [*gradients.values(), others, own]
    # Tuples of strings and numbers alone: the garbage collector of the training process stops tracking them.
    shape = tuple(gradients), tuple(map(tuple, groups))
    if known is not None and shape == known:
        shape = known  # half of the memory, and later comparisons find the same object
    values: list[Any] = [step, 0]
    for group in groups:
        values += group.values()
    row = tuple(values)
    try:
        # A cheap test: the sum is a Python float only if every value is a Python number.
        total = sum(row)
        if type(total) is float:
            # The constructor of a NamedTuple is Python code and takes twice as long.
            return tuple.__new__(StepRecord, (step, shape, row, total, tables))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass  # None, or not a number
    return StepRecord(step, shape, tuple(map(to_python, row)), None, tables)


def means_by_role(
    gradients: Mapping[str, Mapping[str, Any]], scores: Mapping[str, Any], roles: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Return the means over the experts of each role, which stand for `expert_gradients` and scores of many experts.

    roles: of the experts, in order. An expert without a value is left out of the mean.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for expert, role in enumerate(roles):
        own = found.setdefault(f"role_{role}", {})
        for name, value in gradients.get(f"expert_{expert}", {}).items():
            values = own.setdefault("norm" if name in ("clean_norm", "perturbed_norm") else name, [])
            values += [] if value is None else [value]
        for name in () if role in ("clean", PEER) else ("divergence", "relative_divergence", "direction"):
            value = scores.get(f"expert_{expert}_{name}")
            own.setdefault(name, []).extend([] if value is None else [value])
    return {
        role: {name: fmean(values) if values else None for name, values in own.items()} for role, own in found.items()
    }


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
        return Refused(text_of(error))


def text_of(error: Exception) -> str:
    """Return what an error says; an object of the user's may raise one whose text cannot be made."""
    try:
        return str(error)
    except Exception:
        return type(error).__name__


class Columns(NamedTuple):
    """The columns of the wide table that records of one shape fill."""

    names: tuple[str, ...]
    positions: tuple[int, ...] | None
    """The index of each column's value in a record's row; None if the row has exactly these values in this order."""
    refused: Mapping[str, str]
    """Names that have no column, with the reason."""


class ColumnCache:
    """Computes the columns of records and keeps the last result: building names takes longer than writing values."""

    def __init__(self) -> None:
        self._shape: tuple[Any, ...] = ()
        self._columns = Columns((), None, {})

    def of(self, record: StepRecord) -> Columns:
        """Return the record's columns; consecutive records of the same shape get the same object."""
        if record.shape is not self._shape and record.shape != self._shape:
            experts, groups = record.shape
            prefixes = [*(f"{expert}_" for expert in experts), "", ""]
            self._shape = record.shape
            self._columns = _columns(
                [f"{prefix}{name}" for prefix, names in zip(prefixes, groups, strict=True) for name in names]
            )
        return self._columns


def _columns(names: Sequence[str]) -> Columns:
    valid: dict[str, int] = {}
    refused: dict[str, str] = {}
    for index, name in enumerate(names, BEFORE_SCALARS):
        if name in TAKEN or not COLUMN_NAME.fullmatch(name):
            refused[name] = NAME_RULE
        elif name in valid:
            refused[name] = TWICE
        else:
            valid[name] = index
    positions = tuple(valid.values()) if refused else None
    return Columns(tuple(valid), positions, refused)


def wide_row(record: StepRecord, columns: Columns) -> Sequence[Any]:
    """Return the step, the number of NaN values and the values of these columns; Refused for what is not a number."""
    row: Sequence[Any] = record.row
    if columns.positions is not None:
        row = [*row[:BEFORE_SCALARS], *(row[index] for index in columns.positions)]
    if record.total is None:
        row = [*row[:BEFORE_SCALARS], *(to_sql_value(value, "REAL") for value in row[BEFORE_SCALARS:])]
    elif record.total == record.total:
        return row
    nan_values = sum(map(ne, row, row))  # NaN is the only value that differs from itself
    return [row[0], nan_values, *row[BEFORE_SCALARS:]]


def to_sql_value(value: Any, sql_type: str) -> Any:
    """Return the value for a column of this SQL type, or Refused with the reason."""
    if value is None or isinstance(value, Refused) or (sql_type == "TEXT" and isinstance(value, str)):
        return value
    if sql_type == "BLOB":
        return value if isinstance(value, bytes) else Refused(f"{type(value).__name__} in place of bytes")
    try:
        if sql_type != "INTEGER":
            return float(value) if sql_type == "REAL" else str(value)
        whole = int(value)
        if whole != value or not -(2**63) <= whole < 2**63:
            return Refused("it is not a whole number of 64 bits")  # without the value: an event for each reason
        return whole
    except (TypeError, ValueError, OverflowError) as error:
        return Refused(text_of(error))
