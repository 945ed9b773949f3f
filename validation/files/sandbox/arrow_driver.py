"""Apache Arrow's SQLite driver, called through its C interface: a page of rows as columns of bytes.

The driver (the package adbc-driver-sqlite) brings its own SQLite and fills a column without making a Python object of
each cell, which is most of the work of `sqlite3`. It has no authorizer, no limits and no progress handler, and it takes
the type of a column from its first rows. So sqlite_worker.py checks a table before, asks for one page after the other,
each a query with types of its own, and reads with `sqlite3` what this module cannot.

Reaching it by ctypes needs no package: pyarrow would take a reader of small files longer to load than to read them.
The structures are those of the Arrow C data interface and of ADBC 1.0, which do not change.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
from array import array
from collections.abc import Iterator, Sequence
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from operator import sub
from typing import Any

SPARE_BYTES = 4 << 20  # the driver ends the process where it gets no memory, so there must be some before it is called
INT64, FLOAT64, UTF8 = b"l", b"g", b"u"  # types in Arrow's notation
PRESENT = bytes.maketrans(b"01", b"\0\1")


@dataclass(frozen=True)
class Cells:
    """The cells of one column in a page: int64, float64, or the lengths of texts as int32."""

    values: bytes
    present: bytes = b""  # one byte for each row, 0 for NULL; empty without NULLs
    text: bytes = b""


class _Unsuited(Exception):
    """The driver cannot do it, or not as `sqlite3` would."""


class _Handle(Structure):
    """A database, a connection or a statement of the driver."""

    _fields_ = (("content", c_void_p), ("driver", c_void_p))


class _Schema(Structure):
    pass


class _Array(Structure):
    pass


class _Stream(Structure):
    pass


_Schema._fields_ = (
    ("format", c_char_p),
    ("name", c_char_p),
    ("metadata", c_char_p),
    ("flags", c_int64),
    ("n_children", c_int64),
    ("children", POINTER(POINTER(_Schema))),
    ("dictionary", c_void_p),
    ("release", CFUNCTYPE(None, POINTER(_Schema))),
    ("private_data", c_void_p),
)
_Array._fields_ = (
    ("length", c_int64),
    ("null_count", c_int64),
    ("offset", c_int64),
    ("n_buffers", c_int64),
    ("n_children", c_int64),
    ("buffers", POINTER(c_void_p)),
    ("children", POINTER(POINTER(_Array))),
    ("dictionary", c_void_p),
    ("release", CFUNCTYPE(None, POINTER(_Array))),
    ("private_data", c_void_p),
)
_Stream._fields_ = (
    ("get_schema", CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Schema))),
    ("get_next", CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Array))),
    ("get_last_error", CFUNCTYPE(c_char_p, POINTER(_Stream))),
    ("release", CFUNCTYPE(None, POINTER(_Stream))),
    ("private_data", c_void_p),
)


def load(path: str = "") -> Driver | None:
    """Return the driver whose library this is; None if it cannot be used.

    It is used once, because behind the walls nothing can be loaded.
    """
    if not path:
        return None
    try:
        driver = Driver(path)
    except OSError:
        return None
    connection = driver.connect("file:?mode=memory", ())
    if not connection or connection.page("SELECT 1", 1, "q") is None:
        return None
    connection.close()
    return driver


class Driver:
    """The driver's library. Raises OSError if there is no library."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def connect(self, url: str, pragmas: Sequence[str]) -> Connection | None:
        """Return a connection to a database; None if it cannot be opened."""
        try:
            return Connection(self._library, url, pragmas)
        except _Unsuited:
            return None


class Connection:
    """A connection of the driver to one database."""

    def __init__(self, library: ctypes.CDLL, url: str, pragmas: Sequence[str]) -> None:
        self._library, self._database, self._connection = library, _Handle(), _Handle()
        self._opened = url, pragmas
        self._second: Connection | None = None
        _require_memory(0)
        try:
            self._call("DatabaseNew", byref(self._database))
            self._call("DatabaseSetOption", byref(self._database), b"uri", url.encode())
            self._call("DatabaseInit", byref(self._database))
            self._call("ConnectionNew", byref(self._connection))
            self._call("ConnectionInit", byref(self._connection), byref(self._database))
            for pragma in pragmas:
                with self._statement(f"PRAGMA {pragma}", 1) as statement:
                    self._call("StatementExecuteQuery", byref(statement), None, None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._second:
            self._second.close()
        for kind, handle in (("Connection", self._connection), ("Database", self._database)):
            if handle.content:
                getattr(self._library, f"Adbc{kind}Release")(byref(handle), None)

    def page(self, query: str, rows: int, kinds: Sequence[str]) -> list[Cells] | None:
        """Return the columns of a query of at most `rows` rows, [] without rows. kinds: d, q or t for each column.

        None: an error of any kind, or cells that may not be what `sqlite3` returns.
        """
        _require_memory(rows * len(kinds))
        stream = _Stream()
        try:
            with self._statement(query, rows) as statement:
                self._call("StatementExecuteQuery", byref(statement), byref(stream), None)
                try:
                    return _first_batch(stream, kinds)
                finally:
                    stream.release(byref(stream))
        except _Unsuited:
            return None

    def pages(self, queries: Sequence[str], rows: int, kinds: Sequence[str]) -> list[list[Cells] | None]:
        """Return the page of the first query, and that of a second one if it could be read at the same time."""
        if len(queries) == 1:
            return [self.page(queries[0], rows, kinds)]
        second: list[list[Cells] | None] = []
        thread = threading.Thread(target=self._read_second, args=(second, queries[1], rows, kinds))
        try:
            thread.start()
        except RuntimeError:  # the system allows no thread
            return [self.page(queries[0], rows, kinds)]
        try:
            first = self.page(queries[0], rows, kinds)
        finally:
            thread.join()
        return [first, *second]

    def _read_second(self, pages: list[list[Cells] | None], query: str, rows: int, kinds: Sequence[str]) -> None:
        """Add the page of a query, read by a connection of its own, unless there is no memory for it."""
        with contextlib.suppress(_Unsuited, MemoryError):
            self._second = self._second or Connection(self._library, *self._opened)
            pages.append(self._second.page(query, rows, kinds))

    @contextlib.contextmanager
    def _statement(self, query: str, rows: int) -> Iterator[_Handle]:
        """Yield a statement whose first batch, the one that decides the types, has room for all rows."""
        statement = _Handle()
        self._call("StatementNew", byref(self._connection), byref(statement))
        try:
            batch = b"adbc.sqlite.query.batch_rows", str(rows + 1).encode()
            self._call("StatementSetOption", byref(statement), *batch)
            self._call("StatementSetSqlQuery", byref(statement), query.encode())
            yield statement
        finally:
            self._library.AdbcStatementRelease(byref(statement), None)

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, f"Adbc{name}")(*arguments, None):
            raise _Unsuited(name)


def _require_memory(cells: int) -> None:
    """Raise MemoryError if there may be too little memory for a page."""
    try:
        mmap.mmap(-1, SPARE_BYTES + 3 * 8 * cells).close()
    except OSError:
        raise MemoryError from None


def _first_batch(stream: _Stream, kinds: Sequence[str]) -> list[Cells]:
    schema, batch = _Schema(), _Array()
    if stream.get_schema(byref(stream), byref(schema)):
        raise _Unsuited("schema")
    try:
        if stream.get_next(byref(stream), byref(batch)):
            raise _Unsuited("rows")
        if not batch.release:
            return []
        try:
            fields, columns = schema.children, batch.children
            return [_cells(fields[i].contents.format, columns[i].contents, kind) for i, kind in enumerate(kinds)]
        finally:
            batch.release(byref(batch))
    finally:
        schema.release(byref(schema))


def _cells(held: bytes, column: _Array, kind: str) -> Cells:
    """Return a column as a kind of cells. held: the type that the driver found for it."""
    rows, buffers = column.length, column.buffers
    every = (1 << rows) - 1
    present = int.from_bytes(ctypes.string_at(buffers[0], (rows + 7) // 8), "little") & every if buffers[0] else every
    if kind == "t":
        return _texts(held, rows, buffers, whole=present == every)
    if held not in (INT64, FLOAT64) or (held == FLOAT64 and kind == "q"):
        raise _Unsuited(f"{held!r} for {kind}")
    values = ctypes.string_at(buffers[1], 8 * rows)
    if held == INT64 and kind == "d" and present:
        values = array("d", memoryview(values).cast("q")).tobytes()
    if present == every:
        return Cells(values)
    return Cells(values, format(present, f"0{rows}b")[::-1].encode().translate(PRESENT))


def _texts(held: bytes, rows: int, buffers: Any, *, whole: bool) -> Cells:
    """Return a column of texts: only of ASCII, which has one reading and can be cut anywhere, and without NULLs."""
    if held != UTF8 or not whole:
        raise _Unsuited("texts")
    ends = memoryview(ctypes.string_at(buffers[1], 4 * (rows + 1))).cast("i")
    text = ctypes.string_at(buffers[2], ends[-1])
    if not text.isascii():
        raise _Unsuited("texts")
    return Cells(array("i", map(sub, ends[1:], ends)).tobytes(), text=text)
