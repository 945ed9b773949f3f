"""Tables on a page: how many rows are visible, and a reserved height so that nothing below jumps while they load."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import streamlit as st

ROW = 35  # pixels of a row and of the header in Streamlit
BORDER = 2
VISIBLE_ROWS = 10  # by default; the others are scrolled to


def show_table(rows: Sized, *, most: int = VISIBLE_ROWS, **options: Any) -> Any:
    """Show the rows here, `most` of them visible; options and return value are those of `st.dataframe`."""
    return st.dataframe(rows, hide_index=True, height=height(len(rows), most), **options)


def height(rows: int, most: int = VISIBLE_ROWS) -> int:
    """Return the pixels of a table with `most` visible rows; an empty table takes one row."""
    return ROW * (1 + min(max(1, rows), most)) + BORDER
