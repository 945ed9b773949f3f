"""What the pointer reads off a chart of lines: a rule at the nearest step, and the values of all lines there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from validation.charts import theme
from validation.charts.panels import Panel, Style, own

HOVER_STEPS = 200  # each costs the browser the words of its tooltip, before anybody points at it
HOVER_NAMES = 24  # values that one tooltip tells


def pointers(panels: Sequence[Panel], style: Style) -> list[alt.Chart]:
    """For each panel a rule at the nearest step that tells the values of all, or of its own where they are many."""
    told = [_read(panel, style) for panel in panels]
    if sum(len(one.columns) for one in told) <= HOVER_NAMES:
        return [_pointer(pd.concat(told, axis=1), style)] * len(panels)
    return [_pointer(one, style) for one in told]


def _pointer(wide: pd.DataFrame, style: Style) -> alt.Chart:
    """wide: a column for each line by step."""
    wide = wide.sort_index().iloc[:: math.ceil(len(wide) / HOVER_STEPS) or 1].reset_index()
    names = [str(name) for name in wide.columns[1:]]
    # Short field names: brackets and dots in a field name are syntax to the chart.
    wide.columns = pd.Index(["step", *(f"v{place}" for place in range(len(names)))])
    first = alt.Tooltip("step:Q", title=style.axis, format=",.6~g")
    tooltip = [first, *(alt.Tooltip(f"v{i}:Q", title=name, format=".3g") for i, name in enumerate(names))]
    near = alt.OpacityValue(0, condition={"param": "hover", "empty": False, "value": 0.9})
    rule: alt.Chart = alt.Chart(wide).mark_rule(color=theme.GREY, strokeWidth=1.5)
    read: alt.Chart = rule.encode(x=alt.X("step:Q"), opacity=near, tooltip=tooltip)
    return read


def _read(panel: Panel, style: Style) -> pd.DataFrame:
    """A column for each line of a panel by step, in the order of the legend."""
    rows = panel.rows
    if style.pointer is not None:
        rows = own(style.pointer, panel)
    order = {name: place for place, name in enumerate(theme.SERIES)}
    series = rows["series"].astype(str)
    said = panel.word + ", " + series.str.partition(" ")[0] if panel.word else series
    rows = rows.assign(
        place=100_000 * series.map(order).fillna(len(order)) + rows["expert"],
        name=said + rows["expert"].map(lambda expert: f" ({expert})" if expert >= 0 else ""),
    )
    names = rows[["place", "name"]].drop_duplicates().set_index("place")["name"]
    wide = rows.pivot_table(index="step", columns="place", values="value", aggfunc="max")
    return wide.rename(columns=names)
