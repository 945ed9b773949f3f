"""The evidence of a claim as a chart: an effect by bin in each seed or expert, their mean, interval and margins."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.ticks import factor_ticks, spread_labels
from validation.frames.claim_evidence import EffectEvidence

MIN_FACTOR, MIN_DIFFERENCE = 1.02, 0.01  # that the axis covers on either side of no difference
LABEL_GAP = 0.1  # least distance of two labels, as a share of the height


def evidence_chart(evidence: EffectEvidence) -> alt.LayerChart:
    """Return a thin line for each seed or expert, their mean, the interval as a band and the margins dashed."""
    domain = _domain(evidence)
    ends = alt.Scale(domain=[float(evidence.edges[0]), float(evidence.edges[-1])], nice=False)
    x = alt.X("step:Q", title="Training step", scale=ends, axis=alt.Axis(tickCount=6, format=",.0f"))
    y = _value_axis(evidence, domain)
    each = _rows(evidence, evidence.values_UK, evidence.units)
    mean = _rows(evidence, evidence.mean_K[None], ("mean",))
    thin, thick = alt.Chart(each), alt.Chart(mean)
    layers: list[alt.Chart] = [
        thin.mark_line(color=theme.GREY, opacity=0.7, strokeWidth=1, clip=True, tooltip=None).encode(
            x=x, y=y, detail=alt.Detail("unit:N")
        ),
        thin.mark_point(color=theme.GREY, filled=True, size=22, opacity=0.9, clip=True).encode(
            x=x, y=y, tooltip=_tooltip()
        ),
        *_rules(evidence, domain),
        *_interval(evidence),
        *_ends(evidence),
        thick.mark_line(color=theme.ESTIMATE, strokeWidth=2.4, clip=True, tooltip=None).encode(x=x, y=y),
        thick.mark_point(color=theme.ESTIMATE, filled=True, size=50, opacity=1, clip=True).encode(
            x=x, y=y, tooltip=_tooltip()
        ),
    ]
    title = alt.Title(
        evidence.title[:1].upper() + evidence.title[1:],
        subtitle=evidence.compared[:1].upper() + evidence.compared[1:],
        anchor="start",
        fontSize=13,
        subtitleColor=theme.GREY,
    )
    return alt.LayerChart(layer=layers, height=theme.EVIDENCE_HEIGHT, title=title)


def _rows(evidence: EffectEvidence, values_UK: np.ndarray, units: tuple[str, ...]) -> pd.DataFrame:
    """Return a row for each unit and bin, at the middle of the bin; NaN for a missing bin breaks the line."""
    first, last = evidence.edges[:-1], evidence.edges[1:]
    parts = [
        pd.DataFrame({"unit": unit, "step": (first + last) / 2, "first": first, "last": last, "value": values_K})
        for unit, values_K in zip(units, values_UK, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("unit:N", title="Unit"),
        alt.Tooltip("value:Q", title="Value", format=".4~g"),
        alt.Tooltip("first:Q", title="From step", format=",.0f"),
        alt.Tooltip("last:Q", title="To step", format=",.0f"),
    ]


def _domain(evidence: EffectEvidence) -> tuple[float, float]:
    """Return the ends of the axis: all values, margins and no difference; rounding errors alone do not fill it.

    A wide interval counts up to the spread of these, so that it does not flatten everything else.
    """
    scaled, back = (np.log, np.exp) if evidence.ratio else (np.asarray, np.asarray)
    nothing, least = (1.0, np.log(MIN_FACTOR)) if evidence.ratio else (0.0, MIN_DIFFERENCE)
    marks = scaled(np.array([nothing, *evidence.margins, *evidence.values_UK.ravel(), *evidence.mean_K]))
    marks = marks[np.isfinite(marks)]
    low, high = min(marks.min(), scaled(nothing) - least), max(marks.max(), scaled(nothing) + least)
    spread = high - low
    if evidence.interval is not None:
        ends = scaled(np.array(evidence.interval))
        low, high = min(low, max(ends[0], low - spread)), max(high, min(ends[2], high + spread))
    pad = 0.06 * (high - low)
    return float(back(low - pad)), float(back(high + pad))


def _value_axis(evidence: EffectEvidence, domain: tuple[float, float]) -> alt.Y:
    """Return a logarithmic axis for factors, a linear one for differences."""
    scale = alt.Scale(type="log" if evidence.ratio else "linear", domain=list(domain), nice=False, clamp=True)
    if not evidence.ratio:
        return alt.Y("value:Q", title="1 - cosine", scale=scale, axis=alt.Axis(tickCount=6, format="~g"))
    axis = alt.Axis(values=factor_ticks(*domain), labelExpr="format(datum.value, '.4~g') + '×'")
    return alt.Y("value:Q", title="Factor", scale=scale, axis=axis)


def _rules(evidence: EffectEvidence, domain: tuple[float, float]) -> list[alt.Chart]:
    """Return a line at no difference and at each margin, with its label to the right of the plot."""
    margin = "needed at the end" if evidence.ends else "threshold"
    values = [1.0 if evidence.ratio else 0.0, *evidence.margins]
    data = pd.DataFrame({"value": values, "label": ["no difference", *(margin for _ in evidence.margins)]})
    data = data.assign(color="control bottom")
    scaled = np.log if evidence.ratio else np.asarray
    gap = LABEL_GAP * float(scaled(domain[1]) - scaled(domain[0]))
    placed = spread_labels(scaled(data["value"].to_numpy(dtype=float)), gap)
    data["placed"] = np.exp(placed) if evidence.ratio else placed
    solid = {"test": "datum.label == 'no difference'", "value": theme.SOLID}
    dash = alt.StrokeDashValue(theme.THRESHOLD_DASH, condition=solid)
    text = alt.Chart(data).mark_text(align="left", baseline="middle", dx=6)
    color = alt.Color("color:N", scale=alt.Scale(domain=theme.SERIES), legend=None)  # more contrast than GREY has
    return [
        alt.Chart(data).mark_rule(color=theme.GREY).encode(y=alt.Y("value:Q"), strokeDash=dash),
        text.encode(x=alt.XValue("width"), y=alt.Y("placed:Q"), text=alt.Text("label:N"), color=color),
    ]


def _interval(evidence: EffectEvidence) -> list[alt.Chart]:
    """Return the interval, over the bins that are judged."""
    if evidence.interval is None:
        return []
    low, mid, high = evidence.interval
    judged = int(np.flatnonzero(np.isfinite(evidence.mean_K)).max()) + 1
    begin = 0 if evidence.over is None else max(0, judged - evidence.over)
    first, last = float(evidence.edges[begin]), float(evidence.edges[judged])
    band = pd.DataFrame({"from": [first], "to": [last], "low": [low], "mid": [mid], "high": [high]})
    chart = alt.Chart(band).encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"))
    return [
        chart.mark_rect(color=theme.ESTIMATE, opacity=0.25, clip=True).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        chart.mark_rule(color=theme.ESTIMATE, strokeWidth=1, clip=True).encode(y=alt.Y("mid:Q")),
    ]


def _ends(evidence: EffectEvidence) -> list[alt.Chart]:
    """Return the means of the first and the last two bins."""
    if not evidence.ends:
        return []
    data = pd.DataFrame(evidence.ends, columns=["from", "to", "value"])
    rule = alt.Chart(data).mark_rule(color=theme.ESTIMATE, strokeWidth=5, opacity=0.5, clip=True)
    return [rule.encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"), y=alt.Y("value:Q"))]
