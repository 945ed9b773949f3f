"""Charts on a page: what `st.altair_chart` does, at a fraction of its cost.

Altair checks a chart against the whole grammar each time it is turned into a description. The tests do that with our
charts once and for all; a page need not do it again at each visit. Rows travel without the columns that the chart does
not use, and as narrow as an eye can tell. Their name stays when they change, so that the browser can put new rows into
the chart that stands there.
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

_GLOBAL = threading.Lock()  # Altair's settings belong to the process, and each session draws in a thread of its own


Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart


@dataclass(frozen=True, eq=False)
class Described:
    """A chart as it travels to the page. To make it takes longer than to send it, so some are kept."""

    spec: dict[str, Any]
    height: int | None
    """None where the page has to find it: of panels above each other."""


def describe(chart: Chart) -> Described:
    """The chart's description, with its rows."""
    rows: dict[str, pd.DataFrame] = {}
    with _GLOBAL, alt.theme.enable("none"), alt.data_transformers.enable("by_name", rows=rows):
        description = chart.to_dict(validate=False)
    # Or the browser would put each mark into words for screen readers, which are told what the whole chart shows.
    description.setdefault("config", {}).setdefault("mark", {})["aria"] = False
    words = set(re.findall(r"\w+", json.dumps(description)))
    datasets = {name: pa.Table.from_pandas(slim(data, words)) for name, data in rows.items()}
    height = getattr(chart, "height", None)
    return Described(description | {"datasets": datasets}, height if isinstance(height, int) else None)


def draw(chart: Chart | Described, **options: Any) -> Any:
    """The chart in this place; options and answer are those of `st.altair_chart`.

    Room for its height is kept while the browser loads the library that draws it, or what is below it would jump.
    """
    shown = chart if isinstance(chart, Described) else describe(chart)
    if shown.height is not None:
        options.setdefault("height", shown.height)
    return st.vega_lite_chart(spec=shown.spec, **options)


def slim(data: pd.DataFrame, words: set[str]) -> pd.DataFrame:
    """The columns that are among the words: texts as codes, numbers as float32 or int32 where nothing is lost by it."""
    kept = {}
    for name in data.columns.intersection(list(words), sort=False):
        column = data[name].reset_index(drop=True)
        if column.dtype == np.float64 and _fits_float32(column.to_numpy()):
            column = column.astype(np.float32)
        elif column.dtype == np.int64 and column.abs().max() < 2**31:
            column = column.astype(np.int32)
        elif pd.api.types.is_string_dtype(column.dtype):
            column = column.astype("category")
        kept[name] = column
    return pd.DataFrame(kept)


def _fits_float32(values: NDArray[np.float64]) -> bool:
    """Whether seven digits tell what the values differ in."""
    finite = values[np.isfinite(values)]
    return not len(finite) or bool(np.abs(finite).max() <= min(1e3 * np.ptp(finite), 1e38))


def _by_name(data: pd.DataFrame, rows: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Puts rows aside and leaves a name in their place; rows that two layers share are there once."""
    name = next((known for known, own in rows.items() if own is data), f"data-{len(rows)}")
    rows[name] = data
    return {"name": name}


alt.data_transformers.register("by_name", _by_name)
