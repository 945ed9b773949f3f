"""Charts of several runs: data in, alt.Chart out. The theme has colours for six groups, after SERIES."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from validation.analysis.statistics import Array
from validation.charts import theme
from validation.charts.ticks import apart, factors
from validation.frames.run_comparison import COURSES
from validation.verdict.groups import Dose

FACTOR = "format(exp(datum.value), '.4~g') + '×'"
PLAIN = "format(datum.value, '.3~g')"
LABEL_GAP = 0.06  # of the height: two labels closer than this cannot be read


def bands(means: pd.DataFrame, shown: Sequence[str], course: str) -> alt.LayerChart:
    """The mean of each group over its runs with its interval, in one panel. means: from `compare.bands`."""
    own = _coloured(means, shown)
    axes = _axes(own, own["mean"].to_numpy(dtype=float), course)
    labels = _ends(own.rename(columns={"mean": "value"}).assign(label=own["group"]), ["group"])
    return alt.LayerChart(
        layer=[*_mean(own, shown, course, axes), _labels(labels, axes, size=15)], height=theme.LINES_HEIGHT
    )


def panels(means: pd.DataFrame, seeds: pd.DataFrame, shown: Sequence[str], course: str) -> list[alt.LayerChart]:
    """A panel for each group, all on the same axes: its mean with the interval, and its runs, named at their ends.

    seeds: rows of run, label, group, middle (step) and value.
    """
    means, seeds = _coloured(means, shown), _coloured(seeds, shown)
    axes = _axes(means, np.concatenate([means["mean"], seeds["value"]]), course)
    log, found = COURSES[course].log, []
    for group in shown:
        own, runs = means[means["group"] == group], seeds[seeds["group"] == group]
        lines = alt.Chart(runs.assign(told=[_told(value, log=log) for value in runs["value"]])).mark_line(
            strokeWidth=1, opacity=0.7, clip=True
        )
        tooltip = [alt.Tooltip("run:N"), alt.Tooltip("label:N"), alt.Tooltip("told:N", title=COURSES[course].unit)]
        drawn = lines.encode(x=axes.x, y=axes.y("value"), color=_COLOR, detail=alt.Detail("run:N"), tooltip=tooltip)
        labels = _labels(_ends(runs, ["run"]), axes, size=11)
        found.append(alt.LayerChart(layer=[*_mean(own, shown, course, axes), drawn, labels], height=theme.GROUP_HEIGHT))
    return found


@dataclass(frozen=True)
class _Axes:
    """What panels share."""

    x: alt.X
    span: tuple[float, float]
    """The first and the last step."""
    domain: tuple[float, float]
    title: str
    log: bool

    def y(self, field: str) -> alt.Y:
        """The axis of values for one field."""
        axis = _value_axis(self.domain, log=self.log)
        return alt.Y(f"{field}:Q", title=self.title, scale=alt.Scale(domain=list(self.domain), nice=False), axis=axis)


_COLOR = alt.Color("color:N", scale=alt.Scale(domain=theme.COLORS), legend=None)


def _axes(means: pd.DataFrame, centres: Array, course: str) -> _Axes:
    values = np.concatenate([centres, means["low"].dropna(), means["high"].dropna()])
    first, last = _span(means["middle"])
    x = alt.X(
        "middle:Q",
        title="Training step",
        scale=alt.Scale(domain=[first, last + 0.14 * (last - first)], nice=False),  # room for the names of the lines
        axis=alt.Axis(tickCount=6, format=",.0f"),
    )
    return _Axes(x, (first, last), _domain(values, centres), COURSES[course].unit, COURSES[course].log)


def _value_axis(domain: tuple[float, float], *, log: bool) -> alt.Axis:
    """The axis of logarithms is told in the factors that they are of."""
    if not log:
        return alt.Axis(labelExpr=PLAIN, tickCount=6)
    ticks = factors(math.exp(domain[0]), math.exp(domain[1]))
    return alt.Axis(labelExpr=FACTOR, values=[math.log(tick) for tick in ticks])


def _mean(means: pd.DataFrame, shown: Sequence[str], course: str, axes: _Axes) -> list[alt.Chart]:
    """Mean and interval, and where nothing differs."""
    about = COURSES[course]
    told = {f"{name}_told": [_told(v, log=about.log) for v in means[name]] for name in ("mean", "low", "high")}
    base = alt.Chart(means.assign(**told))
    tooltip = [
        alt.Tooltip("group:N"),
        alt.Tooltip("middle:Q", title="step", format=",.0f"),
        *(alt.Tooltip(f"{name}_told:N", title=f"{name} ({about.unit})") for name in ("mean", "low", "high")),
        alt.Tooltip("runs:Q", title="runs"),
    ]
    dashes = alt.Scale(
        domain=list(shown), range=[list(theme.GROUP_DASHES[i % theme.MAX_GROUPS]) for i in range(len(shown))]
    )
    layers = [
        base.mark_area(opacity=0.18, clip=True).encode(x=axes.x, y=axes.y("low"), y2=alt.Y2("high:Q"), color=_COLOR),
        base.mark_line(strokeWidth=2.8, clip=True, point=means["place"].nunique() == 1).encode(
            x=axes.x,
            y=axes.y("mean"),
            color=_COLOR,
            strokeDash=alt.StrokeDash("group:N", scale=dashes, legend=None),
            tooltip=tooltip,
        ),
    ]
    if about.log:
        first, last = axes.span  # not into the room of the names
        nothing = alt.Chart(pd.DataFrame({"mean": [0.0], "middle": [first], "until": [last]}))
        rule = nothing.mark_rule(color=theme.GREY, strokeDash=theme.ZERO_DASH, clip=True)
        layers.insert(0, rule.encode(x=axes.x, x2=alt.X2("until:Q"), y=axes.y("mean")))
    return layers


def _labels(ends: pd.DataFrame, axes: _Axes, *, size: int) -> alt.Chart:
    """Names beside the ends of lines, moved apart where they would cover each other."""
    low, high = axes.domain
    placed = apart(ends["value"].to_numpy(dtype=float), LABEL_GAP * (high - low))
    text = alt.Chart(ends.assign(placed=placed)).mark_text(align="left", dx=5, fontSize=size)
    return text.encode(x=axes.x, y=axes.y("placed"), text=alt.Text("label:N"), color=_COLOR)


def doses(dose: Dose, each: pd.DataFrame, means: pd.DataFrame) -> alt.LayerChart:
    """Effect over perturbation_scale: each seed's line and name, the mean with its interval, and the mean slope."""
    log = dose.unit == "log ratio"
    values = np.concatenate([each["value"], means["low"].dropna(), means["high"].dropna()])
    low, high = _domain(values, each["value"].to_numpy(dtype=float))
    scale = alt.Scale(domain=[low, high], nice=False)
    first, last = _span(means["scale"])
    x = alt.X(
        "scale:Q",
        title="perturbation_scale (share of |weight|)",
        scale=alt.Scale(domain=[first - 0.03 * (last - first), last + 0.24 * (last - first)], nice=False),
        axis=alt.Axis(values=sorted({round(float(s), 3) for s in means["scale"]}), format="~g", labelOverlap=True),
    )
    unit = "× clean expert" if log else dose.unit
    y_axis = _value_axis((low, high), log=log)
    each = each.assign(label=[f"seed {seed}" for seed in each["seed"]], color=theme.GROUPS[0])
    each["told"] = [_told(value, log=log) for value in each["value"]]
    means = means.assign(
        color=theme.GROUPS[1], fitted=means["mean"].mean() + dose.slope * (means["scale"] - means["scale"].mean())
    )
    color = alt.Color("color:N", scale=alt.Scale(domain=theme.COLORS), legend=None)
    seeds, over = alt.Chart(each), alt.Chart(means)
    ends = _ends(each.rename(columns={"scale": "middle"}), ["seed"]).rename(columns={"middle": "scale"})
    ends["place_of_label"] = apart(ends["value"].to_numpy(dtype=float), LABEL_GAP * (high - low))
    tooltip = [alt.Tooltip("label:N"), alt.Tooltip("scale:Q"), alt.Tooltip("told:N", title=unit)]
    layers = [
        seeds.mark_line(strokeWidth=1, opacity=0.6).encode(
            x=x, y=alt.Y("value:Q", scale=scale, title=unit, axis=y_axis), color=color, detail=alt.Detail("seed:N")
        ),
        seeds.mark_point(filled=True, size=35, opacity=0.8).encode(
            x=x, y=alt.Y("value:Q", scale=scale), color=color, tooltip=tooltip
        ),
        over.mark_line(strokeDash=theme.FIT_DASH, strokeWidth=2, clip=True).encode(
            x=x, y=alt.Y("fitted:Q", scale=scale), color=color
        ),
        over.mark_rule(strokeWidth=3, clip=True).encode(
            x=x, y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q"), color=color
        ),
        over.mark_point(filled=True, shape="diamond", size=120, opacity=1).encode(
            x=x, y=alt.Y("mean:Q", scale=scale), color=color, tooltip=[alt.Tooltip("scale:Q"), alt.Tooltip("seeds:Q")]
        ),
        alt.Chart(ends)
        .mark_text(align="left", dx=6, fontSize=11)
        .encode(x=x, y=alt.Y("place_of_label:Q", scale=scale), text=alt.Text("label:N"), color=color),
    ]
    return alt.LayerChart(layer=layers, height=theme.DOSE_HEIGHT)


def twins(pairs: pd.DataFrame, unit: str, threshold: float | None) -> alt.LayerChart:
    """Each treated run (filled) and its sham run (hollow) on one row, joined by a line; the threshold dashed."""
    data = pairs.assign(
        row=[
            f"scale {s:g}, seed {n}" + f" ({run})"
            for s, n, run in zip(pairs["scale"].fillna(np.nan), pairs["seed"], pairs["run"], strict=True)
        ]
    )
    y = alt.Y("row:N", title=None, sort=list(data["row"]), axis=alt.Axis(labelLimit=220, ticks=False, domain=False))
    scale = alt.Scale(zero=False)
    x = alt.X("estimate:Q", title=f"Estimate ({unit})", scale=scale, axis=alt.Axis(tickCount=8))
    color = alt.Color("color:N", scale=alt.Scale(domain=theme.COLORS), legend=None)
    base = alt.Chart(data.assign(color=theme.GROUPS[1], untreated=data["of the sham"]))
    sham = alt.Chart(data.assign(color=theme.GROUPS[5], untreated=data["of the sham"]))
    tooltip = [
        alt.Tooltip("run:N"),
        alt.Tooltip("sham:N"),
        alt.Tooltip("seed:Q"),
        alt.Tooltip("scale:Q"),
        *(alt.Tooltip(f"{n}:Q", format=".3~g") for n in ("estimate", "untreated")),
    ]
    layers = [
        base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=x, x2=alt.X2("untreated:Q"), y=y, color=color),
        sham.mark_point(filled=False, size=70, strokeWidth=2).encode(
            x=alt.X("untreated:Q", scale=scale), y=y, color=color, tooltip=tooltip
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=color, tooltip=tooltip),
    ]
    if threshold is not None:
        rule = alt.Chart(pd.DataFrame({"estimate": [threshold]})).mark_rule(
            color=theme.GREY, strokeDash=theme.THRESHOLD_DASH
        )
        layers.insert(0, rule.encode(x=alt.X("estimate:Q", scale=scale)))
    return alt.LayerChart(layer=layers, height=70 + 26 * len(data))


def _coloured(data: pd.DataFrame, shown: Sequence[str]) -> pd.DataFrame:
    return data.assign(
        color=data["group"].map({group: theme.GROUPS[i % theme.MAX_GROUPS] for i, group in enumerate(shown)})
    )


def _ends(data: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The last row of each line."""
    known = data[data["value"].notna()].sort_values("middle")
    return known.groupby(by, sort=False).tail(1).copy()


def _domain(values: Array, centres: Array) -> tuple[float, float]:
    """All lines, and of intervals as much as once their spread: two seeds have bands that would dwarf all else."""
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


def _told(value: float, *, log: bool) -> str:
    if not np.isfinite(value):
        return "none"
    return f"{np.exp(value):.3g}" if log else f"{value:.3g}"
