"""Checksums of a run file's columns, as its writer computes them: recorded at the end, removed at the next start."""

from __future__ import annotations

import json
import sqlite3
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from prismatic.contract.checksums import FACT, ColumnHash, covered_columns
from prismatic.contract.schema import SIDE_TABLES

BATCH_CELLS = 10_000  # values at once as Python objects: few enough to stay in the processor's cache
NAN = float("nan")


def record_checksums(connection: sqlite3.Connection) -> None:
    """Write the checksums of every column into table `run`. The caller opens the transaction."""
    found = json.dumps(compute_checksums(connection), separators=(",", ":"))
    connection.execute("INSERT OR REPLACE INTO run (key, value) VALUES (?, ?)", (FACT, found))


def remove_checksums(connection: sqlite3.Connection) -> None:
    """Remove the checksums before rows are added. The caller opens the transaction."""
    connection.execute("DELETE FROM run WHERE key = ?", (FACT,))


def changed_column(connection: sqlite3.Connection) -> str | None:
    """Return a column whose values are not those of its checksum; None if all are, or none was recorded."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'run'").fetchone():
        return None
    recorded = connection.execute("SELECT value FROM run WHERE key = ?", (FACT,)).fetchone()
    if recorded is None:
        return None
    try:
        expected, found = json.loads(recorded[0]), compute_checksums(connection)
        different = (
            f"{table}.{column}"
            for table, columns in expected.items()
            for column, checksum in columns.items()
            if found.get(table, {}).get(column) != checksum
        )
        return next(different, None)
    except (ValueError, TypeError, AttributeError):
        return f"run.{FACT}"


def compute_checksums(connection: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """Return by table and column the checksum of its values; a column with a value of another type has none."""
    return {table: _checksums_of(connection, table) for table in ("dynamics", *SIDE_TABLES)}


def _checksums_of(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    declared = {str(name): str(kind) for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")}
    # Readers skip columns of text in `dynamics`, which other writers added before an upgrade.
    names = [name for name, kind in declared.items() if table != "dynamics" or kind in ("REAL", "INTEGER")]
    kinds = covered_columns(table, names)
    if not kinds:
        return {}
    hashes: dict[str, ColumnHash] = {name: ColumnHash() for name in kinds}
    selected = ", ".join(f'"{name}"' for name in kinds)
    others = f" WHERE key IS NOT '{FACT}'" if table == "run" else ""
    cursor = connection.execute(f"SELECT {selected} FROM {table} NOT INDEXED{others}")
    while rows := cursor.fetchmany(max(1, BATCH_CELLS // len(kinds))):
        for (name, kind), cells in zip(kinds.items(), zip(*rows, strict=True), strict=True):
            try:
                if name in hashes:
                    hashes[name].add(*_streams(kind, cells))
            except (TypeError, AttributeError, OverflowError):  # of another type than its column
                del hashes[name]
    return {name: found.hexdigest() for name, found in hashes.items()}


def _streams(kind: str, cells: Sequence[Any]) -> tuple[bytes, bytes]:
    """Return the two streams of values that prismatic/contract/checksums.py describes."""
    if kind == "d":
        try:
            return _packed("d", cells), b""
        except TypeError:  # a NULL, or a value of another type, which raises again
            return _packed("d", [NAN if cell is None else cell for cell in cells]), b""
    present = bytes(cell is not None for cell in cells)
    if kind == "q":
        return _packed("q", [0 if cell is None else cell for cell in cells]), present
    texts = [None if cell is None else cell.encode() for cell in cells]
    lengths = _packed("i", [-1 if text is None else len(text) for text in texts])
    return lengths, b"".join(filter(None, texts))


def _packed(kind: str, values: Iterable[float]) -> bytes:
    numbers = array(kind, values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
