"""SQL by the user: one SELECT over the relations, with a limit on time and rows; its result as text, CSV or JSON."""

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

from prismatic import terminal
from validation.text import printable

ROWS, SECONDS = 10_000, 30.0


class BadQuery(ValueError):
    """The SQL is not one SELECT, has a mistake, or takes too long."""


@dataclass(frozen=True)
class QueryResult:
    """The rows of a result; `cut` is true if there are more."""

    table: pa.Table
    cut: bool


def run_query(con: duckdb.DuckDBPyConnection, sql: str, *, rows: int = ROWS, seconds: float = SECONDS) -> QueryResult:
    """Return the result of one SELECT. Raises BadQuery for anything else, a mistake in it, or one that takes too long.

    con: a connection that nothing else uses meanwhile; of a shared one, its `cursor()`.
    """
    _require_select(sql)
    try:
        with _deadline(con.interrupt, seconds):
            # Batch by batch: a result may have more rows than fit into memory.
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
            raise BadQuery(_on_one_line(error)) from None
        raise BadQuery(f"it took longer than {seconds:g} seconds; ask for fewer runs, or aggregate first.") from None
    except duckdb.Error as error:
        raise BadQuery(_on_one_line(error)) from None
    return QueryResult(table.slice(0, rows), len(table) > rows)


def _require_select(sql: str) -> None:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise BadQuery(_on_one_line(error)) from None
    kinds = [statement.type for statement in statements]
    if kinds != [duckdb.StatementType.SELECT]:
        found = ", ".join(kind.name for kind in kinds) or "nothing"
        raise BadQuery(f"expected one SELECT, found {found}; the relations can be read but not changed.")


def _on_one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split()), 500)


def format_rows(table: pa.Table, form: str) -> str:
    """Return a table as text without control characters. form: "table", "csv", or "json", a list of objects."""
    if form == "json":
        return json.dumps(table.to_pylist(), default=str, indent=1)
    rows = [{name: _cell(value) for name, value in row.items()} for row in table.to_pylist()]
    if form == "table":
        return terminal.plain_text(terminal.table(rows)) if rows else "  ".join(table.column_names)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([table.column_names, *(row.values() for row in rows)])
    return stream.getvalue().rstrip("\n")


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
