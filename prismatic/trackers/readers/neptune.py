"""The reader of Neptune's exported runs: Parquet files of neptune-exporter, a row for each value of each attribute.

Neptune closed in March 2026; neptune-exporter wrote a run as `RUN_part_0.parquet`, `RUN_part_1.parquet` and so on, in a
folder for each project. Its README documents the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.tracked import TrackedRun

LIBRARIES: tuple[str, ...] = ("pyarrow.parquet", "pyarrow.compute")
PARTS = "*_part_*.parquet"
COLUMNS = ("project_id", "run_id", "attribute_path", "attribute_type", "step", "float_value")
OPTIONAL = ("timestamp", "int_value", "string_value", "bool_value")
OWN = "sys/"  # Neptune's own attributes: the name, the owner, times
NAME = "sys/name"
MAX_TEXT = 1000


def read(source: Path, only: str | None = None) -> list[TrackedRun]:
    """Return the runs of a Parquet file, or of all parts in a folder, with the metrics of those that are wanted.

    Raises TrackerError for files of another format.
    """
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    runs: dict[tuple[str, str], TrackedRun] = {}
    for path in files:
        try:
            _add_file(path, runs, only)
        except (OSError, ValueError, NotImplementedError, TypeError) as error:
            raise TrackerError(f"{path}: cannot be read as Parquet ({error}).") from error
    return list(runs.values())


def is_export(names: list[str]) -> bool:
    """Return whether a table with these columns is one of neptune-exporter."""
    return set(COLUMNS) <= set(names)


def _add_file(path: Path, runs: dict[tuple[str, str], TrackedRun], only: str | None) -> None:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if not is_export(names):
            raise TrackerError(f"{path}: expected the columns {', '.join(COLUMNS)} of neptune-exporter, found {names}.")
        read_columns = [name for name in (*COLUMNS, *OPTIONAL) if name in names]
        for batch in file.iter_batches(columns=read_columns, use_threads=False):
            for row in _rows(batch):
                key = (row["project_id"], row["run_id"])
                if key not in runs:
                    name, project = str(row["run_id"]), str(row["project_id"])
                    runs[key] = TrackedRun(name, "neptune", id=f"{project}/{name}", group=project, file=str(path))
                _add_row(runs[key], row, only)


def _rows(batch: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows as plain numbers and texts: steps as floats, times as milliseconds since 1970."""
    import pyarrow as pa

    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns["step"] = columns["step"].cast(pa.float64())
    if "timestamp" in columns:
        columns["timestamp"] = columns["timestamp"].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64())
    yield from pa.table(columns).to_pylist()


def _add_row(run: TrackedRun, row: dict[str, Any], only: str | None) -> None:
    """Add a value of a series, or an option; text series, files and histograms are neither."""
    path, kind = str(row["attribute_path"]), row["attribute_type"]
    if path == NAME and kind == "string" and row.get("string_value"):
        run.group = f"{run.group}/{row['string_value']}"[:MAX_TEXT]
    if not run.is_wanted(only):
        return
    if kind == "float_series":
        step = row["step"]
        if step is None or not float(step).is_integer():
            run.notes.append(f"a value of {path} has no whole number as step")
            return
        when = row.get("timestamp")
        run.add(int(step), {path: row["float_value"]}, when / 1000 if when is not None else None)
    elif kind in ("float", "int", "string", "bool") and not path.startswith(OWN):
        value = row.get(f"{kind}_value")
        if value is not None:
            run.config[path] = value
