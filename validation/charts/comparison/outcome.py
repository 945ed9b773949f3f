"""The chart of the outcome: a line for each group with a dot for each seed, and a diamond for their mean."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.comparison.axes import NUMBER, axis_domain
from validation.charts.comparison.forest import COLOR, INK, TEXT_COLOR

ROW, AXIS_ROOM = 40, 64  # pixels of a line, and of the axis with its title
DOTS, MEAN = -7, 7  # pixels from the middle of a line
TITLE = "held-out loss in nats: run minus its twin"


def outcome_chart(pairs: pd.DataFrame, means: pd.DataFrame) -> alt.LayerChart:
    """Return the differences in held-out loss. pairs, means: from outcome_rows."""
    values = np.concatenate([pairs["difference"], means["low"], means["high"], [0.0]])
    low, high = axis_domain(values, np.append(pairs["difference"].to_numpy(dtype=float), 0.0))
    axis = alt.Axis(labelExpr=NUMBER, tickCount=5, grid=False)
    x = alt.X("difference:Q", title=TITLE, scale=alt.Scale(domain=[low, high], nice=False), axis=axis)
    y = alt.Y(
        "line:N",
        title=None,
        scale=alt.Scale(domain=means["line"].tolist(), padding=0),
        axis=alt.Axis(labelExpr="slice(datum.label, 6)", labelLimit=150, ticks=False, domain=False, grid=False),
    )
    layers = [_no_difference(x), *_seeds(pairs, x, y), *_means(means, y)]
    chart = alt.LayerChart(layer=layers, height=ROW * len(means) + AXIS_ROOM)
    return chart.resolve_scale(color="independent")


def _no_difference(x: alt.X) -> alt.Chart:
    none = alt.Chart(pd.DataFrame({"difference": [0.0]}))
    return none.mark_rule(color=theme.GREY, strokeDash=theme.ZERO_DASH).encode(x=x)


def _seeds(pairs: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    titles = {"seed": "Seed", "run": "Run", "of_run": "Its held-out loss", "twin": "Twin", "of_twin": "Of the twin"}
    tooltip = [alt.Tooltip(f"{name}:N", title=title) for name, title in titles.items()]
    tooltip.append(alt.Tooltip("difference:Q", title="Difference", format="+.4f"))
    dots = alt.Chart(pairs).mark_point(filled=True, size=46, opacity=0.75, yOffset=DOTS)
    return [dots.encode(x=x, y=y, color=COLOR, tooltip=tooltip)]


def _means(means: pd.DataFrame, y: alt.Y) -> list[alt.Chart]:
    over, words = alt.Chart(means), alt.Chart(means.assign(ink=INK))
    text = words.mark_text(align="left", dx=8, yOffset=MEAN, fontSize=11, baseline="middle")
    return [
        over.mark_rule(strokeWidth=3, clip=True, yOffset=MEAN).encode(
            x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, color=COLOR
        ),
        over.mark_point(shape="diamond", size=150, filled=True, opacity=1, yOffset=MEAN).encode(
            x=alt.X("mean:Q"), y=y, color=COLOR
        ),
        text.encode(x=alt.XValue("width"), y=y, text=alt.Text("text:N"), color=TEXT_COLOR),
    ]
