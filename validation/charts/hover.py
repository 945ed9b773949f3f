"""The pointer on a chart of lines: a rule at the nearest step, with a tooltip of the values of all lines there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from validation.charts import theme
from validation.charts.panels import Panel, panel_rows
from validation.frames.downsample import HOVER_POINTS
from validation.frames.run_dynamics import Style

MAX_VALUES = 24  # in one tooltip


def hover_layers(panels: Sequence[Panel], style: Style) -> list[alt.Chart]:
    """Return the rule of each panel; its tooltip has the values of all panels, or of its own if those are too many."""
    tables = [_values_by_step(panel, style) for panel in panels]
    if sum(len(table.columns) for table in tables) <= MAX_VALUES:
        return [_rule(pd.concat(tables, axis=1), style)] * len(panels)
    return [_rule(table, style) for table in tables]


def _rule(wide: pd.DataFrame, style: Style) -> alt.Chart:
    """Return the rule with its tooltip. wide: a column for each line, by step."""
    wide = wide.sort_index().iloc[:: math.ceil(len(wide) / HOVER_POINTS) or 1].reset_index()
    names = [str(name) for name in wide.columns[1:]]
    # Vega reads brackets and dots in a field name as syntax, so fields get short names.
    wide.columns = pd.Index(["step", *(f"v{place}" for place in range(len(names)))])
    step = alt.Tooltip("step:Q", title=style.axis, format=",.6~g")
    tooltip = [step, *(alt.Tooltip(f"v{i}:Q", title=name, format=".3g") for i, name in enumerate(names))]
    near = alt.OpacityValue(0, condition={"param": "hover", "empty": False, "value": 0.9})
    rule: alt.Chart = alt.Chart(wide).mark_rule(color=theme.GREY, strokeWidth=1.5)
    encoded: alt.Chart = rule.encode(x=alt.X("step:Q"), opacity=near, tooltip=tooltip)
    return encoded


def _values_by_step(panel: Panel, style: Style) -> pd.DataFrame:
    """Return a column for each line of a panel, by step, in the order of the legend."""
    rows = panel.rows if style.hover is None else panel_rows(style.hover, panel)
    order = {name: place for place, name in enumerate(theme.SERIES)}
    series = rows["series"].astype(str)
    names = panel.label + ", " + series.str.partition(" ")[0] if panel.label else series
    names = names + rows["expert"].map(lambda expert: f" ({expert})" if expert >= 0 else "")
    of_peers = (f"{panel.label}, " if panel.label else "") + "expert " + rows["expert"].astype(str)
    rows = rows.assign(
        place=100_000 * series.map(order).fillna(len(order)) + rows["expert"],
        name=names.where(~series.isin(theme.PEERS), of_peers),
    )
    columns = rows[["place", "name"]].drop_duplicates().set_index("place")["name"]
    wide = rows.pivot_table(index="step", columns="place", values="value", aggfunc="max")
    return wide.rename(columns=columns)
