"""The chart of what a claim was decided from: a `Behind` in, an Altair chart out."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.ticks import apart, factors
from validation.frames.claim_evidence import Behind

LEAST_FACTOR, LEAST_DIFFERENCE = 1.02, 0.01  # to either side, that the height shows
LABEL_GAP = 0.1  # of the height: two labels closer than this cannot be read
FAINT = 0.35


def evidence(behind: Behind) -> alt.LayerChart:
    """Series (faint), rows that do not count (dots), batch means, the interval as a band, the margin dashed."""
    rows = pd.DataFrame({"step": behind.steps, "value": behind.values, "counted": behind.counted})
    rows = rows[np.isfinite(rows["value"]) & ((rows["value"] > 0) if behind.ratio else True)]
    domain = _domain(behind, rows)
    y = _value_axis(behind, domain)
    x = alt.X("step:Q", title="Training step", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=8))
    layers: list[alt.Chart] = [
        alt.Chart(rows[rows["counted"]])
        .mark_line(color=theme.GREY, opacity=FAINT, strokeWidth=1, clip=True, tooltip=None)
        .encode(x=x, y=y),
        alt.Chart(rows[~rows["counted"]])
        .mark_point(color=theme.GREY, opacity=FAINT, size=8, clip=True, tooltip=None)
        .encode(x=x, y=y),
    ]
    layers += _rules(behind, domain) + _interval(behind) + _thirds(behind)
    batches = pd.DataFrame({"step": behind.batch_steps_B, "value": behind.batch_means_B})
    layers.append(
        alt.Chart(batches)
        .mark_point(filled=True, color=theme.ESTIMATE, size=38, opacity=1, clip=True)
        .encode(
            x=x,
            y=y,
            tooltip=[alt.Tooltip("step:Q", format=".0f"), alt.Tooltip("value:Q", title="batch mean", format=".4g")],
        )
    )
    return alt.LayerChart(
        layer=layers, height=theme.EVIDENCE_HEIGHT, title=alt.Title(behind.title, anchor="start", fontSize=13)
    )


def _domain(behind: Behind, rows: pd.DataFrame) -> tuple[float, float]:
    """What counts fills the height; early rows may run out of it. Rounding errors alone do not fill it."""
    nothing, least = (1.0, LEAST_FACTOR) if behind.ratio else (0.0, LEAST_DIFFERENCE)
    counted = rows.loc[rows["counted"], "value"].to_numpy(dtype=float)
    shown = counted if len(counted) else rows["value"].to_numpy(dtype=float)
    marks = [nothing, *behind.margins, *behind.batch_means_B]
    marks = [*marks, *(np.quantile(shown, [0.005, 0.995]) if len(shown) else ())]
    marks = [mark for mark in marks if np.isfinite(mark) and (mark > 0 or not behind.ratio)]
    if behind.ratio:
        low, high = min(*marks, nothing / least), max(*marks, nothing * least)
        pad = (high / low) ** 0.06
        return low / pad, high * pad
    low, high = min(*marks, nothing - least), max(*marks, nothing + least)
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def _value_axis(behind: Behind, domain: tuple[float, float]) -> alt.Y:
    """Factors on a logarithmic axis, differences on an even one."""
    scale = alt.Scale(type="log" if behind.ratio else "linear", domain=list(domain), nice=False, clamp=True)
    if not behind.ratio:
        return alt.Y("value:Q", title="Difference", scale=scale, axis=alt.Axis(tickCount=6, format="~g"))
    axis = alt.Axis(values=factors(*domain), labelExpr="format(datum.value, '.4~g') + '×'")
    return alt.Y("value:Q", title="Factor", scale=scale, axis=axis)


def _rules(behind: Behind, domain: tuple[float, float]) -> list[alt.Chart]:
    """A line across for no difference and for each margin, named to the right of the plot, where no series is."""
    margin = "half of first third" if behind.thirds else "threshold"
    values = [1.0 if behind.ratio else 0.0, *behind.margins]
    data = pd.DataFrame({"value": values, "label": ["no difference", *(margin for _ in behind.margins)]})
    data = data[data["value"].between(*domain)].assign(ink="control bottom")
    scaled = np.log if behind.ratio else np.asarray
    gap = LABEL_GAP * float(scaled(domain[1]) - scaled(domain[0]))
    placed = apart(scaled(data["value"].to_numpy(dtype=float)), gap)
    data["placed"] = np.exp(placed) if behind.ratio else placed
    solid = {"test": "datum.label == 'no difference'", "value": theme.SOLID}
    dash = alt.StrokeDashValue(theme.THRESHOLD_DASH, condition=solid)
    text = alt.Chart(data).mark_text(align="left", baseline="middle", dx=6)
    color = alt.Color(
        "ink:N", scale=alt.Scale(domain=theme.SERIES), legend=None
    )  # of the theme: text needs more contrast
    return [
        alt.Chart(data).mark_rule(color=theme.GREY).encode(y=alt.Y("value:Q"), strokeDash=dash),
        text.encode(x=alt.XValue("width"), y=alt.Y("placed:Q"), text=alt.Text("label:N"), color=color),
    ]


def _interval(behind: Behind) -> list[alt.Chart]:
    """The interval of the mean over the batches that it is made of."""
    if behind.level is None or not len(behind.batch_steps_B) or not np.isfinite(behind.level).all():
        return []
    low, mid, high = behind.level
    first, last = float(behind.batch_steps_B[0]), float(behind.batch_steps_B[-1])
    band = pd.DataFrame({"from": [first], "to": [last], "low": [low], "mid": [mid], "high": [high]})
    chart = alt.Chart(band).encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"))
    return [
        chart.mark_rect(color=theme.ESTIMATE, opacity=0.18, clip=True).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        chart.mark_rule(color=theme.ESTIMATE, strokeWidth=2, clip=True).encode(y=alt.Y("mid:Q")),
    ]


def _thirds(behind: Behind) -> list[alt.Chart]:
    if not behind.thirds:
        return []
    data = pd.DataFrame(behind.thirds, columns=["from", "to", "value"])
    rule = alt.Chart(data).mark_rule(color=theme.ESTIMATE, strokeWidth=4, clip=True)
    return [rule.encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"), y=alt.Y("value:Q"))]
