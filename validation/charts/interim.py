"""The interval of an effect at each interim look, beside its threshold; looks to come have an empty place."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.ticks import factor_ticks
from validation.frames.interim import PLACES, LookIntervals

HEIGHT = 200
LEAST = {True: 0.05, False: 0.02}  # that the axis covers on either side of no effect, on the scale of a log or a cosine


def interim_chart(looks: LookIntervals) -> alt.LayerChart:
    """Return a dot with its interval for each look. An unbounded end reaches the edge of the picture."""
    low, high = _domain(looks)
    rows = looks.rows.assign(low=looks.rows["low"].fillna(low), high=looks.rows["high"].fillna(high))
    scale = alt.Scale(type="log" if looks.ratio else "linear", domain=[low, high], nice=False, clamp=True)
    axis = alt.Axis(tickCount=5, labelExpr="datum.value === 0 ? '0' : format(datum.value, '+~g')")
    if looks.ratio:
        axis = alt.Axis(values=factor_ticks(low, high, 5), labelExpr="format(datum.value, '.4~g') + '×'")
    x = alt.X("look:N", title=None, sort=None, axis=alt.Axis(labelAngle=0))
    x = x.scale(alt.Scale(domain=list(PLACES)))
    y = alt.Y("estimate:Q", title=None, scale=scale, axis=axis)
    tooltip = [alt.Tooltip(f"{name}:Q", title=name.capitalize(), format=".4~g") for name in ("estimate", "low", "high")]
    chart = alt.Chart(rows)
    nothing = 1.0 if looks.ratio else 0.0
    return alt.LayerChart(
        layer=[
            _rule(nothing, theme.SOLID),
            _rule(looks.margin, theme.THRESHOLD_DASH),
            chart.mark_rule(color=theme.ESTIMATE, strokeWidth=4, opacity=0.5, clip=True).encode(
                x=x, y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q")
            ),
            chart.mark_point(color=theme.ESTIMATE, filled=True, size=90, opacity=1, clip=True).encode(
                x=x, y=y, tooltip=[alt.Tooltip("look:N", title="Parts"), *tooltip]
            ),
        ],
        height=HEIGHT,
        title=alt.Title(looks.title[:1].upper() + looks.title[1:], anchor="start", fontSize=13),
    )


def _rule(value: float, dash: list[int]) -> alt.Chart:
    rule = alt.Chart(pd.DataFrame({"value": [value]}))
    return rule.mark_rule(color=theme.GREY, strokeDash=dash).encode(y=alt.Y("value:Q"))


def _domain(looks: LookIntervals) -> tuple[float, float]:
    """Return the ends of the axis: estimates, margin and no effect, and intervals up to twice the spread of these."""
    scaled, back = (np.log, np.exp) if looks.ratio else (np.asarray, np.asarray)
    nothing, least = float(scaled(1.0 if looks.ratio else 0.0)), LEAST[looks.ratio]
    marks = np.append(
        scaled(looks.rows["estimate"].to_numpy()), [scaled(looks.margin), nothing - least, nothing + least]
    )
    marks = marks[np.isfinite(marks)]
    spread = 2 * (marks.max() - marks.min())
    ends = scaled(looks.rows[["low", "high"]].to_numpy().ravel())
    ends = ends[np.isfinite(ends)].clip(marks.min() - spread, marks.max() + spread)
    every = np.concatenate([marks, ends])
    pad = 0.08 * (every.max() - every.min())
    return float(back(every.min() - pad)), float(back(every.max() + pad))
