"""Tables on a page, with room kept for them while the browser loads what draws them, or all below would jump."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import streamlit as st

ROW = 35  # pixels of a row of Streamlit's, and of the head
BORDER = 2
MOST = 10  # rows seen at once, unless somebody asks for more


def show_table(rows: Sized, *, most: int = MOST, **options: Any) -> Any:
    """The rows in this place, `most` of them seen at once; options and answer are those of `st.dataframe`."""
    return st.dataframe(rows, hide_index=True, height=height(len(rows), most), **options)


def height(rows: int, most: int = MOST) -> int:
    """Pixels of a table with so many rows, of which `most` are seen; of none it takes one to say so."""
    return ROW * (1 + min(max(1, rows), most)) + BORDER
