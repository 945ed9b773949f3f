"""The child process that opens untrusted run files: the only code of this project that does.

sqlite_client.py starts it as `python -I -S -B sqlite_worker.py FOLDER [DRIVER]` (the standard library, the
project's sandbox modules, and the library of Arrow's SQLite driver). The first line on stdin names the files that it
may read and what to read of them, and each further line requests one. The reply is lines of JSON. One with `page` gives
the table, the number of its rows and its columns, and their values follow it; one with `drop` takes back what was sent
of a table; the last one has `ok`. Values come column after column:

    kind "d"   float64 for each row; NaN is NULL, which is unambiguous: SQLite stores no NaN
    kind "q"   int64 for each row
    kind "t"   int32 length for each row, -1 for NULL, then the UTF-8 of all rows
    kind "b"   the same with the BLOBs of all rows
    "d?" "q?"  as "d" and "q", then one byte for each row, 0 for NULL

Python's `sqlite3` checks a file: its schema, its pages, its small tables. Arrow's driver reads the long tables, page by
page, several times as fast; `sqlite3` reads the pages that the driver cannot, and finds the cell that is wrong.

For a run that is being trained, the request may name the first row to read (`since`, by table and rowid). The reply
gives the last row of each table (`last_rowids`), and the newest event before any row was read (`last_event`): a rewind
after that event may have replaced rows that were read before.

If a file cannot be read, the reply has a stable `code` and the facts of the case; errors.py has the sentences.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import re
import sqlite3
import sys
import threading
import time
from array import array
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if __name__ == "__main__":
    sys.path += sys.argv[1:2]  # the project's folder, which a script does not know by itself
from prismatic.sandbox.limits import allow_seconds, set_limits
from prismatic.sandbox.sqlite_file import how_to_open, open_hardened, pragmas, url_of

if TYPE_CHECKING:
    from validation.files.sandbox import arrow_driver

EXPERT = re.compile(r"expert_(?:0|[1-9][0-9]{0,3})_([a-z][a-z_]{0,60})")
ROLE = re.compile(r"role_(?:clean|perturbed|control|peer)_([a-z][a-z_]{0,60})")
LAYER = re.compile(r"layer_(?:0|[1-9][0-9]{0,3})_expert_(?:0|[1-9][0-9]{0,3})_([a-z][a-z_]{0,60})")
TIER_NORMS = ("top_norm", "bottom_norm", "middle_norm")
WHOLE_NORMS = ("clean_norm", "perturbed_norm", "grad_norm")  # of an expert; in a layer or a role also "norm"
TIER_MEANS = ("top_mean", "bottom_mean", "middle_mean")
TEXTUAL = re.compile("CHAR|CLOB|TEXT|BLOB")
# As in contract/schema.py, in the order of reading: the largest come last and cannot use up the others' time.
SIDE_TABLES = (
    *("run", "experts", "tiers", "events", "scalars"),
    *("layers", "packed_layers", "pairs", "packed_pairs", "histograms"),
)
LONG_TABLES = ("events", *SIDE_TABLES[4:])  # may have as many rows as `dynamics`
# The column with the length of the arrays, and the most that it may say.
PACKED = {"packed_layers": ("experts", 10_000), "packed_pairs": ("pairs", 1 << 22)}
DRIVER_TABLES = ("dynamics", "scalars", "layers", "pairs", "histograms")  # that Arrow's driver reads
APPLICATION_ID = 0x50524953  # of the files that DynamicsLogger writes
PRAGMAS = ("application_id", "user_version", "table_xinfo", "quick_check", "integrity_check")
# Problems of values are not damage: the values are checked one by one.
VALUE_PROBLEM = re.compile(r"(NULL|TEXT|NUMERIC|non-\w+) value in ")

BUSY_SECONDS = 2.0
# Some 10 ms of reading, by `sqlite3` and by Arrow's driver: the longest time that a writer has to wait.
PAGE_CELLS, DRIVER_PAGE_CELLS = 50_000, 250_000
PACKED_PAGE_ROWS = 500
SENT_CELLS = 200_000  # at once: the parent keeps them, so that this process need not
LARGE_PAGE = 100_000  # values and characters; a smaller one is written before a thread would begin
BATCH_ROWS = 200  # as Python objects: few enough to stay in the processor's cache until they are numbers
MAX_COLUMNS, LAST_ROWID = 2000, 2**63 - 1  # SQLite's own limits
MAX_LENGTH = 16 << 20  # bytes of one row or value that SQLite may load
MAX_EVENTS = 10_000  # the newest are kept
SIDE_ROWS, TEXT_BYTES = 100_000, 64 << 20  # in one side table; LONG_TABLES may have more rows
# For checking the whole file at once. A file that is not a copy is locked for its writer meanwhile.
CHECK_SECONDS, CHECK_SECONDS_IN_PLACE = 2.0, 0.25

Row = tuple[Any, ...]
Page = tuple[list[Any], int, int | None]  # the cells of each column, the number of rows, the rowid of the last


class Reject(Exception):
    """The file, or one of its side tables, cannot be read: a stable code and the facts."""

    def __init__(self, code: str, **details: Any) -> None:
        super().__init__(code)
        self.code, self.details = code, details


# -- The process -------------------------------------------------------------------------------------------------------


def confine(limits: dict[str, Any]) -> None:
    """Drop privileges permanently: cap memory and open files, forbid writes and core dumps."""
    set_limits({"AS": limits["memory_bytes"], "FSIZE": 0, "NOFILE": 16, "CORE": 0})


# -- The file's bytes, before SQLite sees them -------------------------------------------------------------------------

MAGIC = b"SQLite format 3\x00"
SIGNATURES = {
    b"PK": "a zip archive (a PyTorch checkpoint is one, too)",
    b"\x1f\x8b": "a gzip archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x02": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"version https://git-lfs": "a Git LFS pointer, not the file that it stands for",
    b"\x37\x7f\x06": "the -wal file beside a SQLite database, not the database",
    b"\xd9\xd5\x05\xf9": "the -journal file beside a SQLite database, not the database",
}


def looks_like(head: bytes) -> str:
    """Return a description of a file that is not a SQLite database, from its first bytes."""
    for signature, meaning in SIGNATURES.items():
        if head.startswith(signature):
            return meaning
    if not head.strip(b"\0"):
        return "only zero bytes, which failed uploads and disks leave behind"
    text = head.decode("utf-8", "replace").rstrip("\ufffd")  # the last character may be cut
    if all(c.isprintable() or c.isspace() for c in text) and "\ufffd" not in text:
        return f"text ({text.strip()[:40]!r})"
    return "no known format; it may be encrypted"


def is_being_written(path: str) -> bool:
    """Return whether a writer has an unfinished write, or had one when it was killed."""
    return os.path.exists(path + "-journal") or os.path.exists(path + "-wal")


def inspect(path: str, immutable: bool) -> bool:
    """Check size and header, and return whether the file is in WAL mode."""
    unsettled = not immutable and is_being_written(path)
    with open(path, "rb") as file:
        head, size = file.read(100), os.fstat(file.fileno()).st_size
    unsettled = unsettled or (not immutable and is_being_written(path))
    if not head:
        raise Reject("empty")
    if not head.startswith(MAGIC) and not MAGIC.startswith(head):
        raise Reject("not_sqlite", looks=looks_like(head))
    if len(head) < 100:
        raise Reject("truncated", size=size, expected=512)
    page = int.from_bytes(head[16:18], "big")
    expected = int.from_bytes(head[28:32], "big") * (65536 if page == 1 else page)
    # Writers before SQLite 3.7 leave the page count stale. SQLite itself checks a growing file, under its lock.
    if not unsettled and head[24:28] == head[92:96] and expected > size:
        raise Reject("truncated", size=size, expected=expected)
    return 2 in head[18:20]


# -- SQLite, hardened --------------------------------------------------------------------------------------------------


def authorize(action: int, first: str | None, second: str | None, database: str | None, within: str | None) -> int:
    """Allow reading the tables of a run and PRAGMAS; deny functions, views and everything that writes."""
    name, tables = str(first).lower(), ("sqlite_master", "dynamics", *SIDE_TABLES)
    readable = action == sqlite3.SQLITE_READ and name in tables and within is None
    pragma = action == sqlite3.SQLITE_PRAGMA and name in PRAGMAS
    return sqlite3.SQLITE_OK if readable or pragma or action == sqlite3.SQLITE_SELECT else sqlite3.SQLITE_DENY


def connect(url: str, deadline: float) -> sqlite3.Connection:
    """Return a connection to a file that may be hostile."""
    most = {"LENGTH": MAX_LENGTH, "SQL_LENGTH": 1 << 20, "COLUMN": MAX_COLUMNS, "EXPR_DEPTH": 100, "COMPOUND_SELECT": 2}
    most |= {"ATTACHED": 0, "VDBE_OP": 250_000, "FUNCTION_ARG": 8, "TRIGGER_DEPTH": 1, "WORKER_THREADS": 0}
    db = open_hardened(url, most, deadline=deadline, busy_seconds=BUSY_SECONDS)
    db.execute("PRAGMA ignore_check_constraints=ON")  # quick_check would run CHECKs, the author's code
    db.set_authorizer(authorize)
    return db


class Connections(NamedTuple):
    """Both connections to one file.

    Each has a SQLite of its own, and a process that closes a file loses all its locks on it. So only one of them works
    at a time, and both stay open until the end.
    """

    checked: sqlite3.Connection
    driver: arrow_driver.Connection | None


def plain_columns(db: sqlite3.Connection, table: str, *, known: bool = False) -> dict[str, str]:
    """Return the columns of a table and their declared types; {} if the file has no such table.

    Raises Reject unless it is a plain, intact table. known: skip the check of its pages, because the file was checked,
    or most of the table in an earlier reading: SQLite itself notices a bad page among the new ones.
    """
    query = "SELECT type, rootpage, sql FROM sqlite_master WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')"
    found = db.execute(query, (table,)).fetchone()
    if not found:
        return {}
    kind, root, sql = found
    if kind != "table" or not root or not str(sql).startswith("CREATE TABLE "):
        virtual = str(sql)[:14].upper() == "CREATE VIRTUAL"
        raise Reject("not_a_table", kind="virtual table" if virtual else "view" if kind == "view" else "forged entry")
    columns = db.execute(f"PRAGMA table_xinfo({table})").fetchall()
    if generated := [str(column[1])[:60] for column in columns if column[6] in (2, 3)]:
        raise Reject("generated", columns=generated[:20])
    for (problem,) in () if known else db.execute(f"PRAGMA quick_check({table})").fetchall():
        if problem != "ok" and not VALUE_PROBLEM.match(problem):
            raise Reject("corrupt", problem=problem[:200])
    return {str(column[1]): str(column[2]).upper() for column in columns}


# -- Rows to typed columns ---------------------------------------------------------------------------------------------


class Column:
    """The values of one column, in the form in which they are sent."""

    def __init__(self, kind: str) -> None:
        self.kind, self.present, self.text = kind, bytearray(), bytearray()
        self.values: array[Any] = array("i" if kind in "tb" else kind)  # of texts and BLOBs, their lengths

    def extend(self, cells: Row | arrow_driver.Cells) -> None:
        """Add cells as they were read. Raises TypeError if one of them has the wrong type."""
        known = len(self.values)
        if not isinstance(cells, tuple):
            self.values.frombytes(cells.values)
            self.text += cells.text
            present: Any = cells.present
        elif self.kind == "t":
            texts = [None if cell is None else encode(cell) for cell in cells]
            self.values.extend([-1 if text is None else len(text) for text in texts])
            self.text += b"".join(filter(None, texts))
            present = None
        elif self.kind == "b":
            if not {*map(type, cells)} <= {bytes, type(None)}:
                raise TypeError
            self.values.extend([-1 if cell is None else len(cell) for cell in cells])
            self.text += b"".join(filter(None, cells))
            present = None
        else:
            try:
                self.values.extend(array(self.kind, cells))
                present = None
            except TypeError:  # a NULL, a float that is an integer, or a wrong type
                self.values.extend(array(self.kind, [self.number(cell) for cell in cells]))
                present = [self.kind == "d" or cell is not None for cell in cells]
        self.present.extend(present or b"\1" * (len(self.values) - known))

    def number(self, cell: Any) -> Any:
        """Return a cell as a value for the array. Raises TypeError if it has the wrong type."""
        if self.kind == "d":
            return float("nan") if cell is None else cell
        return 0 if cell is None else integer(cell)

    def keep_newest(self, rows: int) -> None:
        """Remove all values but the last ones."""
        old = self.values[:-rows]
        if old:
            del self.values[:-rows], self.present[:-rows]
            del self.text[: sum(length for length in old if self.kind == "t" and length > 0)]

    def sent_kind(self) -> str:
        """Return the kind that says how the values are sent; the docstring of this module describes them."""
        return self.kind + "?" * (0 in self.present)

    @property
    def size(self) -> int:
        """The number of values it holds; a BLOB counts by its bytes, eight to a value."""
        return len(self.text) // 8 if self.kind == "b" else len(self.values)

    def take(self) -> list[Any]:
        """Remove all values, and return the bytes to send."""
        taken = [self.values, self.text, *([self.present] if 0 in self.present else [])]
        self.present, self.text, self.values = bytearray(), bytearray(), array(self.values.typecode)
        return taken


class Reply:
    """The tables of one file as they are sent, page by page."""

    def __init__(self, send: Callable[[dict[str, Any], list[Any]], None]) -> None:
        self._send = send
        self.sizes: dict[str, int] = {}  # the number of values of each table
        self.text_bytes: dict[str, int] = {}  # of its texts and BLOBs

    def page(self, table: str, columns: dict[str, Column]) -> None:
        """Send the rows that the columns hold, and remove them."""
        self.sizes[table] = self.sizes.get(table, 0) + sum(column.size for column in columns.values())
        self.text_bytes[table] = self.text_bytes.get(table, 0) + sum(len(column.text) for column in columns.values())
        rows, layout = 0, []
        for name, column in columns.items():
            rows = len(column.values)
            layout.append([name, column.sent_kind()])
        blobs = [blob for column in columns.values() for blob in column.take()]
        self._send({"page": table, "rows": rows, "columns": layout}, blobs)

    def drop(self, table: str) -> None:
        """Take back what was sent of a table."""
        if self.sizes.pop(table, None) is not None:
            self._send({"drop": table}, [])


def integer(cell: Any) -> int:
    """Return an integer, also for a float without a fraction, which pandas writes. Raises TypeError otherwise."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    if not isinstance(cell, int):
        raise TypeError
    return cell


def encode(cell: Any) -> bytes:
    """Return the UTF-8 of a text or a number. Raises TypeError for a BLOB."""
    if isinstance(cell, bytes):
        raise TypeError
    return str(cell).encode()


def first_bad_cell(rows: list[Row], columns: dict[str, Column]) -> Reject:
    """Return the error for the first cell of `rows` that has the wrong type for its column."""
    names = list(columns)
    for row in rows:
        for (name, column), cell in zip(columns.items(), row, strict=False):
            try:
                Column(column.kind).extend((cell,))
            except TypeError:
                sql_type = "TEXT" if isinstance(cell, str) else "BLOB" if isinstance(cell, bytes) else "REAL"
                size = len(cell) if isinstance(cell, str | bytes) else 8
                step = row[names.index("step")] if "step" in names and name != "step" else None
                if column.kind == "b":
                    found = "a text" if isinstance(cell, str) else "a number"
                    return Reject("bad_array", column=name, step=step, expected="a BLOB", found=found)
                code = "bad_step" if name == "step" else "bad_value"
                return Reject(code, column=name, step=step, type=sql_type, bytes=size, value=repr(cell)[:40])
    return Reject("unexpected", problem="a value changed while it was read")


def rowid_name(db: sqlite3.Connection, table: str, declared: dict[str, str]) -> str | None:
    """Return the name of the table's rowid; None if the table has none."""
    hidden = {name.lower() for name in declared}
    key = next((name for name in ("_rowid_", "rowid", "oid") if name not in hidden), None)
    try:
        db.execute(f"SELECT {key} FROM {table} LIMIT 0").close()
    except sqlite3.OperationalError:  # WITHOUT ROWID
        return None
    return key


def wrong_array(columns: dict[str, Column], count: str, most: int) -> Reject | None:
    """Return the error for the first BLOB that does not hold as many float32 as its row says; None if all do."""
    if count not in columns:
        return Reject("no_known_columns", columns=[*columns][:20])
    counts, steps = columns[count].values, columns["step"].values if "step" in columns else None
    for place, (number, present) in enumerate(zip(counts, columns[count].present, strict=True)):
        if not present or not 0 < number <= most:
            found, step = number if present else "NULL", steps[place] if steps else None
            return Reject("bad_array", column=count, step=step, expected=f"1 to {most} {count}", found=found)
    expected = array("i", [4 * number for number in counts])
    for name, column in columns.items():
        if column.kind != "b" or column.values == expected:
            continue
        for place, (found, right) in enumerate(zip(column.values, expected, strict=True)):
            if found not in (-1, right):
                told = f"{right} bytes for {counts[place]} {count}"
                step = steps[place] if steps else None
                return Reject("bad_array", column=name, step=step, expected=told, found=f"{found} bytes")
    return None


class Query(NamedTuple):
    """The query for the pages of a table. Each is a short transaction: a longer one locks the training's writer out."""

    table: str
    kinds: dict[str, str]
    key: str

    def page(self, start: int, rows: int, *others: str) -> str:
        """Return the SQL of the page that begins at a rowid: its columns, its rowids and other expressions."""
        selected = ", ".join([*(f'"{name}"' for name in self.kinds), self.key, *others])
        where = f"{self.key} >= {start} ORDER BY {self.key} LIMIT {rows}"
        return f"SELECT {selected} FROM {self.table} NOT INDEXED WHERE {where}"


def pages(
    connections: Connections, table: str, kinds: dict[str, str], declared: dict[str, str], limits: dict[str, Any]
) -> Iterator[Page]:
    """Yield the rows from `since` on, ordered by rowid; all rows of a table without a rowid."""
    db, driver = connections
    key, start = rowid_name(db, table, declared), limits["since"].get(table, -(2**63))
    if key is None or len(kinds) == MAX_COLUMNS:  # the key would be one column too many for SQLite
        selected = ", ".join(f'"{name}"' for name in kinds)
        cursor = db.execute(f"SELECT {selected} FROM {table} NOT INDEXED")
        while rows := cursor.fetchmany(BATCH_ROWS):
            yield [*zip(*rows, strict=True)], len(rows), None
        return
    query = Query(table, kinds, key)
    if driver and table in DRIVER_TABLES:
        start = yield from driver_pages(driver, query, start)
    if start is not None:
        yield from checked_pages(db, query, start)


def driver_pages(driver: arrow_driver.Connection, query: Query, start: int) -> Generator[Page, None, int | None]:
    """Yield the pages that Arrow's driver reads. Return the rowid from which `sqlite3` must read; None at the end.

    Two pages are read at the same time: where rowids are evenly spaced, as those of a training are, it is known where
    the page after the next one begins. A page that begins elsewhere is dropped.
    """
    kinds, rows = list(query.kinds.values()), max(1, DRIVER_PAGE_CELLS // len(query.kinds))
    # In a column with texts, the driver makes texts of all cells.
    others = [" OR ".join(f"typeof(\"{name}\") <> 'text'" for name in query.kinds if query.kinds[name] == "t")]
    others = [other for other in others if other]
    asked, starts = [*kinds, "q", *("q" for _ in others)], [start]
    while True:
        queries = [query.page(begin, rows, *others) for begin in starts if begin <= LAST_ROWID]
        for begin, cells in zip(starts, driver.pages(queries, rows, asked), strict=False):
            if begin != start:
                break
            if cells is None or any(other.values.strip(b"\0") for other in cells[len(kinds) + 1 :]):
                return start
            if not cells:
                return None
            keys = memoryview(cells[len(kinds)].values).cast("q")
            ends = keys[BATCH_ROWS - 1 :: BATCH_ROWS].tolist()
            if ends != sorted(ends):  # `sqlite3` reports it
                return start
            yield cells[: len(kinds)], len(keys), keys[-1]
            if len(keys) < rows or keys[-1] == LAST_ROWID:
                return None
            start = keys[-1] + 1
        starts = [start, start + (keys[-1] - keys[0]) // max(1, rows - 1) * rows]


def checked_pages(db: sqlite3.Connection, query: Query, start: int) -> Iterator[Page]:
    """Yield the pages that `sqlite3` reads, a batch of rows at a time."""
    rows = count = PACKED_PAGE_ROWS if query.table in PACKED else max(1, PAGE_CELLS // len(query.kinds))
    while count == rows:
        cursor, count = db.execute(query.page(start, rows)), 0
        while batch := cursor.fetchmany(BATCH_ROWS):
            last = batch[-1][-1]
            yield [*zip(*batch, strict=True)], len(batch), last
            count += len(batch)
            if last < start:
                raise Reject("corrupt", problem="the rows are out of order")
            if last == LAST_ROWID:
                return
            start = last + 1


def read_columns(
    connections: Connections,
    table: str,
    kinds: dict[str, str],
    declared: dict[str, str],
    limits: dict[str, Any],
    reply: Reply,
) -> int:
    """Send the columns that `kinds` names, within the limits, and return how many rows; of `events` only the newest.

    If `limits["since"]` names the table, only the rows from there on. Writes the table's last rowid to
    `limits["last_rowids"]`.
    """
    columns, count, sent = {name: Column(kind) for name, kind in kinds.items()}, 0, 0
    numbers = sum(kind != "b" for kind in kinds.values())
    most, limit = min((limits["rows"], "rows"), (limits["values"] // max(1, numbers), "values"))
    bytes_limit = "values" if table in PACKED else "text_bytes"
    most_bytes = 8 * limits["values"] if table in PACKED else limits["text_bytes"]
    for cells, rows, last in pages(connections, table, kinds, declared, limits):
        count += rows
        limits["last_rowids"][table] = last
        add_cells(columns, cells)
        for column in columns.values() if table == "events" else ():
            column.keep_newest(MAX_EVENTS)
        if count > most:
            raise Reject("too_large", limit=limit, most=limits[limit])
        if reply.text_bytes.get(table, 0) + sum(len(column.text) for column in columns.values()) > most_bytes:
            raise Reject("too_large", limit=bytes_limit, most=limits[bytes_limit])
        if time.monotonic() > limits["deadline"]:
            raise Reject("timeout")
        if table != "events" and (count - sent) * len(kinds) >= SENT_CELLS:
            check_page(table, columns, sent)
            reply.page(table, columns)
            sent = count
    if count > sent or not sent:
        check_page(table, columns, sent)
        reply.page(table, columns)
    return count


def add_cells(columns: dict[str, Column], cells: list[Any]) -> None:
    """Add the cells of each column. Raises Reject if one of them has the wrong type."""
    try:
        for column, added in zip(columns.values(), cells, strict=False):
            column.extend(added)
    except TypeError:
        raise first_bad_cell([*zip(*cells, strict=True)], columns) from None


def check_page(table: str, columns: dict[str, Column], before: int) -> None:
    """Raise Reject for a row without a step or with a wrong array. before: the number of rows in earlier pages."""
    if table == "dynamics" and 0 in columns["step"].present:
        row = before + columns["step"].present.index(0) + 1
        raise Reject("bad_step", type="NULL", value="NULL", row=row)
    if table in PACKED and (error := wrong_array(columns, *PACKED[table])):
        raise error


# -- One file ----------------------------------------------------------------------------------------------------------


def read_dynamics(
    connections: Connections, request: dict[str, Any], limits: dict[str, Any], reply: Reply
) -> tuple[int, list[str]]:
    """Send the columns of the wide table that may be used; return the number of rows and the names of the others."""
    db = connections.checked
    declared = plain_columns(db, "dynamics", known=limits["intact"] or "dynamics" in limits["since"])
    if not declared:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')").fetchmany(20)
        raise Reject("no_dynamics", tables=[str(name)[:60] for (name,) in tables])
    if len(declared) > limits["columns"]:
        raise Reject("too_large", limit="columns")
    shown = [name[:60] for name in declared][:20]
    if "step" not in declared:
        raise Reject("no_step", columns=shown)
    metrics = {name: match[1] for name in declared if (match := EXPERT.fullmatch(name))}
    of_roles = {name: match[1] for name in declared if (match := ROLE.fullmatch(name))}
    in_layers = {name: match[1] for name in declared if (match := LAYER.fullmatch(name))}
    in_layers = {name: metric for name, metric in in_layers.items() if metric in request["layer_metrics"]}
    present = {*metrics.values(), *in_layers.values(), *of_roles.values()}
    others = {*in_layers.values(), *of_roles.values()}
    if not present & {*TIER_NORMS, *WHOLE_NORMS} and "norm" not in others:
        raise Reject("only_means" if present & {*TIER_MEANS} else "no_experts", columns=shown)
    metrics |= in_layers | of_roles
    known = {name for name in declared if name in metrics or name in request["columns"]}
    needed = TIER_NORMS if present & {*TIER_NORMS} else (*WHOLE_NORMS, "norm")
    kinds = {  # a column declared as text is skipped, unless nothing can be judged without it
        name: "q" if name == "step" else "d"
        for name, declared_type in declared.items()
        if name in known and (metrics.get(name) in needed or name == "step" or not TEXTUAL.search(declared_type))
    }
    rows = read_columns(connections, "dynamics", kinds, declared, limits, reply)
    return rows, [name for name in declared if name not in kinds]


def read_side_table(
    connections: Connections, table: str, allowed: dict[str, str], limits: dict[str, Any], reply: Reply
) -> None:
    """Send a side table's known columns, if the file has such a table."""
    declared = plain_columns(connections.checked, table, known=limits["intact"] or table in limits["since"])
    kind_of = {"INTEGER": "q", "REAL": "d", "TEXT": "t", "BLOB": "b"}
    kinds = {name: kind_of[allowed[name]] for name in declared if name in allowed}
    if declared and not kinds:
        raise Reject("no_known_columns", columns=[name[:60] for name in declared][:20])
    if table not in LONG_TABLES:
        limits = {**limits, "rows": min(limits["rows"], SIDE_ROWS)}
    if kinds:
        read_columns(connections, table, kinds, declared, limits, reply)


def newest_event(db: sqlite3.Connection) -> int | None:
    """Return the id of the newest event, 0 before the first; None if the file has no table of events like ours."""
    try:
        if not plain_columns(db, "events", known=True):
            return None
        newest = db.execute("SELECT id FROM events NOT INDEXED ORDER BY rowid DESC LIMIT 1").fetchone() or (0,)
        return newest[0] if isinstance(newest[0], int) else None
    except Exception:  # reading the table reports the error
        return None


def check(db: sqlite3.Connection, immutable: bool, limits: dict[str, Any]) -> tuple[bool, tuple[str, str] | None]:
    """Return whether the whole file is intact, and code and problem of the damage that was found.

    The numbers of tables that are intact stand, but damage anywhere means that the file was not copied correctly. The
    code is "timeout" if the file is too large to be checked in time.
    """
    deadline = min(limits["deadline"], time.monotonic() + (CHECK_SECONDS if immutable else CHECK_SECONDS_IN_PLACE))
    db.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        problems = [str(problem) for (problem,) in db.execute("PRAGMA integrity_check").fetchall()]
    except sqlite3.Error as error:
        code, _ = reason(error)
        # A lock only shows that a writer is at work.
        return False, None if code == "locked" else (code, str(error)[:200])
    finally:
        db.set_progress_handler(lambda: time.monotonic() > limits["deadline"], 10_000)
    damage = (problem for problem in problems if problem != "ok" and not VALUE_PROBLEM.match(problem))
    return problems == ["ok"], next((("corrupt", problem[:200]) for problem in damage), None)


def in_this_file(error: Reject, lost: bool, application_id: int) -> Reject:
    """Return what a rejection of `dynamics` means: lost rows, or a training of DynamicsLogger without experts."""
    if lost and error.code == "no_dynamics":
        return Reject("wal_missing")
    if error.code == "no_experts" and application_id == APPLICATION_ID:
        return Reject("no_router", **error.details)
    return error


def read(
    request: dict[str, Any],
    driver: arrow_driver.Driver | None,
    send: Callable[[dict[str, Any], list[Any]], None],
) -> dict[str, Any]:
    """Send the pages of one run file, and return its header. `reason` translates the errors that it raises."""
    path, immutable, limits = request["path"], request["immutable"], request["limits"]
    limits |= {"deadline": time.monotonic() + limits["seconds"], "text_bytes": TEXT_BYTES}
    limits |= {"since": request["since"], "last_rowids": {}}
    wal = inspect(path, immutable)
    lost = wal and (immutable or not os.path.exists(path + "-wal"))
    url = url_of(path, how_to_open(path, immutable, wal))
    db, fast = connect(url, limits["deadline"]), None
    try:
        application_id, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS[:2])
        last_event = newest_event(db)
        limits["intact"], damage = (False, None) if limits["since"] else check(db, immutable, limits)
        fast = driver.connect(url, [*pragmas(url), f"busy_timeout={1000 * BUSY_SECONDS:.0f}"]) if driver else None
        connections, reply = Connections(db, fast), Reply(send)
        try:
            rows, ignored = read_dynamics(connections, request, limits, reply)
        except Reject as error:
            raise in_this_file(error, lost, application_id) from None
        if lost and not rows:
            raise Reject("wal_missing")
        notes = read_side_tables(connections, request["tables"], limits, reply)
        if any(code == "corrupt" for _, code, _ in notes):
            damage = None
    finally:
        db.close()
        if fast:
            fast.close()
    header = {"application_id": application_id, "version": version, "wal": wal, "lost": lost, "notes": notes}
    header |= {"damage": damage, "last_event": last_event, "last_rowids": limits["last_rowids"]}
    return header | {"ignored": [name[:60] for name in ignored[:50]], "ignored_count": len(ignored)}


def read_side_tables(
    connections: Connections, allowed: dict[str, dict[str, str]], limits: dict[str, Any], reply: Reply
) -> list[Any]:
    """Send the side tables, and return name, code and facts of the error for each that cannot be read."""
    notes = []
    for table in filter(allowed.__contains__, SIDE_TABLES):
        left = {**limits, "values": limits["values"] - sum(reply.sizes.values())}
        try:
            read_side_table(connections, table, allowed[table], left, reply)
        except Exception as error:
            reply.drop(table)
            notes.append([table, *reason(error)])
    return notes


SQLITE_CODES = {
    "SQLITE_CORRUPT": "corrupt",
    "SQLITE_NOTADB": "corrupt",
    "SQLITE_IOERR_SHORT_READ": "corrupt",
    "SQLITE_INTERRUPT": "timeout",
    "SQLITE_BUSY": "locked",
    "SQLITE_LOCKED": "locked",
    "SQLITE_READONLY_ROLLBACK": "unfinished",
    "SQLITE_TOOBIG": "too_large",
    "SQLITE_ERROR": "corrupt",  # such as an unsupported file format
    "SQLITE_CANTOPEN": "system",
    "SQLITE_IOERR": "system",
}


def reason(error: Exception) -> tuple[str, dict[str, Any]]:
    """Return code and facts of any error of reading: an attacker's file may raise anything."""
    if isinstance(error, Reject):
        return error.code, error.details
    if isinstance(error, MemoryError):
        return "too_large", {"limit": "memory_bytes"}
    if isinstance(error, UnicodeDecodeError):  # sqlite3 raises it for names in the schema
        return "corrupt", {"problem": "names that are not UTF-8"}
    name = str(getattr(error, "sqlite_errorname", ""))
    code = next((code for prefix, code in SQLITE_CODES.items() if name.startswith(prefix)), None)
    details = {"problem": str(error)[:200], "limit": "row_bytes", "most": MAX_LENGTH}
    return code or ("system" if isinstance(error, OSError) else "unexpected"), details


def main() -> None:
    """Answer requests until stdin ends. Its first line has the limits, the files, the folders and common options."""
    from prismatic.sandbox import walls
    from validation.files.sandbox import arrow_driver

    driver = arrow_driver.load(*sys.argv[2:3])

    # Rows hold no cycles, and looking for cycles among millions of rows takes as long as reading them.
    gc.disable()
    gc.freeze()
    first = json.loads(sys.stdin.buffer.readline())
    confine(first["limits"])
    if not walls.enforce(first["files"], first["folders"], threads=True).seccomp:
        set_limits({"NPROC": 0})  # for an ordinary user no threads either: then one page is read after the other
    sender = Sender()
    for line in sys.stdin.buffer:
        request = {**first["options"], **json.loads(line)}
        allow_seconds(request["limits"]["seconds"])
        try:
            sender.send({**read(request, driver, sender.send), "ok": True}, [])
        except Exception as error:
            code, details = reason(error)
            sender.send({"ok": False, "code": code, "details": details}, [])
        gc.collect()


class Sender:
    """Writes to stdout; large pages in a thread, so that the next one is read meanwhile."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[tuple[dict[str, Any], list[Any]]] = queue.Queue(1)
        self._thread: threading.Thread | None = None

    def send(self, message: dict[str, Any], blobs: list[Any]) -> None:
        """Write a line of JSON, and the values that follow it, after everything that was sent before."""
        if sum(map(len, blobs)) < LARGE_PAGE or not self._has_thread():
            self._waiting.join()
            self._write(message, blobs)
        else:
            self._waiting.put((message, blobs))

    def _has_thread(self) -> bool:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_waiting, daemon=True)
            with contextlib.suppress(RuntimeError):  # the system allows no thread
                self._thread.start()
        return self._thread.is_alive()

    def _write_waiting(self) -> None:
        try:
            while True:
                self._write(*self._waiting.get())
                self._waiting.task_done()
        finally:
            os._exit(1)  # nobody reads any more, and this process would wait for ever

    def _write(self, message: dict[str, Any], blobs: list[Any]) -> None:
        sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
        for blob in blobs:
            sys.stdout.buffer.write(blob)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
