"""The result of a query: a table in which each value is what it was, and the same as text, CSV or JSON."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from prismatic import terminal
from validation.files.sandbox.received import ProtocolError
from validation.text import pluralize, printable, spreadsheet_text

CELL_BYTES = 64 << 10
KINDS = {"boolean": (pa.bool_(),), "integer": (pa.int64(), pa.uint64()), "real": (pa.float64(),)}
"""The types that a column may get by its kind: the first that holds all its values, otherwise text."""
LEVELS = 100  # of nested values
FORM = b"form"
FORMS = ("json", "number")
"""The key and the values in the metadata of a column of texts that say what they are."""


@dataclass(frozen=True)
class QueryResult:
    """The rows of a result."""

    table: pa.Table
    more: bool
    """True if the question has more rows than fit into a result."""
    cut: int
    """The number of cells that were shortened; each ends with a note."""

    def notes(self) -> Iterator[str]:
        """Yield what the result lacks, a sentence each."""
        if self.more:
            yield f"These are the first {pluralize(len(self.table), 'row')}; the query has more."
        if self.cut:
            yield f"Cut: {pluralize(self.cut, 'cell')} of more than {CELL_BYTES >> 10} KiB."


def result_table(columns: list[tuple[str, str]], rows: list[list[Any]]) -> pa.Table:
    """Return the rows as columns. columns: the name and kind (see carried_types.py) of each.

    Raises ProtocolError, ValueError and others for rows that no worker sends.
    """
    arrays, fields = [], []
    for place, (name, (_, kind)) in enumerate(zip(_distinct([name for name, _ in columns]), columns, strict=True)):
        arrays.append(_array([row[place] for row in rows], kind))
        texts = pa.types.is_string(arrays[-1].type)
        fields.append(pa.field(name, arrays[-1].type, metadata={FORM: kind} if texts and kind in FORMS else None))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _distinct(names: list[str]) -> Iterator[str]:
    """Yield a name for each column: its own, or for a later one of the same name x_1, as DuckDB names it in a table."""
    taken, number = set(names), dict[str, int]()
    for name in names:
        if name not in number:
            number[name] = 1
            yield name
            continue
        while (free := f"{name}_{number[name]}") in taken:
            number[name] += 1
        taken.add(free)
        yield free


def _array(values: list[Any], kind: str) -> pa.Array:
    """Return a column in which each value is what it was: as text where no type of numbers holds them all."""
    if kind == "number":
        values, kind = _numbers(values)
    for of in KINDS.get(kind, ()):
        with contextlib.suppress(pa.ArrowException, OverflowError):
            return pa.array(values, of)
    return pa.array([None if value is None else _text(value, kind) for value in values], pa.string())


def _numbers(texts: list[str | None]) -> tuple[list[Any], str]:
    """Return integers or floats that are exactly these numbers, otherwise the texts; and their kind."""
    try:
        return [None if text is None else int(text) for text in texts], "integer"
    except ValueError:
        floats = [None if text is None else float(text) for text in texts]
    exact = all(text is None or Decimal(repr(real)) == Decimal(text) for real, text in zip(floats, texts, strict=True))
    return (floats, "real") if exact else (list(texts), "number")


def _text(value: Any, kind: str) -> str:
    if kind != "json" and isinstance(value, str):
        return value
    _require_flat(value, LEVELS)
    return json.dumps(value, ensure_ascii=False)


def _require_flat(value: Any, levels: int) -> None:
    """Raise ProtocolError if values are nested more deeply, which not everything that shows them can take."""
    if not levels:
        raise ProtocolError("a reply beyond the limits")
    if isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            _require_flat(each, levels - 1)


def python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a result as values of Python: lists, structs and maps as lists and dicts."""
    columns = [column.to_pylist() for column in table.columns]
    for place, field in enumerate(table.schema):
        if _form(field) == "json":
            columns[place] = [None if text is None else json.loads(text) for text in columns[place]]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def format_rows(table: pa.Table, form: str) -> str:
    """Return a table as text. form: "table", for people: numbers to 6 digits and cells to 200 characters;

    "csv" and "json", a list of objects: whole values. JSON has null for NaN and infinities; the others have no control
    characters.
    """
    if form == "json":
        rows = json.loads(json.dumps(python_rows(table)), parse_constant=lambda _: None)
        return json.dumps(rows, indent=1, allow_nan=False)
    if form == "table":
        cells = [{name: _cell(value) for name, value in row.items()} for row in table.to_pylist()]
        return terminal.plain_text(terminal.table(cells)) if cells else "  ".join(table.column_names)
    columns = [[_csv_cell(value, field) for value in column.to_pylist()] for field, column in _columns(table)]
    stream = io.StringIO()
    header = [*map(spreadsheet_text, table.column_names)]
    csv.writer(stream, lineterminator="\n").writerows([header, *zip(*columns, strict=True)])
    return stream.getvalue().rstrip("\n")


def _columns(table: pa.Table) -> Iterator[tuple[pa.Field, pa.ChunkedArray]]:
    return zip(table.schema, table.columns, strict=True)


def _form(field: pa.Field) -> str:
    """Return "json" or "number" for a column of such texts."""
    return str((field.metadata or {}).get(FORM, b"").decode())


def _csv_cell(value: Any, field: pa.Field) -> str:
    if isinstance(value, str):
        text = printable(value, len(value))
        return text if _form(field) == "number" else spreadsheet_text(text)
    return repr(value) if isinstance(value, float) else _cell(value)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return printable(value or "", 200)
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)
