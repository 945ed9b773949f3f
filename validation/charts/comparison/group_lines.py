"""Charts of one metric over the steps: the mean of each group with its interval, and the runs of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from validation.analysis.statistics import Array
from validation.charts import theme
from validation.charts.comparison.axes import (
    COLOR,
    LABEL_GAP,
    axis_domain,
    ends,
    last_rows,
    value_axis,
    value_text,
    with_color,
)
from validation.charts.ticks import spread_labels
from validation.frames.comparison.metrics import COMPARED_METRICS


def group_bands(means: pd.DataFrame, shown: Sequence[str], metric: str) -> alt.LayerChart:
    """Return the mean of each group over its runs with its interval, in one panel. means: from group_means."""
    means = with_color(means, shown)
    axes = _shared_axes(means, means["mean"].to_numpy(dtype=float), metric)
    ends = last_rows(means.rename(columns={"mean": "value"}).assign(label=means["group"]), ["group"])
    layers = [*_mean(means, shown, metric, axes), _labels(ends, axes, size=15)]
    return alt.LayerChart(layer=layers, height=theme.LINES_HEIGHT)


def group_panels(means: pd.DataFrame, seeds: pd.DataFrame, shown: Sequence[str], metric: str) -> list[alt.LayerChart]:
    """Return a panel for each group, all on the same axes: its mean with the interval, and its runs with labels.

    seeds: rows of run, label, group, middle (step) and value.
    """
    means, seeds = with_color(means, shown), with_color(seeds, shown)
    axes = _shared_axes(means, np.concatenate([means["mean"], seeds["value"]]), metric)
    about, charts = COMPARED_METRICS[metric], []
    tooltip = [
        alt.Tooltip("run:N", title="Run"),
        alt.Tooltip("label:N", title="Seed"),
        alt.Tooltip("text:N", title=f"{about.title} ({about.unit})"),
    ]
    for group in shown:
        own, runs = means[means["group"] == group], seeds[seeds["group"] == group]
        rows = alt.Chart(runs.assign(text=[value_text(value, log=about.log) for value in runs["value"]]))
        line = rows.mark_line(strokeWidth=1, opacity=0.7, clip=True)
        lines = line.encode(x=axes.x, y=axes.y("value"), color=COLOR, detail=alt.Detail("run:N"), tooltip=tooltip)
        labels = _labels(last_rows(runs, ["run"]), axes, size=11)
        layers = [*_mean(own, shown, metric, axes), lines, labels]
        charts.append(alt.LayerChart(layer=layers, height=theme.GROUP_HEIGHT))
    return charts


@dataclass(frozen=True)
class _Axes:
    """The axes that panels share."""

    x: alt.X
    span: tuple[float, float]
    """First and last step."""
    domain: tuple[float, float]
    title: str
    log: bool

    def y(self, field: str) -> alt.Y:
        """Return the vertical axis for one field."""
        axis = value_axis(self.domain, log=self.log)
        return alt.Y(f"{field}:Q", title=self.title, scale=alt.Scale(domain=list(self.domain), nice=False), axis=axis)


def _shared_axes(means: pd.DataFrame, centres: Array, metric: str) -> _Axes:
    values = np.concatenate([centres, means["low"].dropna(), means["high"].dropna()])
    first, last = ends(means["middle"])
    x = alt.X(
        "middle:Q",
        title="Training step",
        scale=alt.Scale(domain=[first, last + 0.14 * (last - first)], nice=False),  # room for the labels of the lines
        axis=alt.Axis(tickCount=6, format=",.0f"),
    )
    about = COMPARED_METRICS[metric]
    return _Axes(x, (first, last), axis_domain(values, centres), about.unit, about.log)


def _mean(means: pd.DataFrame, shown: Sequence[str], metric: str, axes: _Axes) -> list[alt.Chart]:
    """Return mean, interval, and the line at no difference."""
    about = COMPARED_METRICS[metric]
    texts = {
        f"{name}_text": [value_text(value, log=about.log) for value in means[name]] for name in ("mean", "low", "high")
    }
    base = alt.Chart(means.assign(**texts))
    tooltip = [
        alt.Tooltip("group:N", title="Group"),
        alt.Tooltip("middle:Q", title="Step", format=",.0f"),
        *(
            alt.Tooltip(f"{name}_text:N", title=f"{name.capitalize()} ({about.unit})")
            for name in ("mean", "low", "high")
        ),
        alt.Tooltip("runs:Q", title="Runs"),
    ]
    dashes = [list(theme.GROUP_DASHES[place % theme.MAX_GROUPS]) for place in range(len(shown))]
    line = base.mark_line(strokeWidth=2.8, clip=True, point=means["place"].nunique() == 1)
    layers = [
        base.mark_area(opacity=0.18, clip=True).encode(x=axes.x, y=axes.y("low"), y2=alt.Y2("high:Q"), color=COLOR),
        line.encode(
            x=axes.x,
            y=axes.y("mean"),
            color=COLOR,
            strokeDash=alt.StrokeDash("group:N", scale=alt.Scale(domain=list(shown), range=dashes), legend=None),
            tooltip=tooltip,
        ),
    ]
    if about.log:
        first, last = axes.span  # the room of the labels stays free
        zero = alt.Chart(pd.DataFrame({"mean": [0.0], "middle": [first], "until": [last]}))
        rule = zero.mark_rule(color=theme.GREY, strokeDash=theme.ZERO_DASH, clip=True)
        layers.insert(0, rule.encode(x=axes.x, x2=alt.X2("until:Q"), y=axes.y("mean")))
    return layers


def _labels(ends: pd.DataFrame, axes: _Axes, *, size: int) -> alt.Chart:
    """Return labels beside the ends of lines, moved apart so that they do not overlap."""
    low, high = axes.domain
    placed = spread_labels(ends["value"].to_numpy(dtype=float), LABEL_GAP * (high - low))
    text = alt.Chart(ends.assign(placed=placed)).mark_text(align="left", dx=5, fontSize=size)
    return text.encode(x=axes.x, y=axes.y("placed"), text=alt.Text("label:N"), color=COLOR)
