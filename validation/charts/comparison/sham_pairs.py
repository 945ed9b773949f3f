"""The chart of treated runs beside their sham runs."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.comparison.axes import COLOR


def sham_dumbbells(pairs: pd.DataFrame, title: str) -> alt.LayerChart:
    """Return a row per treated run (filled) and its sham run (hollow), joined by a line. title: effect and unit."""
    named = zip(pairs["scale"].fillna(np.nan), pairs["seed"], pairs["run"], strict=True)
    rows = [f"scale {scale:g}, seed {seed} ({run})" for scale, seed, run in named]
    data = pairs.assign(row=rows, untreated=pairs["of the sham"])
    axis = alt.Axis(labelLimit=220, labelBaseline="middle", ticks=False, domain=False)
    scale = alt.Scale(zero=False)
    y = alt.Y("row:N", title=None, sort=rows, axis=axis)
    x = alt.X("treated:Q", title=title, scale=scale, axis=alt.Axis(tickCount=8))
    treated = alt.Chart(data.assign(color=theme.GROUPS[1]))
    sham = alt.Chart(data.assign(color=theme.GROUPS[5]))
    tooltip = [
        *(alt.Tooltip(f"{name}:N", title=text) for name, text in (("run", "Run"), ("sham", "Its sham run"))),
        *(alt.Tooltip(f"{name}:Q", title=name.capitalize()) for name in ("seed", "scale")),
        alt.Tooltip("treated:Q", title="Treated run", format=".3~g"),
        alt.Tooltip("untreated:Q", title="Sham run", format=".3~g"),
    ]
    layers = [
        treated.mark_rule(strokeWidth=2, opacity=0.6).encode(x=x, x2=alt.X2("untreated:Q"), y=y, color=COLOR),
        sham.mark_point(filled=False, size=70, strokeWidth=2).encode(
            x=alt.X("untreated:Q", scale=scale), y=y, color=COLOR, tooltip=tooltip
        ),
        treated.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=COLOR, tooltip=tooltip),
    ]
    return alt.LayerChart(layer=layers, height=70 + 26 * len(data))
