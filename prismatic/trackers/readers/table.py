"""The reader of tables that trackers export: CSV, JSON lines or Parquet, a row per step, a column per metric."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.tracked import STEP_NAMES, TrackedRun, as_number

LIBRARIES: tuple[str, ...] = ("pyarrow.parquet",)
RUN_NAMES = ("run_id", "run_name", "run", "Run", "Name")
SAME_NAMES = ("metrics", "history", "log", "progress")
"""Names of files that trackers and people give to every run."""
WALL_NAMES = ("wall_time", "_timestamp")


def read(source: Path, only: str | None = None) -> list[TrackedRun]:
    """Return the runs of a table: one, or one for each value of a column such as `run_name`.

    Steps come from the first column with a name in STEP_NAMES, else from the row number. Raises TrackerError if the
    file does not have the format of its suffix.
    """
    if source.suffix.lower() not in READERS:
        raise TrackerError(f"{source}: expected a table: {', '.join(READERS)}.")
    try:
        rows = list(READERS[source.suffix.lower()](source))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise TrackerError(f"{source}: cannot be read as {source.suffix} ({error}).") from error
    runs: dict[str, TrackedRun] = {}
    for number, row in enumerate(rows):
        run_name = next((str(row[name]) for name in RUN_NAMES if row.get(name)), _name_of(source))
        run = runs.setdefault(run_name, TrackedRun(run_name, source.suffix.removeprefix("."), file=str(source)))
        values = dict(row)
        step = _pop_number(values, STEP_NAMES)
        if step is None:
            step = float(number)
        wall_time = _pop_number(values, WALL_NAMES)
        if math.isfinite(step):
            run.add(int(step), values, wall_time)
        else:
            run.notes.append(f"row {number + 1} has no step")
    return list(runs.values())


def _name_of(source: Path) -> str:
    """Return the file's name, or the folders' of a name that every run has, as lightning_logs/version_0/metrics.csv."""
    if source.stem.lower() not in SAME_NAMES:
        return source.stem
    folders = source.absolute().parts[1:-1]
    return "-".join([*folders[-2:], source.stem])


def _pop_number(values: dict[str, Any], names: Iterable[str]) -> float | None:
    """Remove and return the first of these values that is a number."""
    found = next((name for name in names if as_number(values.get(name)) is not None), None)
    return None if found is None else as_number(values.pop(found))


def _csv(source: Path) -> Iterable[Mapping[str, Any]]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            yield {name: _cell(value) for name, value in row.items() if name}


def _cell(text: str | None) -> Any:
    """Return a number if the text is one, None if it is empty, else the text."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _jsonl(source: Path) -> Iterable[Mapping[str, Any]]:
    with source.open(encoding="utf-8-sig") as file:
        for line in file:
            row = json.loads(line) if line.strip() else {}
            if not isinstance(row, dict):
                raise ValueError(f"expected an object in each line, found {line[:40]!r}")
            if row:
                yield row


def _parquet(source: Path) -> Iterable[Mapping[str, Any]]:
    from pyarrow import parquet

    with parquet.ParquetFile(source) as file:
        for batch in file.iter_batches(use_threads=False):
            yield from batch.to_pylist()


def parquet_columns(source: Path) -> list[str]:
    """Return the names of a Parquet file's columns. Raises TrackerError if it is none."""
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(source).names)
    except (OSError, ValueError) as error:
        raise TrackerError(f"{source}: cannot be read as .parquet ({error}).") from error


READERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
