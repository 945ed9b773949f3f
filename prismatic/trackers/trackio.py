"""trackio: a project is a SQLite file whose table `metrics` has a row per step, with the metrics as JSON.

Read by trackio's documented storage schema, so that the library is not needed.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.tracked import Tracked

LONGEST = 64 << 20  # bytes of one cell


def read(source: Path) -> list[Tracked]:
    """The runs of a project's file. Raises TrackerError for a file that is no project of trackio."""
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            # Nothing in the file is to run: not its views, not its triggers.
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA query_only = ON")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
            return _runs(connection, source)
    except (sqlite3.Error, UnicodeError, OverflowError) as error:
        raise TrackerError(f"{source}: cannot be read as a project of trackio ({error}).") from error


def _runs(connection: sqlite3.Connection, source: Path) -> list[Tracked]:
    columns = _columns(connection, "metrics")
    if not {"run_name", "step", "metrics"} <= columns:
        raise TrackerError(
            f"{source}: expected trackio's table `metrics` with run_name, step and metrics, found "
            f"{', '.join(sorted(columns)) or 'no such table'}."
        )
    # Two runs of one name are told apart by an id, which earlier versions do not have.
    key = "run_id" if "run_id" in columns else "run_name"
    when = "timestamp" if "timestamp" in columns else "NULL"
    runs: dict[str, Tracked] = {}
    rows = connection.execute(f"SELECT {key}, run_name, step, metrics, {when} FROM metrics ORDER BY rowid")
    for run, name, step, metrics, timestamp in rows:
        kept = runs.setdefault(run, Tracked(str(name), "trackio"))
        values = _json(metrics)
        if isinstance(step, int) and values is not None:
            kept.add(step, values, _seconds(timestamp))
        else:
            kept.notes.append(f"a row of step {step} is no JSON object")
    if {key, "config"} <= _columns(connection, "configs"):
        for run, config in connection.execute(f"SELECT {key}, config FROM configs"):
            if run in runs:
                runs[run].config = _json(config) or {}
    return list(runs.values())


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """Of a plain table; none of a view or a virtual table, which could run anything."""
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
