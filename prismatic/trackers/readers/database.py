"""SQLite files of trackers, which anybody may have written: opened for reading plain tables, with limits."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.sandbox.summary_worker import Unusable, url_of

MAX_CELL_BYTES = 64 << 20
SECONDS = 600.0  # for all that is read of one file
BUSY_SECONDS = 5.0
PRAGMAS = ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "temp_store=MEMORY", "query_only=ON")
PRAGMAS = ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "temp_store=MEMORY", "query_only=ON")
ALLOWED_FUNCTIONS = ("coalesce", "min")


@contextmanager
def opened(path: Path, kind: str) -> Iterator[sqlite3.Connection]:
    """Open a database in which only plain reading is possible: no view, trigger or function of its author runs.

    Raises TrackerError, which says that the file is no `kind`, also for errors of the caller's queries.
    """
    deadline = time.monotonic() + SECONDS
    try:
        url = url_of(str(path.absolute()))
        with closing(sqlite3.connect(url, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            limits = {"LENGTH": MAX_CELL_BYTES, "SQL_LENGTH": 1 << 20, "ATTACHED": 0, "EXPR_DEPTH": 100}
            for name, value in limits.items():
                connection.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), value)
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            if "unix-none" in url:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.set_authorizer(_authorize)
            yield connection
    except (sqlite3.Error, Unusable, OSError, UnicodeError, OverflowError) as error:
        raise TrackerError(f"{path}: cannot be read as {kind} ({error}).") from error


def _authorize(action: int, first: str | None, second: str | None, database: str | None, within: str | None) -> int:
    """Allow selects from tables; deny views, functions and everything that writes."""
    allowed = {
        sqlite3.SQLITE_SELECT: True,
        sqlite3.SQLITE_READ: within is None,
        sqlite3.SQLITE_FUNCTION: second in ALLOWED_FUNCTIONS,
        sqlite3.SQLITE_PRAGMA: first == "table_info",
    }
    return sqlite3.SQLITE_OK if allowed.get(action) else sqlite3.SQLITE_DENY


def columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the columns of a plain table; none for a view or a virtual table, which could run code."""
    found = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    if found is None or found[0] != "table" or "virtual" in str(found[1]).lower().split("(")[0]:
        return set()
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def json_object(text: Any) -> dict[str, Any] | None:
    """Return the object that a cell holds as JSON; None if it holds none."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
