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
from prismatic.sandbox.sqlite_file import Unusable, open_hardened, url_in_place

MAX_CELL_BYTES = 64 << 20
SECONDS = 600.0  # for all that is read of one file
BUSY_SECONDS = 5.0
ALLOWED_FUNCTIONS = ("coalesce", "min")


@contextmanager
def opened(path: Path, kind: str) -> Iterator[sqlite3.Connection]:
    """Open a database in which only plain reading is possible: no view, trigger or function of its author runs.

    Raises TrackerError, which says that the file is no `kind`, also for errors of the caller's queries.
    """
    deadline = time.monotonic() + SECONDS
    try:
        limits = {"LENGTH": MAX_CELL_BYTES, "SQL_LENGTH": 1 << 20, "ATTACHED": 0, "EXPR_DEPTH": 100}
        url = url_in_place(str(path.absolute()))
        with closing(open_hardened(url, limits, deadline=deadline, busy_seconds=BUSY_SECONDS)) as connection:
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
