"""Rows, steps, events and facts of a run file, read with plain SQL."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def rows(path: Path, query: str = "SELECT * FROM dynamics ORDER BY step") -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def steps(path: Path) -> list[int]:
    return [row["step"] for row in rows(path)]


def events(path: Path) -> list[tuple[str, int | None]]:
    """Return (code, step) of each event, in order, without the one that says how gradients are summed."""
    found = rows(path, "SELECT * FROM events WHERE code != 'measuring' ORDER BY id")
    return [(row["code"], row["step"]) for row in found]


def facts(path: Path) -> dict[str, Any]:
    return {row["key"]: json.loads(row["value"]) for row in rows(path, "SELECT * FROM run")}
