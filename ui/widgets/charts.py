"""Charts on a page: a faster `st.altair_chart` that sends fewer bytes.

Altair validates a chart against its whole grammar each time it turns it into a spec. The tests validate our charts, so
a page skips it. Rows are sent without unused columns and as float32 or int32. A dataset keeps its name when its rows
change, so the browser puts new rows into the chart that is already there.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa
import streamlit as st
from numpy.typing import NDArray

_ALTAIR = threading.Lock()  # Altair's settings are process-wide, and each session draws in its own thread

Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart


@dataclass(frozen=True, eq=False)
class Described:
    """A chart's Vega-Lite spec with its datasets: slow to make, quick to send."""

    spec: dict[str, Any]
    height: int | None
    """Pixels; None for stacked panels, whose height the browser finds."""


def describe(chart: Chart) -> Described:
    """Return the chart's spec with its rows."""
    rows: dict[str, pd.DataFrame] = {}
    with _ALTAIR, alt.theme.enable("none"), alt.data_transformers.enable("by_name", rows=rows):
        description = chart.to_dict(validate=False)
    # Screen readers get one text for the whole chart; without this the browser writes one for each mark.
    description.setdefault("config", {}).setdefault("mark", {})["aria"] = False
    words = set(re.findall(r"\w+", json.dumps(description)))
    datasets = {name: pa.Table.from_pandas(slim(data, words)) for name, data in rows.items()}
    height = getattr(chart, "height", None)
    return Described(description | {"datasets": datasets}, height if isinstance(height, int) else None)


def draw(chart: Chart | Described, **options: Any) -> Any:
    """Show the chart here; options and return value are those of `st.altair_chart`.

    Its height is reserved while the browser loads the library that draws it, so that nothing below it jumps.
    """
    shown = chart if isinstance(chart, Described) else describe(chart)
    if shown.height is not None:
        options.setdefault("height", shown.height)
    return st.vega_lite_chart(spec=shown.spec, **options)


def slim(data: pd.DataFrame, words: set[str]) -> pd.DataFrame:
    """Return the columns named in `words`: texts as categories, numbers as float32 or int32 where no digit is lost."""
    columns = {}
    for name in data.columns.intersection(list(words), sort=False):
        column = data[name].reset_index(drop=True)
        if column.dtype == np.float64 and _fits_float32(column.to_numpy()):
            column = column.astype(np.float32)
        elif column.dtype == np.int64 and column.abs().max() < 2**31:
            column = column.astype(np.int32)
        elif pd.api.types.is_string_dtype(column.dtype):
            column = column.astype("category")
        columns[name] = column
    return pd.DataFrame(columns)


def _fits_float32(values: NDArray[np.float64]) -> bool:
    """Return True if seven digits are enough to tell the values apart."""
    finite = values[np.isfinite(values)]
    return not len(finite) or bool(np.abs(finite).max() <= min(1e3 * np.ptp(finite), 1e38))


def _by_name(data: pd.DataFrame, rows: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Move the rows into `rows` and return their name; layers that share a data frame share one entry."""
    name = next((known for known, frame in rows.items() if frame is data), f"data-{len(rows)}")
    rows[name] = data
    return {"name": name}


alt.data_transformers.register("by_name", _by_name)
