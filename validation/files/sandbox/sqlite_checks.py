"""The conditions on a run file before its values are read: a SQLite file of plain, intact tables without foreign code.

Part of the child process that sqlite_worker.py is. Everything that the file says is the claim of somebody unknown.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from typing import Any

from prismatic.sandbox.sqlite_file import open_hardened, special_beside

# As in contract/schema.py, in the order of reading: the largest come last and cannot use up the others' time.
SIDE_TABLES = (
    *("run", "experts", "tiers", "events", "scalars"),
    *("layers", "packed_layers", "pairs", "packed_pairs", "histograms"),
)
PRAGMAS = ("application_id", "user_version", "table_xinfo", "quick_check", "integrity_check")
# Problems of values are not damage: the values are checked one by one.
VALUE_PROBLEM = re.compile(r"(NULL|TEXT|NUMERIC|non-\w+) value in ")

MAX_COLUMNS = 2000  # SQLite's own limit
MAX_LENGTH = 16 << 20  # bytes of one row or value that SQLite may load
# For checking the whole file at once. A file that is not a copy is locked for its writer meanwhile.
CHECK_SECONDS, CHECK_SECONDS_IN_PLACE = 2.0, 0.25


class Reject(Exception):
    """The file, or one of its side tables, cannot be read: a stable code and the facts."""

    def __init__(self, code: str, **details: Any) -> None:
        super().__init__(code)
        self.code, self.details = code, details


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
    if not immutable and (beside := special_beside(path)):
        raise Reject("special_beside", beside=os.path.basename(beside)[:200])
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


def connect(url: str, *, deadline: float, busy_seconds: float) -> sqlite3.Connection:
    """Return a connection to a file that may be hostile. busy_seconds: how long to wait for a writer's lock."""
    most = {"LENGTH": MAX_LENGTH, "SQL_LENGTH": 1 << 20, "COLUMN": MAX_COLUMNS, "EXPR_DEPTH": 100, "COMPOUND_SELECT": 2}
    most |= {"ATTACHED": 0, "VDBE_OP": 250_000, "FUNCTION_ARG": 8, "TRIGGER_DEPTH": 1, "WORKER_THREADS": 0}
    db = open_hardened(url, most, deadline=deadline, busy_seconds=busy_seconds)
    db.execute("PRAGMA ignore_check_constraints=ON")  # quick_check would run CHECKs, the author's code
    db.set_authorizer(authorize)
    return db


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


def rowid_name(db: sqlite3.Connection, table: str, declared: dict[str, str]) -> str | None:
    """Return the name of the table's rowid; None if the table has none."""
    hidden = {name.lower() for name in declared}
    key = next((name for name in ("_rowid_", "rowid", "oid") if name not in hidden), None)
    try:
        db.execute(f"SELECT {key} FROM {table} LIMIT 0").close()
    except sqlite3.OperationalError:  # WITHOUT ROWID
        return None
    return key


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


# -- Errors ------------------------------------------------------------------------------------------------------------

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
