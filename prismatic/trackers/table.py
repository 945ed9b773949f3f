"""Tables, as every tracker exports them: CSV, JSON lines or Parquet, a row per step, a column per metric."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.tracked import STEP_NAMES, Tracked, as_number

RUN_NAMES = ("run_id", "run_name", "run", "Run", "Name")
WALL_NAMES = ("wall_time", "_timestamp")


def read(source: Path) -> list[Tracked]:
    """The runs of a table: one, or as many as a column such as `run_name` names.

    Steps are those of the first column that is called as one (`step`, `_step`, `global_step`, ...), else the number of
    the row. Raises TrackerError for a file that cannot be read as its name says.
    """
    try:
        rows = list(READERS[source.suffix.lower()](source))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise TrackerError(f"{source}: cannot be read as {source.suffix} ({error}).") from error
    runs: dict[str, Tracked] = {}
    for number, row in enumerate(rows):
        named = next((str(row[name]) for name in RUN_NAMES if row.get(name)), source.stem)
        run = runs.setdefault(named, Tracked(named, source.suffix.removeprefix(".")))
        values = dict(row)
        step = _taken(values, STEP_NAMES)
        if step is None:
            step = float(number)
        wall_time = _taken(values, WALL_NAMES)
        if math.isfinite(step):
            run.add(int(step), values, wall_time)
        else:
            run.notes.append(f"row {number + 1} has no step")
    return list(runs.values())


def _taken(values: dict[str, Any], names: Iterable[str]) -> float | None:
    """The first of these that is there and a number, which then is no metric."""
    found = next((name for name in names if as_number(values.get(name)) is not None), None)
    return None if found is None else as_number(values.pop(found))


def _csv(source: Path) -> Iterable[Mapping[str, Any]]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            yield {name: _cell(value) for name, value in row.items() if name}


def _cell(text: str | None) -> Any:
    """A number where it is one; what is empty is absent."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _jsonl(source: Path) -> Iterable[Mapping[str, Any]]:
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line) if line.strip() else {}
        if not isinstance(row, dict):
            raise ValueError(f"expected an object in each line, found {line[:40]!r}")
        if row:
            yield row


def _parquet(source: Path) -> Iterable[Mapping[str, Any]]:
    from pyarrow import parquet

    rows: list[dict[str, Any]] = parquet.read_table(source).to_pylist()
    return rows


READERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
