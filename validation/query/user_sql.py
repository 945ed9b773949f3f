"""Questions of the user's own, in SQL: one SELECT, over the relations alone, within limits of time and rows."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from validation.text import printable

ROWS, SECONDS = 10_000, 30.0


class BadQuestion(ValueError):
    """The text is no question that is answered here: what is wrong with it, and what is."""


@dataclass(frozen=True)
class Answer:
    """The rows of an answer; `cut` says that there are more."""

    table: pa.Table
    cut: bool


def answer(con: duckdb.DuckDBPyConnection, sql: str, *, rows: int = ROWS, seconds: float = SECONDS) -> Answer:
    """The answer to one SELECT. Raises BadQuestion for anything else, a mistake in it, or one that takes too long.

    con: a connection of which nobody else makes use meanwhile; of a shared one, its `cursor()`.
    """
    _require_select(sql)
    try:
        with _deadline(con.interrupt, seconds):
            # Not fetched at once: a question may have more rows than memory.
            reader = con.sql(sql).to_arrow_reader(min(rows + 1, 100_000))
            batches: list[pa.RecordBatch] = []
            while sum(map(len, batches)) <= rows:
                try:
                    batches.append(reader.read_next_batch())
                except StopIteration:
                    break
            table = pa.Table.from_batches(batches, schema=reader.schema)
    except (duckdb.InterruptException, pa.ArrowException) as error:
        if "interrupt" not in str(error).lower():
            raise BadQuestion(_said(error)) from None
        raise BadQuestion(f"it took longer than {seconds:g} seconds; ask for fewer runs, or aggregate first.") from None
    except duckdb.Error as error:
        raise BadQuestion(_said(error)) from None
    return Answer(table.slice(0, rows), len(table) > rows)


def _require_select(sql: str) -> None:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise BadQuestion(_said(error)) from None
    kinds = [statement.type for statement in statements]
    if kinds != [duckdb.StatementType.SELECT]:
        found = ", ".join(kind.name for kind in kinds) or "nothing"
        raise BadQuestion(f"expected one SELECT, found {found}; the relations can be asked and not changed.")


def _said(error: Exception) -> str:
    """What DuckDB says, on one line."""
    return printable(" ".join(str(error).split()), 500)


def as_rows(table: pa.Table, form: str) -> str:
    """An answer as text: "table" for people, "csv", or "json", a list of objects; without control characters."""
    if form == "json":
        return json.dumps(table.to_pylist(), default=str, indent=1)
    lines = [table.column_names, *([_cell(value) for value in row.values()] for row in table.to_pylist())]
    if form == "csv":
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows(lines)
        return stream.getvalue().rstrip("\n")
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else printable(value, 200)


class _deadline:  # noqa: N801 - reads as a statement
    """Call `stop` unless the block ends within so many seconds."""

    def __init__(self, stop: Callable[[], object], seconds: float):
        self._timer = threading.Timer(seconds, stop)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
