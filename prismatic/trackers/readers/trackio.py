"""The reader of trackio's projects: SQLite files whose table `metrics` has a row per step, with the metrics as JSON.

It follows trackio's documented storage schema, so it does not need the library. Trackio keeps a file per project in
one folder, ~/.cache/huggingface/trackio unless TRACKIO_DIR says another.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.readers.database import columns, json_object, opened
from prismatic.trackers.tracked import TrackedRun

LIBRARIES: tuple[str, ...] = ()
KIND = "a project of trackio"


def read(source: Path, only: str | None = None) -> list[TrackedRun]:
    """Return the runs of a project's file, or of all projects in a folder, with the metrics of those that are wanted.

    Raises TrackerError for any other file, and for a folder without a project.
    """
    if not source.is_dir():
        return _project(source, only)
    runs: list[TrackedRun] = []
    problem = TrackerError(f"{source}: this folder holds no project of trackio, which is a file with the ending .db.")
    for path in sorted(source.rglob("*.db")):
        try:
            runs += _project(path, only)
        except TrackerError as error:  # a registry of trackio, or a database of another program
            problem = error
    if not runs:
        raise problem
    return runs


def _project(path: Path, only: str | None) -> list[TrackedRun]:
    with opened(path, KIND) as connection:
        found = columns(connection, "metrics")
        if not {"run_name", "step", "metrics"} <= found:
            raise TrackerError(
                f"{path}: expected trackio's table `metrics` with run_name, step and metrics, found "
                f"{', '.join(sorted(found)) or 'no such table'}."
            )
        # An id tells runs of one name apart; earlier versions of trackio have none.
        key = "run_id" if "run_id" in found else "run_name"
        runs: dict[str, TrackedRun] = {}
        query = f"SELECT {key}, run_name, min(rowid) AS first FROM metrics GROUP BY 1 ORDER BY first"
        for run, name, _ in connection.execute(query):
            runs[run] = TrackedRun(str(name), "trackio", id=str(run), group=path.stem, file=str(path))
        wanted = {run: tracked for run, tracked in runs.items() if tracked.is_wanted(only)}
        _add_metrics(connection, wanted, key, "timestamp" if "timestamp" in found else "NULL")
        if {key, "config"} <= columns(connection, "configs"):
            for run, config in connection.execute(f"SELECT {key}, config FROM configs"):
                if run in wanted:
                    wanted[run].config = json_object(config) or {}
    return list(runs.values())


def _add_metrics(connection: sqlite3.Connection, runs: dict[str, TrackedRun], key: str, when: str) -> None:
    rows = connection.execute(f"SELECT {key}, step, metrics, {when} FROM metrics ORDER BY rowid")
    for run, step, metrics, timestamp in rows:
        if run not in runs:
            continue
        values = json_object(metrics)
        if isinstance(step, int) and values is not None:
            runs[run].add(step, values, _seconds(timestamp))
        else:
            runs[run].notes.append(f"a row of step {step} is not a JSON object")


def _seconds(timestamp: Any) -> float | None:
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
