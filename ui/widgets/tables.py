"""Tables on a page: visible rows, a reserved height so that nothing below jumps while they load, facts as text."""

from __future__ import annotations

import json
from collections.abc import Sized
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import streamlit as st

ROW = 35  # pixels of a row and of the header in Streamlit
BORDER = 2
VISIBLE_ROWS = 10  # by default; the others are scrolled to
WHOLE = 2**53 - 1  # the largest whole number that a browser holds exactly
TIMES = ("started", "ended")  # facts in seconds since the epoch


def show_table(rows: Sized, *, most: int = VISIBLE_ROWS, **options: Any) -> Any:
    """Show the rows here, `most` of them visible; options and return value are those of `st.dataframe`."""
    return st.dataframe(rows, hide_index=True, height=height(len(rows), most), **options)


def height(rows: int, most: int = VISIBLE_ROWS) -> int:
    """Return the pixels of a table with `most` visible rows; an empty table takes one row."""
    return ROW * (1 + min(max(1, rows), most)) + BORDER


def fact_text(key: str, value: Any) -> str:
    """Return a fact as text; a time as date and time in UTC."""
    if key in TIMES and isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return value if isinstance(value, str) else json.dumps(value)


def with_large_numbers_as_text(table: pa.Table) -> pa.Table:
    """Return the table with columns as text where a number is so large that a browser shows an error in its place."""
    for place, field in enumerate(table.schema):
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            values = table.column(place).to_pylist()
            if any(value is not None and WHOLE < abs(value) < float("inf") for value in values):
                texts = pa.array([None if value is None else repr(value) for value in values], pa.string())
                table = table.set_column(place, field.name, texts)
    return table
