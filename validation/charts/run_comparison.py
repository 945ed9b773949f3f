"""Charts of the Compare page: group means and runs over the steps, dose-response, and treated beside sham runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from validation.analysis.statistics import Array
from validation.charts import theme
from validation.charts.ticks import factor_ticks, spread_labels
from validation.frames.run_comparison import COMPARED_METRICS
from validation.verdict.dose_response import Dose

FACTOR = "format(exp(datum.value), '.4~g') + '×'"
NUMBER = "format(datum.value, '.3~g')"
LABEL_GAP = 0.06  # least distance of two labels, as a share of the height


def group_bands(means: pd.DataFrame, shown: Sequence[str], metric: str) -> alt.LayerChart:
    """Return the mean of each group over its runs with its interval, in one panel. means: from group_means."""
    means = _with_color(means, shown)
    axes = _shared_axes(means, means["mean"].to_numpy(dtype=float), metric)
    ends = _last_rows(means.rename(columns={"mean": "value"}).assign(label=means["group"]), ["group"])
    layers = [*_mean(means, shown, metric, axes), _labels(ends, axes, size=15)]
    return alt.LayerChart(layer=layers, height=theme.LINES_HEIGHT)


def group_panels(means: pd.DataFrame, seeds: pd.DataFrame, shown: Sequence[str], metric: str) -> list[alt.LayerChart]:
    """Return a panel for each group, all on the same axes: its mean with the interval, and its runs with labels.

    seeds: rows of run, label, group, middle (step) and value.
    """
    means, seeds = _with_color(means, shown), _with_color(seeds, shown)
    axes = _shared_axes(means, np.concatenate([means["mean"], seeds["value"]]), metric)
    about, charts = COMPARED_METRICS[metric], []
    tooltip = [
        alt.Tooltip("run:N", title="Run"),
        alt.Tooltip("label:N", title="Seed"),
        alt.Tooltip("text:N", title=f"{about.title} ({about.unit})"),
    ]
    for group in shown:
        own, runs = means[means["group"] == group], seeds[seeds["group"] == group]
        rows = alt.Chart(runs.assign(text=[_value_text(value, log=about.log) for value in runs["value"]]))
        line = rows.mark_line(strokeWidth=1, opacity=0.7, clip=True)
        lines = line.encode(x=axes.x, y=axes.y("value"), color=_COLOR, detail=alt.Detail("run:N"), tooltip=tooltip)
        labels = _labels(_last_rows(runs, ["run"]), axes, size=11)
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
        axis = _value_axis(self.domain, log=self.log)
        return alt.Y(f"{field}:Q", title=self.title, scale=alt.Scale(domain=list(self.domain), nice=False), axis=axis)


_COLOR = alt.Color("color:N", scale=alt.Scale(domain=theme.COLORS), legend=None)


def _shared_axes(means: pd.DataFrame, centres: Array, metric: str) -> _Axes:
    values = np.concatenate([centres, means["low"].dropna(), means["high"].dropna()])
    first, last = _span(means["middle"])
    x = alt.X(
        "middle:Q",
        title="Training step",
        scale=alt.Scale(domain=[first, last + 0.14 * (last - first)], nice=False),  # room for the labels of the lines
        axis=alt.Axis(tickCount=6, format=",.0f"),
    )
    about = COMPARED_METRICS[metric]
    return _Axes(x, (first, last), _domain(values, centres), about.unit, about.log)


def _value_axis(domain: tuple[float, float], *, log: bool) -> alt.Axis:
    """Return the vertical axis; logarithms are labelled with their factors."""
    if not log:
        return alt.Axis(labelExpr=NUMBER, tickCount=6)
    ticks = factor_ticks(math.exp(domain[0]), math.exp(domain[1]))
    return alt.Axis(labelExpr=FACTOR, values=[math.log(tick) for tick in ticks])


def _mean(means: pd.DataFrame, shown: Sequence[str], metric: str, axes: _Axes) -> list[alt.Chart]:
    """Return mean, interval, and the line at no difference."""
    about = COMPARED_METRICS[metric]
    texts = {
        f"{name}_text": [_value_text(value, log=about.log) for value in means[name]] for name in ("mean", "low", "high")
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
        base.mark_area(opacity=0.18, clip=True).encode(x=axes.x, y=axes.y("low"), y2=alt.Y2("high:Q"), color=_COLOR),
        line.encode(
            x=axes.x,
            y=axes.y("mean"),
            color=_COLOR,
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
    return text.encode(x=axes.x, y=axes.y("placed"), text=alt.Text("label:N"), color=_COLOR)


def dose_response(dose: Dose, each: pd.DataFrame, means: pd.DataFrame) -> alt.LayerChart:
    """Return effect over perturbation_scale: a line per seed, the mean with its interval, and the mean slope dashed."""
    values = np.concatenate([each["value"], means["low"].dropna(), means["high"].dropna()])
    low, high = _domain(values, each["value"].to_numpy(dtype=float))
    scale = alt.Scale(domain=[low, high], nice=False)
    fitted = means["mean"].mean() + dose.slope * (means["scale"] - means["scale"].mean())
    means = means.assign(color=theme.GROUPS[1], fitted=fitted)
    x = _dose_axis(means["scale"])
    seeds = _dose_seeds(dose, each, x, (low, high))
    over = alt.Chart(means).encode(x=x, color=_COLOR)
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
    first, last = _span(scales)
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
        text=[_value_text(value, log=log) for value in each["value"]],
    )
    ends = _last_rows(each.rename(columns={"scale": "middle"}), ["seed"]).rename(columns={"middle": "scale"})
    ends["placed"] = spread_labels(ends["value"].to_numpy(dtype=float), gap)
    tooltip = [
        alt.Tooltip("label:N", title="Run"),
        alt.Tooltip("scale:Q", title="Scale"),
        alt.Tooltip("text:N", title=f"Effect ({unit})"),
    ]
    seeds = alt.Chart(each).encode(x=x, color=_COLOR)
    titled = alt.Y("value:Q", scale=scale, title=unit, axis=_value_axis(domain, log=log))
    labels = alt.Chart(ends).mark_text(align="left", dx=6, fontSize=11)
    return [
        seeds.mark_line(strokeWidth=1, opacity=0.6).encode(y=titled, detail=alt.Detail("seed:N")),
        seeds.mark_point(filled=True, size=35, opacity=0.8).encode(y=alt.Y("value:Q", scale=scale), tooltip=tooltip),
        labels.encode(x=x, y=alt.Y("placed:Q", scale=scale), text=alt.Text("label:N"), color=_COLOR),
    ]


def sham_dumbbells(pairs: pd.DataFrame, title: str) -> alt.LayerChart:
    """Return a row per treated run (filled) and its sham run (hollow), joined by a line. title: effect and unit."""
    named = zip(pairs["scale"].fillna(np.nan), pairs["seed"], pairs["run"], strict=True)
    rows = [f"scale {scale:g}, seed {seed} ({run})" for scale, seed, run in named]
    data = pairs.assign(row=rows, untreated=pairs["of the sham"])
    axis = alt.Axis(labelLimit=220, ticks=False, domain=False)
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
        treated.mark_rule(strokeWidth=2, opacity=0.6).encode(x=x, x2=alt.X2("untreated:Q"), y=y, color=_COLOR),
        sham.mark_point(filled=False, size=70, strokeWidth=2).encode(
            x=alt.X("untreated:Q", scale=scale), y=y, color=_COLOR, tooltip=tooltip
        ),
        treated.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=_COLOR, tooltip=tooltip),
    ]
    return alt.LayerChart(layer=layers, height=70 + 26 * len(data))


def _with_color(data: pd.DataFrame, shown: Sequence[str]) -> pd.DataFrame:
    colors = {group: theme.GROUPS[place % theme.MAX_GROUPS] for place, group in enumerate(shown)}
    return data.assign(color=data["group"].map(colors))


def _last_rows(data: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the last row of each line that has a value."""
    known = data[data["value"].notna()].sort_values("middle")
    return known.groupby(by, sort=False).tail(1).copy()


def _domain(values: Array, centres: Array) -> tuple[float, float]:
    """Return the ends of an axis with all centres; intervals count up to the spread of the centres on either side.

    The intervals of two seeds are so wide that they would flatten everything else.
    """
    centres, values = centres[np.isfinite(centres)], values[np.isfinite(values)]
    if not len(centres):
        return 0.0, 1.0
    low, high = float(centres.min()), float(centres.max())
    spread = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-9)
    low, high = max(float(values.min()), low - spread), min(float(values.max()), high + spread)
    return low - 0.04 * spread, high + 0.04 * spread


def _span(values: pd.Series) -> tuple[float, float]:
    first, last = float(values.min()), float(values.max())
    return first, last if last > first else first + 1.0


def _value_text(value: float, *, log: bool) -> str:
    if not np.isfinite(value):
        return "none"
    return f"{np.exp(value):.3g}" if log else f"{value:.3g}"
