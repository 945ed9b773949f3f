"""The reader of trackio's projects: SQLite files whose table `metrics` has a row per step, with the metrics as JSON.

It follows trackio's documented storage schema, so it does not need the library.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.tracked import TrackedRun

MAX_CELL_BYTES = 64 << 20


def read(source: Path) -> list[TrackedRun]:
    """Return the runs of a project's file. Raises TrackerError for any other file."""
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            # An untrusted file must not run code by views or triggers.
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA query_only = ON")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL_BYTES)
            return _runs(connection, source)
    except (sqlite3.Error, UnicodeError, OverflowError) as error:
        raise TrackerError(f"{source}: cannot be read as a project of trackio ({error}).") from error


def _runs(connection: sqlite3.Connection, source: Path) -> list[TrackedRun]:
    columns = _columns(connection, "metrics")
    if not {"run_name", "step", "metrics"} <= columns:
        raise TrackerError(
            f"{source}: expected trackio's table `metrics` with run_name, step and metrics, found "
            f"{', '.join(sorted(columns)) or 'no such table'}."
        )
    # An id separates runs of the same name; earlier versions of trackio have none.
    key = "run_id" if "run_id" in columns else "run_name"
    when = "timestamp" if "timestamp" in columns else "NULL"
    runs: dict[str, TrackedRun] = {}
    rows = connection.execute(f"SELECT {key}, run_name, step, metrics, {when} FROM metrics ORDER BY rowid")
    for run, name, step, metrics, timestamp in rows:
        tracked = runs.setdefault(run, TrackedRun(str(name), "trackio"))
        values = _json(metrics)
        if isinstance(step, int) and values is not None:
            tracked.add(step, values, _seconds(timestamp))
        else:
            tracked.notes.append(f"a row of step {step} is not a JSON object")
    if {key, "config"} <= _columns(connection, "configs"):
        for run, config in connection.execute(f"SELECT {key}, config FROM configs"):
            if run in runs:
                runs[run].config = _json(config) or {}
    return list(runs.values())


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the columns of a plain table; none for a view or a virtual table, which could run code."""
    found = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    if found is None or found[0] != "table" or "virtual" in str(found[1]).lower().split("(")[0]:
        return set()
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def _json(text: Any) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _seconds(timestamp: Any) -> float | None:
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
