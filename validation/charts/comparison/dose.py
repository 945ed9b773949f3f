"""The chart of a dose-response: each seed, the means over seeds with their intervals, and the mean slope."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.comparison.axes import COLOR, LABEL_GAP, axis_domain, ends, last_rows, value_axis, value_text
from validation.charts.ticks import spread_labels
from validation.verdict.dose_response import Dose


def dose_response(dose: Dose, each: pd.DataFrame, means: pd.DataFrame) -> alt.LayerChart:
    """Return effect over perturbation_scale: a line per seed, the mean with its interval, and the mean slope dashed."""
    values = np.concatenate([each["value"], means["low"].dropna(), means["high"].dropna()])
    low, high = axis_domain(values, each["value"].to_numpy(dtype=float))
    scale = alt.Scale(domain=[low, high], nice=False)
    fitted = means["mean"].mean() + dose.slope * (means["scale"] - means["scale"].mean())
    means = means.assign(color=theme.GROUPS[1], fitted=fitted)
    x = _dose_axis(means["scale"])
    seeds = _dose_seeds(dose, each, x, (low, high))
    over = alt.Chart(means).encode(x=x, color=COLOR)
    tooltip = [alt.Tooltip("scale:Q", title="Scale"), alt.Tooltip("seeds:Q", title="Seeds")]
    mean = [
        over.mark_line(strokeDash=theme.FIT_DASH, strokeWidth=2, clip=True).encode(y=alt.Y("fitted:Q", scale=scale)),
        over.mark_rule(strokeWidth=3, clip=True).encode(y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q")),
        over.mark_point(filled=True, shape="diamond", size=120, opacity=1).encode(
            y=alt.Y("mean:Q", scale=scale), tooltip=tooltip
        ),
    ]
    return alt.LayerChart(layer=[*seeds[:2], *mean, seeds[2]], height=theme.DOSE_HEIGHT)


def _dose_axis(scales: pd.Series) -> alt.X:
    first, last = ends(scales)
    ticks = sorted({round(float(scale), 3) for scale in scales})
    return alt.X(
        "scale:Q",
        title="perturbation_scale (share of |weight|)",
        scale=alt.Scale(domain=[first - 0.03 * (last - first), last + 0.24 * (last - first)], nice=False),
        axis=alt.Axis(values=ticks, format="~g", labelOverlap=True),
    )


def _dose_seeds(dose: Dose, each: pd.DataFrame, x: alt.X, domain: tuple[float, float]) -> list[alt.Chart]:
    """Return the lines, the points and the labels of the seeds."""
    scale, gap = alt.Scale(domain=list(domain), nice=False), LABEL_GAP * (domain[1] - domain[0])
    log = dose.unit == "log ratio"
    unit = "factor" if log else dose.unit
    each = each.assign(
        label=[f"seed {seed}" for seed in each["seed"]],
        color=theme.GROUPS[0],
        text=[value_text(value, log=log) for value in each["value"]],
    )
    ends = last_rows(each.rename(columns={"scale": "middle"}), ["seed"]).rename(columns={"middle": "scale"})
    ends["placed"] = spread_labels(ends["value"].to_numpy(dtype=float), gap)
    tooltip = [
        alt.Tooltip("label:N", title="Run"),
        alt.Tooltip("scale:Q", title="Scale"),
        alt.Tooltip("text:N", title=f"Effect ({unit})"),
    ]
    seeds = alt.Chart(each).encode(x=x, color=COLOR)
    titled = alt.Y("value:Q", scale=scale, title=unit, axis=value_axis(domain, log=log))
    labels = alt.Chart(ends).mark_text(align="left", dx=6, fontSize=11)
    return [
        seeds.mark_line(strokeWidth=1, opacity=0.6).encode(y=titled, detail=alt.Detail("seed:N")),
        seeds.mark_point(filled=True, size=35, opacity=0.8).encode(y=alt.Y("value:Q", scale=scale), tooltip=tooltip),
        labels.encode(x=x, y=alt.Y("placed:Q", scale=scale), text=alt.Text("label:N"), color=COLOR),
    ]
