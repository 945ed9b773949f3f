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

import gc
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if __name__ == "__main__":
    sys.path += sys.argv[1:2]  # the project's folder, which a script does not know by itself
from prismatic.sandbox.limits import allow_seconds, set_limits
from prismatic.sandbox.sqlite_file import how_to_open, pragmas, url_of
from validation.files.sandbox.sqlite_checks import (
    MAX_COLUMNS,
    PRAGMAS,
    SIDE_TABLES,
    Reject,
    check,
    connect,
    inspect,
    plain_columns,
    reason,
    rowid_name,
)
from validation.files.sandbox.sqlite_columns import Column, Reply, Sender, first_bad_cell, wrong_array

if TYPE_CHECKING:
    from validation.files.sandbox import arrow_driver

EXPERT = re.compile(r"expert_(?:0|[1-9][0-9]{0,3})_([a-z][a-z_]{0,60})")
ROLE = re.compile(r"role_(?:clean|perturbed|control|peer)_([a-z][a-z_]{0,60})")
LAYER = re.compile(r"layer_(?:0|[1-9][0-9]{0,3})_expert_(?:0|[1-9][0-9]{0,3})_([a-z][a-z_]{0,60})")
TIER_NORMS = ("top_norm", "bottom_norm", "middle_norm")
WHOLE_NORMS = ("clean_norm", "perturbed_norm", "grad_norm")  # of an expert; in a layer or a role also "norm"
TIER_MEANS = ("top_mean", "bottom_mean", "middle_mean")
TEXTUAL = re.compile("CHAR|CLOB|TEXT|BLOB")
LONG_TABLES = ("events", *SIDE_TABLES[4:])  # may have as many rows as `dynamics`
# The column with the length of the arrays, and the most that it may say.
PACKED = {"packed_layers": ("experts", 10_000), "packed_pairs": ("pairs", 1 << 22)}
DRIVER_TABLES = ("dynamics", "scalars", "layers", "pairs", "histograms")  # that Arrow's driver reads
APPLICATION_ID = 0x50524953  # of the files that DynamicsLogger writes

BUSY_SECONDS = 2.0
# Some 10 ms of reading, by `sqlite3` and by Arrow's driver: the longest time that a writer has to wait.
PAGE_CELLS, DRIVER_PAGE_CELLS = 50_000, 250_000
PACKED_PAGE_ROWS = 500
SENT_CELLS = 200_000  # at once: the parent keeps them, so that this process need not
BATCH_ROWS = 200  # as Python objects: few enough to stay in the processor's cache until they are numbers
LAST_ROWID = 2**63 - 1
MAX_EVENTS = 10_000  # the newest are kept
SIDE_ROWS, TEXT_BYTES = 100_000, 64 << 20  # in one side table; LONG_TABLES may have more rows

Page = tuple[list[Any], int, int | None]  # the cells of each column, the number of rows, the rowid of the last


# -- The pages of a table ----------------------------------------------------------------------------------------------


class Connections(NamedTuple):
    """Both connections to one file.

    Each has a SQLite of its own, and a process that closes a file loses all its locks on it. So only one of them works
    at a time, and both stay open until the end.
    """

    checked: sqlite3.Connection
    driver: arrow_driver.Connection | None


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
    db, fast = connect(url, deadline=limits["deadline"], busy_seconds=BUSY_SECONDS), None
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


# -- The process -------------------------------------------------------------------------------------------------------


def confine(limits: dict[str, Any]) -> None:
    """Drop privileges permanently: cap memory and open files, forbid writes and core dumps."""
    set_limits({"AS": limits["memory_bytes"], "FSIZE": 0, "NOFILE": 16, "CORE": 0})


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
        request = {**first["options"], "limits": {**first["limits"]}, **json.loads(line)}
        allow_seconds(request["limits"]["seconds"])
        try:
            sender.send({**read(request, driver, sender.send), "ok": True}, [])
        except Exception as error:
            code, details = reason(error)
            sender.send({"ok": False, "code": code, "details": details}, [])
        gc.collect()


if __name__ == "__main__":
    main()
