"""The chart of what a claim was decided from: a `Behind` in, an Altair chart out."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from validation.behind import Behind
from validation.charts import GREY

HEIGHT = 240
INK = "#3266c2"  # 4.5:1 against both backgrounds
FAINT = 0.35


def evidence(behind: Behind) -> alt.LayerChart:
    """Series (faint), rows that do not count (dots), batch means, the interval as a band, the margin dashed."""
    rows = pd.DataFrame({"step": behind.steps, "value": behind.values, "counted": behind.counted})
    rows = rows[np.isfinite(rows["value"]) & ((rows["value"] > 0) if behind.ratio else True)]
    y = alt.Y("value:Q", title="Factor" if behind.ratio else "Difference", scale=_scale(behind, rows))
    x = alt.X("step:Q", title="Training step", scale=alt.Scale(nice=False))
    tooltip = [alt.Tooltip("step:Q", title="step"), alt.Tooltip("value:Q", title=behind.title, format=".4g")]
    layers: list[alt.Chart] = [
        alt.Chart(rows[rows["counted"]])
        .mark_line(color=GREY, opacity=FAINT, strokeWidth=1, clip=True)
        .encode(x=x, y=y),
        alt.Chart(rows[~rows["counted"]])
        .mark_point(color=GREY, opacity=FAINT, size=8, clip=True)
        .encode(x=x, y=y, tooltip=tooltip),
    ]
    layers += _rule(1.0 if behind.ratio else 0.0, "no difference", [1, 0], left=True)
    for margin in behind.margins:
        layers += _rule(margin, "half of the first third" if behind.thirds else "threshold", [5, 4])
    layers += _interval(behind) + _thirds(behind)
    batches = pd.DataFrame({"step": behind.batch_steps_B, "value": behind.batch_means_B})
    layers.append(
        alt.Chart(batches)
        .mark_point(filled=True, color=INK, size=38, opacity=1, clip=True)
        .encode(
            x=x,
            y=y,
            tooltip=[alt.Tooltip("step:Q", format=".0f"), alt.Tooltip("value:Q", title="batch mean", format=".4g")],
        )
    )
    return alt.LayerChart(layer=layers, height=HEIGHT, title=alt.Title(behind.title, anchor="start", fontSize=13))


def _scale(behind: Behind, rows: pd.DataFrame) -> alt.Scale:
    """What counts fills the height; early rows may run out of it."""
    nothing = 1.0 if behind.ratio else 0.0
    counted = rows.loc[rows["counted"], "value"].to_numpy(dtype=float)
    shown = counted if len(counted) else rows["value"].to_numpy(dtype=float)
    marks = [nothing, *behind.margins, *behind.batch_means_B]
    marks = [*marks, *(np.quantile(shown, [0.005, 0.995]) if len(shown) else ())]
    marks = [mark for mark in marks if np.isfinite(mark) and (mark > 0 or not behind.ratio)]
    low, high = min(marks), max(marks)
    if behind.ratio:
        pad = max(high / low, 1.02) ** 0.06
        return alt.Scale(type="log", domain=[low / pad, high * pad], nice=False, clamp=True)
    pad = 0.06 * max(high - low, 1e-9)
    return alt.Scale(domain=[low - pad, high + pad], nice=False, clamp=True)


def _rule(value: float, label: str, dash: list[int], *, left: bool = False) -> list[alt.Chart]:
    """A line across, named at one end: at the other than a line that may be near."""
    data = pd.DataFrame({"value": [value], "label": [label]})
    rule = alt.Chart(data).mark_rule(color=GREY, strokeDash=dash).encode(y=alt.Y("value:Q"))
    words = alt.Chart(data)
    text = (
        words.mark_text(align="left", baseline="bottom", dx=4, dy=-2, color=GREY)
        if left
        else words.mark_text(align="right", baseline="bottom", dx=-4, dy=-2, color=GREY)
    )
    edge = alt.XValue(0 if left else "width")
    return [rule, text.encode(y=alt.Y("value:Q"), x=edge, text=alt.Text("label:N"))]


def _interval(behind: Behind) -> list[alt.Chart]:
    """The interval of the mean over the batches that it is made of."""
    if behind.level is None or not len(behind.batch_steps_B) or not np.isfinite(behind.level).all():
        return []
    low, mid, high = behind.level
    first, last = float(behind.batch_steps_B[0]), float(behind.batch_steps_B[-1])
    band = pd.DataFrame({"from": [first], "to": [last], "low": [low], "mid": [mid], "high": [high]})
    chart = alt.Chart(band).encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"))
    return [
        chart.mark_rect(color=INK, opacity=0.18, clip=True).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        chart.mark_rule(color=INK, strokeWidth=2, clip=True).encode(y=alt.Y("mid:Q")),
    ]


def _thirds(behind: Behind) -> list[alt.Chart]:
    if not behind.thirds:
        return []
    data = pd.DataFrame(behind.thirds, columns=["from", "to", "value"])
    rule = alt.Chart(data).mark_rule(color=INK, strokeWidth=4, clip=True)
    return [rule.encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"), y=alt.Y("value:Q"))]
