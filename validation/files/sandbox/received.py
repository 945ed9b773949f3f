"""Tables as a child process sends them, page after page: names, types and sizes are checked before they are used.

sqlite_worker.py describes the form of a page. A child under a hostile file's control may send anything.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prismatic.contract import packing, schema
from validation.files.limits import ReadLimits
from validation.files.tables.dialects import LAYER_COLUMN, LAYER_METRICS

# May have as many rows as ReadLimits allows.
LONG_TABLES = ("dynamics", "layers", "packed_layers", "pairs", "packed_pairs", "scalars", "histograms")
HEADER_BYTES = 1 << 20
TEXT_BYTES, SIDE_ROWS = 64 << 20, 100_000  # of one side table, as in sqlite_worker.py
PIECE_BYTES = 1 << 20  # received at once, into memory that is used again
COLUMN_TYPES = {table: {column.name: column.type for column in schema.TABLES[table][0]} for table in schema.SIDE_TABLES}
KINDS = {"INTEGER": ("q", "q?"), "REAL": ("d", "d?"), "TEXT": ("t",), "BLOB": ("b",)}


class ProtocolError(Exception):
    """The child's reply ends early or breaks the protocol."""


def read_line(stream: IO[bytes]) -> dict[str, Any]:
    """Read one message of a child. Raises ProtocolError, and ValueError or TypeError for what is no JSON object."""
    line = stream.readline(HEADER_BYTES)
    if not line.endswith(b"\n"):
        raise ProtocolError("no reply" if not line else "an unfinished reply")
    return dict(json.loads(line))


class ReceivedTables:
    """The tables of one run, while they arrive."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._tables: dict[str, _Table] = {}

    def page(self, stream: IO[bytes], table: str, rows: int, columns: list[list[str]]) -> None:
        """Read one page: its number of rows, and each column with its kind. Raises ProtocolError."""
        received = self._tables.get(table) or _Table(table, self._limits)
        received.expect(rows, columns)
        self._tables[table] = received
        if sum(each.values for each in self._tables.values()) > self._limits.values:
            raise ProtocolError("a reply beyond the limits")
        for name, kind in columns:
            received.columns[name].read(stream, kind, rows)

    def drop(self, table: str) -> None:
        """Forget a table, which the child takes back. Raises ProtocolError if there is none."""
        if self._tables.pop(table, None) is None:
            raise ProtocolError("a reply without that table")

    def finish(self) -> dict[str, pa.Table]:
        """Return the tables by name. Raises ProtocolError, and ArrowInvalid for texts that are not UTF-8."""
        tables = {name: received.finish() for name, received in self._tables.items()}
        for table in {*schema.PACKED_TABLES.values()} & {*tables}:
            _check_arrays(table, tables[table])
        if "dynamics" not in tables or "step" not in tables["dynamics"].column_names:
            raise ProtocolError("a reply without steps")
        return tables


class _Table:
    """The pages of one table."""

    def __init__(self, name: str, limits: ReadLimits) -> None:
        self._name, self._limits = name, limits
        self.columns: dict[str, _Column] = {}
        self.rows = self.values = 0

    def expect(self, rows: int, columns: list[list[str]]) -> None:
        """Check rows and columns of the next page, which decide how many bytes are read. Raises ProtocolError."""
        names = [name for name, _ in columns]
        most = self._limits.rows if self._name in LONG_TABLES else SIDE_ROWS
        # Only the first page of a table may be empty: their number is limited by that of the rows.
        if type(rows) is not int or not (rows > 0 or (rows == 0 and not self.columns)) or self.rows + rows > most:
            raise ProtocolError("a reply beyond the limits")
        if not names or len({*names}) < len(names) or len(names) > self._limits.columns:
            raise ProtocolError("a reply beyond the limits")
        if any(kind not in KINDS[_sql_type(self._name, name)] for name, kind in columns):
            raise ProtocolError("a reply with wrong columns")
        if self.columns and names != [*self.columns]:
            raise ProtocolError("a reply with other columns than before")
        if not self.columns:
            self.columns = {name: _Column(self._limits) for name in names}
        self.rows += rows
        self.values += rows * sum(kind != "b" for _, kind in columns)

    def finish(self) -> pa.Table:
        return pa.table({name: column.finish(self.rows) for name, column in self.columns.items()})


class _Column:
    """The values of one column, in memory that grows in place."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._kind = ""
        self._values = bytearray()  # of texts and arrays, their lengths in bytes
        self._present = bytearray()  # one byte for each row, 0 for NULL; empty as long as there is none
        self._contents = bytearray()  # of texts and arrays

    def read(self, stream: IO[bytes], kind: str, rows: int) -> None:
        """Read the values of the next rows."""
        self._kind, before = kind[0], len(self._values)
        size = 4 if self._kind in "tb" else 8
        _receive(stream, size * rows, self._values)
        if kind.endswith("?"):
            self._present += b"\1" * (before // size - len(self._present))
            _receive(stream, rows, self._present)
        if self._kind in "tb":
            self._read_contents(stream, np.frombuffer(bytes(self._values[before:]), np.int32))

    def _read_contents(self, stream: IO[bytes], length_R: np.ndarray) -> None:
        """Read the bytes of texts or arrays of these lengths, -1 for NULL."""
        total = int(np.maximum(length_R, 0).sum(dtype=np.int64))
        most = TEXT_BYTES if self._kind == "t" else 8 * self._limits.values
        odd = self._kind == "b" and bool((length_R[length_R >= 0] % 4).any())
        if odd or len(self._contents) + total > most:
            raise ProtocolError("a reply beyond the limits")
        _receive(stream, total, self._contents)

    def finish(self, rows: int) -> pa.Array:
        """Return the values of all rows."""
        if self._kind in "tb":
            length_R = _numbers(self._values, np.int32)
            return self._texts(length_R) if self._kind == "t" else self._arrays(length_R)
        value_R = _numbers(self._values, np.float64 if self._kind == "d" else np.int64)
        absent = None
        if self._present:
            self._present += b"\1" * (rows - len(self._present))
            absent = _numbers(self._present, np.uint8) == 0
        if self._kind == "q":
            return pa.array(value_R, mask=absent)
        if absent is not None:
            value_R[absent] = np.nan
        # NaN to NULL: most columns have none, and are not copied.
        return pa.array(value_R, from_pandas=bool(np.isnan(value_R).any()))

    def _texts(self, length_R: np.ndarray) -> pa.StringArray:
        end_R = np.cumsum(np.maximum(length_R, 0), dtype=np.int64)
        offsets = np.concatenate([[0], end_R]).astype(np.int32)
        valid = pa.array(length_R >= 0).buffers()[1]
        buffers = pa.py_buffer(offsets), pa.py_buffer(self._contents), valid
        texts = pa.StringArray.from_buffers(len(length_R), *buffers)
        texts.validate(full=True)  # that it is UTF-8
        return texts

    def _arrays(self, length_R: np.ndarray) -> pa.ListArray:
        """Return packed arrays as lists of float32."""
        end_R = np.cumsum(np.maximum(length_R, 0) // 4, dtype=np.int32)
        offsets = pa.array(np.concatenate([np.zeros(1, np.int32), end_R]))
        number_V = _numbers(self._contents, np.float32)
        if sys.byteorder == "big":
            number_V.byteswap(inplace=True)
        return pa.ListArray.from_arrays(offsets, pa.array(number_V), mask=pa.array(length_R < 0))


def _receive(stream: IO[bytes], size: int, into: bytearray) -> None:
    """Append the next bytes of the stream. Raises ProtocolError if it ends before."""
    while size:
        piece = stream.read(min(size, PIECE_BYTES))
        if not piece:
            raise ProtocolError("a reply that ends early")
        into += piece
        size -= len(piece)


def _numbers(held: bytearray, dtype: type[np.generic]) -> np.ndarray:
    """Return the numbers in these bytes, without a copy."""
    return np.ndarray(len(held) // np.dtype(dtype).itemsize, dtype, held)


@lru_cache(4096)  # asked of each column of each page
def _sql_type(table: str, name: str) -> str:
    """Return the SQL type of a known column. Raises ProtocolError for an unknown one."""
    if table == "dynamics":
        of_step = (*schema.STEP_COLUMNS, *schema.ROUTING_COLUMNS)
        known = {column.name: "REAL" for column in of_step} | {"step": "INTEGER"}
        found = "REAL" if _is_expert_column(name) else known.get(name)
    else:
        found = COLUMN_TYPES[table].get(name)
    if found is None:
        raise ProtocolError("a reply with an unknown column")
    return found


def _is_expert_column(name: str) -> bool:
    """Return whether a column of `dynamics` belongs to an expert, to an expert in a layer, or to the experts of a role.

    Numbers must have their one plain spelling: expert_0, not expert_00.
    """
    if schema.ROLE_COLUMN.fullmatch(name):
        return name.isascii() and len(name) < 100
    match = schema.EXPERT_COLUMN.fullmatch(name)
    if in_layer := LAYER_COLUMN.fullmatch(name):
        match = in_layer if in_layer[3] in LAYER_METRICS else None
    plain = match is not None and all(number == str(int(number)) for number in match.groups()[:-1])
    return plain and name.isascii() and len(name) < 100


def _check_arrays(table: str, found: pa.Table) -> None:
    """Check that every array is as long as its row says, on which all that unpacks them relies."""
    count = packing.LAYOUTS[{packed: table for table, packed in schema.PACKED_TABLES.items()}[table]].length
    if count not in found.column_names or found[count].null_count:
        raise ProtocolError("a reply with arrays of unknown length")
    for column in found.columns:
        if not pa.types.is_list(column.type):
            continue
        equal = pc.equal(pc.list_value_length(column), found[count])  # NULL where there is no list
        if not pc.all(equal, min_count=0).as_py():
            raise ProtocolError("a reply with an array of wrong length")
