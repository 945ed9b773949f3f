"""Checksums of a run file's columns, as its writer computes them: recorded at the end, removed at the next start.

The writing thread has the values at hand and adds them to the hashes with each transaction, so that closing a file does
not read it. It reads small tables at the end, and those of which rows were replaced or removed.
"""

from __future__ import annotations

import json
import re
import sqlite3
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import lt
from typing import TYPE_CHECKING, Any, NamedTuple

from prismatic.contract.checksums import FACT, ColumnHash, covered_columns
from prismatic.contract.schema import SIDE_TABLES, STEP_TABLES, TABLES

if TYPE_CHECKING:
    import numpy as np
    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray

BATCH_CELLS = 50_000  # values at once as Python objects: few enough to stay in the processor's cache
NULLS_AT_ONCE = 100_000
MAX_ROWID = 2**62  # after row 2^63 - 1, SQLite gives rows random places
NAN = float("nan")
OTHER_TYPE = (TypeError, AttributeError, OverflowError)  # what packing raises for a value of another type
DECLARED = {
    "d": ("REAL", "INTEGER"),
    "q": ("INTEGER",),
    "t": ("TEXT",),
    "b": ("BLOB",),
}  # types that keep values of each kind
TABLE_NAMES = ("dynamics", *SIDE_TABLES)

Streams = tuple["ReadableBuffer", bytes]
"""Values of a column as the two streams that prismatic/contract/checksums.py describes."""


class TableHashes:
    """The hashes of a table's columns, fed with its rows in order. A column is NULL in the rows that do not name it."""

    def __init__(self) -> None:
        self._rows = 0
        self._columns: dict[str, _Column] = {}
        self._matrix = _Matrix()

    def add(self, kinds: Mapping[str, str | None], rows: Sequence[Sequence[Any]]) -> list[str]:
        """Add the next rows, whose columns have these kinds; None for a column without checksum.

        Return the columns with a value of another type, whose hashes are meaningless from then on.
        """
        numbers, mistyped = self._matrix.of(rows), []
        for i, (name, kind) in enumerate(kinds.items()):
            if kind is None:
                continue
            try:
                if kind == "d" and numbers is not None:
                    streams: Streams = numbers[i].data, b""
                else:
                    streams = _streams(kind, [row[i] for row in rows])
                self._column(name, kind).add(streams, len(rows))
            except OTHER_TYPE:
                mistyped.append(name)
        self._rows += len(rows)
        return mistyped

    def hexdigests(self, kinds: Mapping[str, str]) -> dict[str, str]:
        """Return the hashes of these columns, given with their kinds."""
        return {name: self._column(name, kind).hash.hexdigest() for name, kind in kinds.items()}

    def _column(self, name: str, kind: str) -> _Column:
        """Return a column that holds all rows so far."""
        if name not in self._columns:
            self._columns[name] = _Column(kind)
        column = self._columns[name]
        if column.rows < self._rows:
            column.add_nulls(self._rows)
        return column


class _Column:
    def __init__(self, kind: str) -> None:
        self.hash = ColumnHash()
        self.rows = 0
        self._null = _streams(kind, [None])

    def add(self, streams: Streams, rows: int) -> None:
        self.hash.add(*streams)
        self.rows += rows

    def add_nulls(self, until: int) -> None:
        """Fill the column with NULL until it has this number of rows."""
        values, rest = bytes(self._null[0]), self._null[1]
        while missing := min(until - self.rows, NULLS_AT_ONCE):
            self.add((values * missing, rest * missing), missing)


class Staged(NamedTuple):
    """Rows that the open transaction has inserted by statements with the same columns."""

    table: str
    names: Sequence[str]
    rows: list[Sequence[Any]]


class RunningChecksums:
    """The checksums of a file, kept up to date with the rows that its writer appends to the tables of steps."""

    def __init__(self) -> None:
        self._appended = {table: TableHashes() for table in STEP_TABLES}
        self._last_step = -(2**63) - 1
        self._staged: dict[str, list[Staged]] = {}

    def stage(self, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Take rows that the open transaction has inserted, and that replaced none."""
        if table not in self._appended:
            return
        staged = self._staged.setdefault(table, [])
        if staged and staged[-1].names == names:
            staged[-1].rows.extend(rows)
        else:
            staged.append(Staged(table, names, [*rows]))

    def commit(self) -> None:
        """Add the rows of the transaction, which is in the file now."""
        for staged in chain.from_iterable(self._staged.values()):
            if staged.table in self._appended:
                self._add(*staged)
        self._staged.clear()

    def _add(self, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if table == "dynamics":  # the table is in the order of its steps
            step = names.index("step")
            steps = [self._last_step, *(row[step] for row in rows)]
            self._last_step = steps[-1]
            if not all(map(lt, steps, steps[1:])):
                self.forget(table)
                return
        kinds, hashes = _inserted_kinds(table, tuple(names)), self._appended[table]
        size = max(1, BATCH_CELLS // len(names))
        batches = (rows[start : start + size] for start in range(0, len(rows), size))
        # SQLite may have converted a value of another type.
        if not kinds or any(hashes.add(kinds, batch) for batch in batches):
            self.forget(table)

    def roll_back(self) -> None:
        """Discard the rows of the transaction."""
        self._staged.clear()

    def forget(self, *tables: str) -> None:
        """Read these tables at the end: their rows were not only appended."""
        for table in tables:
            self._appended.pop(table, None)

    def resume(self, connection: sqlite3.Connection) -> str | None:
        """Continue with the rows of a file; return a column whose values are not those of its checksum, if any.

        If the file has no checksums, all tables are read at the end.
        """
        self.forget(*STEP_TABLES)
        recorded = _recorded(connection)
        if recorded is None:
            return None
        tables = {table: _read(connection, table) for table in TABLE_NAMES}
        found = {table: hashes.hexdigests(kinds) for table, (hashes, kinds) in tables.items()}
        if changed := _first_difference(recorded, found):
            return changed
        self._appended = {
            table: tables[table][0]
            for table in STEP_TABLES
            if _only_appends(connection, table) and tables[table][1] == _covered(connection, table)
        }
        self._last_step = connection.execute("SELECT coalesce(max(step), ?) FROM dynamics", (-(2**63),)).fetchone()[0]
        return None

    def compute(self, connection: sqlite3.Connection) -> dict[str, dict[str, str]]:
        """Return by table and column the checksum of its values, after the last transaction."""
        return {
            table: self._appended[table].hexdigests(_covered(connection, table))
            if table in self._appended
            else _checksums_of(connection, table)
            for table in TABLE_NAMES
        }


def record_checksums(connection: sqlite3.Connection, running: RunningChecksums | None = None) -> None:
    """Write the checksums of every column into table `run`. The caller opens the transaction."""
    found = running.compute(connection) if running else compute_checksums(connection)
    text = json.dumps(found, separators=(",", ":"))
    connection.execute("INSERT OR REPLACE INTO run (key, value) VALUES (?, ?)", (FACT, text))


def remove_checksums(connection: sqlite3.Connection) -> None:
    """Remove the checksums before rows are added. The caller opens the transaction."""
    connection.execute("DELETE FROM run WHERE key = ?", (FACT,))


def compute_checksums(connection: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """Read the file and return the checksums by table and column; a column with a value of another type has none."""
    return {table: _checksums_of(connection, table) for table in TABLE_NAMES}


def _recorded(connection: sqlite3.Connection) -> Any:
    """Return the value of the fact; None if there is none."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'run'").fetchone():
        return None
    found = connection.execute("SELECT value FROM run WHERE key = ?", (FACT,)).fetchone()
    return found and (found[0] or "")


def _first_difference(recorded: Any, found: Mapping[str, Mapping[str, str]]) -> str | None:
    """Return the first column whose recorded checksum is not the one found."""
    try:
        return next(
            (
                f"{table}.{column}"
                for table, columns in json.loads(recorded).items()
                for column, checksum in columns.items()
                if found.get(table, {}).get(column) != checksum
            ),
            None,
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"run.{FACT}"


def _only_appends(connection: sqlite3.Connection, table: str) -> bool:
    """Return whether an INSERT appends its values to this table, unchanged, as it does in those that we create."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'trigger'").fetchone():
        return False
    key = "step" if table == "dynamics" else ", ".join(TABLES[table][1])
    column = r'"?[a-z][a-z0-9_]*"? (?:REAL|INTEGER|TEXT|BLOB)'  # no default, no constraint, not generated
    pattern = rf'CREATE TABLE "?{table}"? \((?:{column}, )+PRIMARY KEY \({key}\)(?:, {column})*\)'
    found = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
    if found is None or not re.fullmatch(pattern, found[0]):  # earlier versions have no packed tables
        return False
    types = {str(name): str(kind) for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")}
    (rowid,) = connection.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").fetchone()
    covered = covered_columns(table, types)
    return rowid < MAX_ROWID and all(types[name] in DECLARED[kind] for name, kind in covered.items())


@lru_cache(maxsize=100)
def _inserted_kinds(table: str, names: tuple[str, ...]) -> dict[str, str | None]:
    """Return the kind of each column of a statement; nothing if a column is named twice or in an unusual way."""
    kinds = covered_columns(table, names)
    if len({*names}) < len(names) or (table != "dynamics" and len(kinds) < len(names)):
        return {}
    return {name: kinds.get(name) for name in names}


def _covered(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    """Return the kind of each column of the file's table that has a checksum."""
    declared = {str(name): str(kind) for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")}
    # Readers skip columns of text in `dynamics`, which other writers added before an upgrade.
    names = [name for name, kind in declared.items() if table != "dynamics" or kind in ("REAL", "INTEGER")]
    return covered_columns(table, names)


def _checksums_of(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    hashes, kinds = _read(connection, table)
    return hashes.hexdigests(kinds)


def _read(connection: sqlite3.Connection, table: str) -> tuple[TableHashes, dict[str, str]]:
    """Read a table; return its hashes and the kinds of the columns that have a checksum."""
    hashes, kinds = TableHashes(), _covered(connection, table)
    if not kinds:
        return hashes, {}
    selected = ", ".join(f'"{name}"' for name in kinds)
    others = f" WHERE key IS NOT '{FACT}'" if table == "run" else ""
    cursor = connection.execute(f"SELECT {selected} FROM {table} NOT INDEXED{others}")
    names = {**kinds}
    while rows := cursor.fetchmany(max(1, BATCH_CELLS // len(names))):
        for name in hashes.add(names, rows):
            kinds.pop(name, None)
    return hashes, kinds


class _Matrix:
    """Numbers of rows, column by column, in memory that is used again: new memory of this size costs half of the time.

    This is several times as fast as making each column from Python numbers.
    """

    def __init__(self) -> None:
        self._packed = bytearray()
        self._stored: NDArray[np.float64] | None = None

    def of(self, rows: Sequence[Sequence[Any]]) -> NDArray[np.float64] | None:
        """Return all values as SQLite stores numbers in REAL columns, until the next call; None if one is no number."""
        columns = len(rows[0])
        row = struct.Struct(f"{columns}d")
        size = row.size * len(rows)
        if len(self._packed) < size or self._stored is None:
            import numpy as np  # here: a command that writes nothing starts without it

            self._packed, self._stored = bytearray(size), np.empty(size // 8)
        pack = row.pack_into
        try:
            for start, values in zip(range(0, size, row.size), rows, strict=True):
                pack(self._packed, start, *values)
        except (struct.error, OverflowError):
            return None
        return _as_stored(memoryview(self._packed)[:size], columns, self._stored[: size // 8])


def _as_stored(
    packed: memoryview | array[float], columns: int, out: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return float64 of rows, column by column, as SQLite stores them: NaN, which has many forms, as NULL, -0.0 as 0.0.

    The result is little-endian.
    """
    import numpy as np

    numbers: NDArray[np.float64] = np.frombuffer(packed, np.float64).reshape(-1, columns).T
    stored: NDArray[np.float64] = np.add(numbers, 0.0, out=None if out is None else out.reshape(columns, -1), order="C")
    missing = np.isnan(stored)
    if missing.any():
        stored[missing] = NAN
    return stored.astype("<f8", copy=False)


def _streams(kind: str, cells: Sequence[Any]) -> Streams:
    """Return a column as two streams. Raises one of OTHER_TYPE for a value of another type."""
    if kind == "d":
        numbers = array("d", [NAN if cell is None else cell for cell in cells])
        return _as_stored(numbers, 1)[0].data, b""
    present = bytes(cell is not None for cell in cells)
    if kind == "q":
        return _to_bytes(array("q", [0 if cell is None else cell for cell in cells])), present
    texts = [None if cell is None else cell if kind == "b" else cell.encode() for cell in cells]
    lengths = _to_bytes(array("i", [-1 if text is None else len(text) for text in texts]))
    return lengths, b"".join(filter(None, texts))


def _to_bytes(numbers: array[Any]) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
