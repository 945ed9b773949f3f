"""The evidence of a claim as a chart: its series, batch means, confidence interval as a band, and threshold dashed."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.ticks import factor_ticks, spread_labels
from validation.frames.claim_evidence import ClaimEvidence

MIN_FACTOR, MIN_DIFFERENCE = 1.02, 0.01  # that the axis covers on either side of no difference
LABEL_GAP = 0.1  # least distance of two labels, as a share of the height
FAINT = 0.35


def evidence_chart(evidence: ClaimEvidence) -> alt.LayerChart:
    """Return the series (faint), unused rows (dots), batch means, the interval as a band and the margins dashed."""
    rows = pd.DataFrame({"step": evidence.steps, "value": evidence.values, "used": evidence.used})
    rows = rows[np.isfinite(rows["value"]) & ((rows["value"] > 0) if evidence.ratio else True)]
    domain = _domain(evidence, rows)
    y = _value_axis(evidence, domain)
    x = alt.X("step:Q", title="Training step", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=8))
    layers: list[alt.Chart] = [
        alt.Chart(rows[rows["used"]])
        .mark_line(color=theme.GREY, opacity=FAINT, strokeWidth=1, clip=True, tooltip=None)
        .encode(x=x, y=y),
        alt.Chart(rows[~rows["used"]])
        .mark_point(color=theme.GREY, opacity=FAINT, size=8, clip=True, tooltip=None)
        .encode(x=x, y=y),
    ]
    layers += _rules(evidence, domain) + _interval(evidence) + _thirds(evidence)
    batches = pd.DataFrame({"step": evidence.batch_steps_B, "value": evidence.batch_means_B})
    layers.append(
        alt.Chart(batches)
        .mark_point(filled=True, color=theme.ESTIMATE, size=38, opacity=1, clip=True)
        .encode(
            x=x,
            y=y,
            tooltip=[
                alt.Tooltip("step:Q", title="Step", format=".0f"),
                alt.Tooltip("value:Q", title="Batch mean", format=".4g"),
            ],
        )
    )
    return alt.LayerChart(
        layer=layers, height=theme.EVIDENCE_HEIGHT, title=alt.Title(evidence.title, anchor="start", fontSize=13)
    )


def _domain(evidence: ClaimEvidence, rows: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of the axis. Used rows fill it, unused ones may lie beyond it, rounding errors do not fill it."""
    nothing, least = (1.0, MIN_FACTOR) if evidence.ratio else (0.0, MIN_DIFFERENCE)
    used = rows.loc[rows["used"], "value"].to_numpy(dtype=float)
    shown = used if len(used) else rows["value"].to_numpy(dtype=float)
    marks = [nothing, *evidence.margins, *evidence.batch_means_B]
    marks = [*marks, *(np.quantile(shown, [0.005, 0.995]) if len(shown) else ())]
    marks = [mark for mark in marks if np.isfinite(mark) and (mark > 0 or not evidence.ratio)]
    if evidence.ratio:
        low, high = min(*marks, nothing / least), max(*marks, nothing * least)
        pad = (high / low) ** 0.06
        return low / pad, high * pad
    low, high = min(*marks, nothing - least), max(*marks, nothing + least)
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def _value_axis(evidence: ClaimEvidence, domain: tuple[float, float]) -> alt.Y:
    """Return a logarithmic axis for factors, a linear one for differences."""
    scale = alt.Scale(type="log" if evidence.ratio else "linear", domain=list(domain), nice=False, clamp=True)
    if not evidence.ratio:
        return alt.Y("value:Q", title="Difference", scale=scale, axis=alt.Axis(tickCount=6, format="~g"))
    axis = alt.Axis(values=factor_ticks(*domain), labelExpr="format(datum.value, '.4~g') + '×'")
    return alt.Y("value:Q", title="Factor", scale=scale, axis=axis)


def _rules(evidence: ClaimEvidence, domain: tuple[float, float]) -> list[alt.Chart]:
    """Return a line at no difference and at each margin, with its label to the right of the plot."""
    margin = "half of first third" if evidence.thirds else "threshold"
    values = [1.0 if evidence.ratio else 0.0, *evidence.margins]
    data = pd.DataFrame({"value": values, "label": ["no difference", *(margin for _ in evidence.margins)]})
    data = data[data["value"].between(*domain)].assign(color="control bottom")
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


def _interval(evidence: ClaimEvidence) -> list[alt.Chart]:
    """Return the interval of the mean, from the first to the last batch."""
    if evidence.interval is None or not len(evidence.batch_steps_B) or not np.isfinite(evidence.interval).all():
        return []
    low, mid, high = evidence.interval
    first, last = float(evidence.batch_steps_B[0]), float(evidence.batch_steps_B[-1])
    band = pd.DataFrame({"from": [first], "to": [last], "low": [low], "mid": [mid], "high": [high]})
    chart = alt.Chart(band).encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"))
    return [
        chart.mark_rect(color=theme.ESTIMATE, opacity=0.18, clip=True).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        chart.mark_rule(color=theme.ESTIMATE, strokeWidth=2, clip=True).encode(y=alt.Y("mid:Q")),
    ]


def _thirds(evidence: ClaimEvidence) -> list[alt.Chart]:
    if not evidence.thirds:
        return []
    data = pd.DataFrame(evidence.thirds, columns=["from", "to", "value"])
    rule = alt.Chart(data).mark_rule(color=theme.ESTIMATE, strokeWidth=4, clip=True)
    return [rule.encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"), y=alt.Y("value:Q"))]
