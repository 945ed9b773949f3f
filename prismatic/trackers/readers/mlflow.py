"""The reader of MLflow's SQLite store, `mlflow.db`: its runs, their metrics at each step, and their parameters.

It follows the tables that MLflow 1.x, 2.x and 3.x write, so it does not need the library. Artifacts, models and traces
are not read, and neither is the folder `mlruns/` of earlier versions.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from prismatic.errors import TrackerError
from prismatic.trackers.readers.database import columns, opened
from prismatic.trackers.tracked import TrackedRun, literal

LIBRARIES: tuple[str, ...] = ()
KIND, STORE = "a store of MLflow", "mlflow.db"
TABLES = {
    "runs": {"run_uuid", "name", "experiment_id", "lifecycle_stage"},
    "metrics": {"run_uuid", "key", "value", "step", "timestamp", "is_nan"},
    "params": {"run_uuid", "key", "value"},
    "tags": {"run_uuid", "key", "value"},
    "experiments": {"experiment_id", "name"},
}
NAME_TAG = "mlflow.runName"  # where versions before 2.0 keep a run's name
LARGEST = 1.7976931348623157e308  # what MLflow stores for infinity


def read(source: Path, only: str | None = None) -> list[TrackedRun]:
    """Return the runs of a store that were not deleted, with metrics and parameters of those that are wanted.

    source: the database, or a folder with databases named mlflow.db. Raises TrackerError for any other file.
    """
    paths = sorted(source.rglob(STORE)) if source.is_dir() else [source]
    return [run for path in paths for run in _store(path, only)]


def _store(path: Path, only: str | None) -> list[TrackedRun]:
    with opened(path, KIND) as connection:
        for table, needed in TABLES.items():
            if missing := sorted(needed - columns(connection, table)):
                raise TrackerError(f"{path}: expected MLflow's table `{table}` with {', '.join(sorted(needed))}; "
                                   f"it lacks {', '.join(missing)}.")  # fmt: skip
        runs = _runs(connection, str(path))
        for run in runs:
            if run.is_wanted(only):
                _add_metrics(connection, run)
                found = connection.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run.id,))
                run.config = {str(key): literal(str(value)) for key, value in found}
    return runs


def _runs(connection: sqlite3.Connection, file: str) -> list[TrackedRun]:
    query = """
        SELECT runs.run_uuid, coalesce(runs.name, ''), coalesce(tags.value, ''), coalesce(experiments.name, '')
        FROM runs
        LEFT JOIN experiments ON experiments.experiment_id = runs.experiment_id
        LEFT JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = ?
        WHERE coalesce(runs.lifecycle_stage, 'active') <> 'deleted' ORDER BY runs.rowid"""
    return [
        TrackedRun(str(name or tag or run), "mlflow", id=str(run), group=str(experiment), file=file)
        for run, name, tag, experiment in connection.execute(query, (NAME_TAG,))
    ]


def _add_metrics(connection: sqlite3.Connection, run: TrackedRun) -> None:
    """Add a run's metrics; of several values of one step, MLflow's latest."""
    query = "SELECT key, step, value, is_nan, timestamp FROM metrics WHERE run_uuid = ? ORDER BY timestamp, rowid"
    replaced = 0
    for key, step, value, is_nan, timestamp in connection.execute(query, (run.id,)):
        if not isinstance(step, int) or not isinstance(value, int | float):
            run.notes.append(f"a value of {key} has no step, or is no number")
            continue
        replaced += step in run.metrics.get(str(key), {})
        run.add(step, {str(key): _number(float(value), bool(is_nan))}, _seconds(timestamp))
    if replaced:
        run.notes.append(f"{replaced:,} values were logged again at the same step; the last of each counts")


def _number(value: float, is_nan: bool) -> float:
    if is_nan:
        return float("nan")
    return value * 2 if abs(value) >= LARGEST else value  # twice the largest number is infinite


def _seconds(milliseconds: object) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int) and milliseconds > 0 else None
