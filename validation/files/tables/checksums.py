"""Comparison of a run file's columns with the checksums that its logger recorded when it closed the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prismatic.contract.checksums import FACT, ColumnHash, covered_columns
from prismatic.contract.schema import TABLES
from validation.text import printable

KEPT_EVENTS = 10_000  # sqlite_worker.py reads no more of `events`, so a longer table cannot be compared
SHOWN = 5


def without_checksums(facts: pa.Table) -> tuple[pa.Table, str | None]:
    """Return the rows of table `run` without the recorded checksums, and their JSON; None if there are none."""
    if not {"key", "value"} <= {*facts.column_names}:
        return facts, None
    if FACT not in facts["key"].to_pylist():
        return facts, None
    recorded = pc.fill_null(pc.equal(facts["key"], FACT), False)
    values = facts.filter(recorded)["value"].to_pylist()
    return facts.filter(pc.invert(recorded)), values[0] or "" if values else None


def changed_columns(tables: Mapping[str, pa.Table], recorded: str) -> str | None:
    """Return in words which columns are not as recorded; None if all are. tables: as read, `run` without the record."""
    try:
        different = list(_different(tables, json.loads(recorded)))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return "the record of the checksums itself"
    more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
    return ", ".join(different[:SHOWN]) + more if different else None


def _different(tables: Mapping[str, pa.Table], recorded: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for table in ("dynamics", *TABLES):
        read, expected = tables.get(table), recorded.get(table, {})
        if table == "events" and read is not None and len(read) >= KEPT_EVENTS:
            continue
        for name, kind in covered_columns(table, expected).items():
            if read is None or name not in read.column_names or _checksum(read[name], kind) != expected[name]:
                yield f"{table}.{printable(name)}"


def _checksum(column: pa.ChunkedArray, kind: str) -> str:
    """Return the checksum of a column, as prismatic/contract/checksums.py defines it."""
    found = ColumnHash()
    for piece in column.chunks:
        if kind == "d":
            found.add(np.ascontiguousarray(piece.to_numpy(zero_copy_only=False), dtype="<f8").data)
        elif kind == "q":
            values = piece.fill_null(0).to_numpy(zero_copy_only=False)
            present = piece.is_valid().to_numpy(zero_copy_only=False)
            found.add(np.ascontiguousarray(values, dtype="<i8").data, present.data)
        elif kind == "b":
            lengths = pc.fill_null(pc.multiply(pc.list_value_length(piece), 4), -1).to_numpy(zero_copy_only=False)
            numbers = piece.flatten().to_numpy(zero_copy_only=False)  # without those of NULL
            found.add(np.ascontiguousarray(lengths, dtype="<i4").data, np.ascontiguousarray(numbers, dtype="<f4").data)
        else:
            lengths = pc.fill_null(pc.binary_length(piece), -1).to_numpy(zero_copy_only=False)
            found.add(np.ascontiguousarray(lengths, dtype="<i4").data, _text(piece))
    return found.hexdigest()


def _text(piece: pa.StringArray) -> memoryview:
    """Return the UTF-8 of all rows, one after the other."""
    whole = piece.fill_null("")
    _, ends, data = whole.buffers()
    first, last = np.frombuffer(ends, np.int32)[[whole.offset, whole.offset + len(whole)]] if len(whole) else (0, 0)
    return memoryview(data or b"")[first:last]
