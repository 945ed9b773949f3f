"""Charts of layers: data in, alt.Chart out. Colours come from the theme, by the names `diverging` and `ramp`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.ticks import factors
from validation.frames.layer_heatmap import ALL_TIERS, MEASURES, Measure
from validation.verdict.layer_ablation import LeftOut

TIER_ORDER = (ALL_TIERS, "bottom", "middle", "top")
MOST_TICKS = 16
LEAST = 0.02  # logarithm, to either side of no difference, that an axis shows
TALLEST = 44  # pixels of a row where there are few
FACTOR = "format(exp(datum.value), '.4~g') + '×'"
POWER_OF_TWO = (
    "'2' + (datum.value < 0 ? '⁻' : '') + (abs(datum.value) > 9 ? '⁰¹²³⁴⁵⁶⁷⁸⁹'[floor(abs(datum.value) / 10)] : '')"
    " + '⁰¹²³⁴⁵⁶⁷⁸⁹'[abs(datum.value) % 10]"
)
POWER = "format(exp(datum.value), '.1~e')"


def heatmap(cells: pd.DataFrame, measure: str, reach: tuple[float, float], chosen: tuple[int, int]) -> alt.LayerChart:
    """One cell for each layer (across) and each expert and tier (down); the chosen layer's and expert's framed.

    cells: one frame of `heatmap.frames`. A cell without a finite value is not drawn.
    """
    shown = MEASURES[measure]
    data = cells.assign(row=_row_names(cells), told=[_told(value, log=shown.log) for value in cells["value"]])
    layers, rows = sorted(data["layer"].unique().tolist()), _rows(data)
    across = alt.X(
        "layer:O",
        title="Layer",
        scale=alt.Scale(domain=layers, paddingInner=0.06, paddingOuter=0),
        axis=alt.Axis(values=_ticks(layers), labelAngle=0, ticks=False, domain=False),
    )
    down = alt.Y(
        "row:N",
        title=None,
        scale=alt.Scale(domain=rows, paddingInner=0.06, paddingOuter=0),
        axis=alt.Axis(
            ticks=False,
            domain=False,
            labelFlush=False,
            labelLimit=150,
            labelOverlap=len(rows) > 60,
            labelFontSize=11 if len(rows) < 30 else 9,
        ),
    )
    low, high = reach
    scale = alt.Scale(
        domain=[low, 0, high] if shown.centred else [low, high],
        range=theme.DIVERGING if shown.centred else theme.RAMP,
        clamp=True,
    )
    values = _legend_values(low, high, shown)
    label = (FACTOR if shown.centred else POWER) if shown.log else "format(datum.value, '.2~g')"
    legend = alt.Legend(
        title=shown.unit, orient="top", gradientLength=220, gradientThickness=10, values=values, labelExpr=label
    )
    tooltip = [alt.Tooltip(f"{name}:N", title=name) for name in ("layer", "expert", "role", "tier")]
    tooltip += [alt.Tooltip("told:N", title=shown.unit)]
    picked = alt.selection_point(name="cell", fields=["layer", "expert", "tier"], on="click", toggle=False)
    known = data[data["value"].notna()]
    rects = (
        alt.Chart(known)
        .mark_rect(cursor="pointer")
        .encode(x=across, y=down, color=alt.Color("value:Q", scale=scale, legend=legend), tooltip=tooltip)
        .add_params(picked)
    )
    framed = data[(data["layer"] == chosen[0]) & (data["expert"] == chosen[1])]
    frame = (
        alt.Chart(framed)
        .mark_rect(fillOpacity=0, stroke=theme.GREY, strokeWidth=2.5, tooltip=None)
        .encode(x=across, y=down)
    )
    # The height holds legend and axis too: the page fits the whole chart into it.
    height = 130 + len(rows) * max(11, min(TALLEST, 420 // max(1, len(rows))))
    return alt.LayerChart(layer=[rects, frame], height=height).configure_view(stroke=None)


def cell_series(data: pd.DataFrame, measure: str, role: str, at: tuple[int, int] | None) -> alt.LayerChart:
    """One expert in one layer over the steps: the mean of each window as a line, its extremes as a band.

    data: from `heatmap.of_cell`. at: the steps that the heatmap shows, marked by a bar.
    """
    shown = MEASURES[measure]
    parts = data["tier"].replace(ALL_TIERS, "whole")
    data = data.assign(series=role + " " + parts, told=[_told(value, log=shown.log) for value in data["value"]])
    x = alt.X("step:Q", title="Training step", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickCount=6))
    label = (FACTOR if shown.centred else POWER) if shown.log else "format(datum.value, '.2~g')"
    axis, scale = alt.Axis(labelExpr=label, tickCount=6), alt.Scale(zero=False)
    if shown.centred and shown.log:
        low, high = _padded(data)
        axis = alt.Axis(labelExpr=label, values=[math.log(tick) for tick in factors(math.exp(low), math.exp(high))])
        scale = alt.Scale(domain=[low, high], nice=False)
    y = alt.Y("value:Q", title=shown.unit, scale=scale, axis=axis)
    there = set(data["series"])
    present = [name for name in theme.SERIES if name in there]
    tier_of = "split(datum.label, ' ')[1]"
    legend = alt.Legend(
        values=present, orient="top", title=None, labelExpr=tier_of, symbolOpacity=1, symbolType="stroke"
    )
    color = alt.Color("series:N", scale=alt.Scale(domain=theme.SERIES), legend=legend if len(present) > 1 else None)
    base = alt.Chart(data[data["value"].notna()])
    layers = [
        base.mark_area(opacity=0.18, clip=True).encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=color),
        base.mark_line(strokeWidth=1.7, point=len(data) <= 6, clip=True).encode(
            x=x,
            y=y,
            color=color,
            tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("tier:N"), alt.Tooltip("told:N", title=shown.unit)],
        ),
    ]
    if shown.centred:
        layers.insert(
            0,
            alt.Chart(pd.DataFrame({"value": [0.0]}))
            .mark_rule(color=theme.GREY, strokeDash=theme.ZERO_DASH)
            .encode(y=alt.Y("value:Q")),
        )
    if at is not None:
        span = pd.DataFrame({"step": [at[0]], "until": [at[1]]})
        layers.insert(
            0,
            alt.Chart(span)
            .mark_rect(color=theme.GREY, opacity=0.35, stroke=theme.GREY, strokeWidth=1)
            .encode(x=alt.X("step:Q"), x2=alt.X2("until:Q")),
        )
    return alt.LayerChart(layer=layers, height=theme.CELL_HEIGHT)


def _padded(data: pd.DataFrame) -> tuple[float, float]:
    """From the smallest to the largest logarithm, no difference among them; errors of rounding alone do not fill it."""
    finite = data[["value", "low", "high"]].to_numpy(dtype=float)
    low, high = min(float(np.nanmin(finite)), -LEAST), max(float(np.nanmax(finite)), LEAST)
    room = 0.06 * (high - low)
    return low - room, high + room


def cell_histogram(data: pd.DataFrame, title: str) -> alt.Chart:
    """How gradient entries are spread by size, over the steps: a column for each step, a row for each power of two."""
    bins = list(range(int(data["bin"].min()), int(data["bin"].max()) + 1))
    steps = sorted(data["step"].unique().tolist())
    return (
        alt.Chart(data, height=theme.HISTOGRAM_HEIGHT)
        .mark_rect()
        .encode(
            x=alt.X("step:O", title="Training step", axis=alt.Axis(values=_ticks(steps, 6), labelAngle=0, ticks=False)),
            y=alt.Y(
                "bin:O",
                title=title,
                scale=alt.Scale(domain=bins[::-1]),
                axis=alt.Axis(values=_ticks(bins, 6), labelExpr=POWER_OF_TWO, ticks=False),
            ),
            color=alt.Color(
                "share:Q",
                scale=alt.Scale(range=theme.RAMP),
                legend=alt.Legend(
                    title="share of entries", orient="top", format=".0%", gradientLength=160, gradientThickness=8
                ),
            ),
            tooltip=[
                alt.Tooltip("step:O"),
                alt.Tooltip("last_step:O"),
                alt.Tooltip("bin:O", title="log2 |gradient|"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )


def left_out(left: Sequence[LeftOut], names: Sequence[int], status: str, estimate: float | None) -> alt.LayerChart:
    """A claim's estimate and interval without each layer, against its threshold (dashed) and the whole run's (thin).

    A layer without which the status is another one is a filled diamond.
    """
    rows = pd.DataFrame(
        [
            {
                "layer": names[one.layer],
                "estimate": one.claim.estimate,
                "low": one.claim.low,
                "high": one.claim.high,
                "status": one.claim.status,
                "turns": one.claim.status != status,
                "look": "perturbed bottom" if one.claim.status != status else "control bottom",
            }
            for one in left
            if one.claim.estimate is not None
        ]
    )
    threshold, unit = left[0].claim.threshold, left[0].claim.unit
    centres = [
        *rows["estimate"],
        *([threshold] if threshold is not None else []),
        *([estimate] if estimate is not None else []),
    ]
    low, high = _room(centres, rows["low"].tolist() + rows["high"].tolist())
    rows["low"], rows["high"] = (
        rows["low"].astype(float).fillna(low).clip(low, high),
        rows["high"].astype(float).fillna(high).clip(low, high),
    )
    scale = alt.Scale(domain=[low, high], nice=False)
    layers = sorted(rows["layer"].unique().tolist())
    x = alt.X("layer:O", title="Layer left out", axis=alt.Axis(values=_ticks(layers), labelAngle=0, ticks=False))
    y = alt.Y("estimate:Q", title=f"Estimate ({unit})", scale=scale, axis=alt.Axis(tickCount=6))
    color = alt.Color("look:N", scale=alt.Scale(domain=theme.SERIES), legend=None)
    base = alt.Chart(rows)
    marks = [
        base.mark_rule(strokeWidth=2, clip=True).encode(
            x=x, y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q"), color=color
        ),
        base.mark_point(filled=True, opacity=1).encode(
            x=x,
            y=y,
            color=color,
            shape=alt.ShapeValue("circle", condition={"test": "datum.turns", "value": "diamond"}),
            size=alt.SizeValue(60, condition={"test": "datum.turns", "value": 130}),
            tooltip=[
                alt.Tooltip("layer:O", title="without layer"),
                alt.Tooltip("status:N"),
                *(
                    alt.Tooltip(f"{name}:Q", format=".3~g", title=f"{name} ({unit})")
                    for name in ("estimate", "low", "high")
                ),
            ],
        ),
    ]
    for value, dash in ((threshold, theme.THRESHOLD_DASH), (estimate, theme.SOLID)):
        if value is not None:
            rule = alt.Chart(pd.DataFrame({"estimate": [value]})).mark_rule(color=theme.GREY, strokeDash=dash)
            marks.insert(0, rule.encode(y=alt.Y("estimate:Q", scale=scale)))
    return alt.LayerChart(layer=marks, height=theme.ABLATION_HEIGHT)


def _row_names(cells: pd.DataFrame) -> list[str]:
    named = zip(cells["tier"], cells["expert"], cells["role"], strict=True)
    return [_row(tier, expert, role) for tier, expert, role in named]


def _row(tier: str, expert: int, role: str) -> str:
    told = "expert" if tier == ALL_TIERS else tier
    return f"{told} {expert}" + ("" if role == "perturbed" else f" {role}")


def _rows(data: pd.DataFrame) -> list[str]:
    """Row names, tier by tier, with a gap between two tiers."""
    rows: list[str] = []
    for place, tier in enumerate(tier for tier in TIER_ORDER if tier in set(data["tier"])):
        own = data[data["tier"] == tier][["expert", "row"]].drop_duplicates().sort_values("expert")
        rows += ([" " * place] if rows else []) + own["row"].tolist()
    return rows


def _ticks(values: Sequence[int], most: int = MOST_TICKS) -> list[int]:
    """Evenly spaced values that have room for their labels."""
    return list(values[:: -(-len(values) // most) or 1])


def _legend_values(low: float, high: float, shown: Measure) -> list[float]:
    if shown.centred and shown.log:
        return [math.log(tick) for tick in factors(math.exp(low), math.exp(high), most=5)]
    return [low, low / 2, 0.0, high / 2, high] if shown.centred else np.linspace(low, high, 4).tolist()


def _told(value: float, *, log: bool) -> str:
    if not np.isfinite(value):
        return "no finite value"
    return f"{np.exp(value):.3g}" if log else f"{value:.3g}"


def _room(centres: Sequence[float], bounds: Sequence[float | None]) -> tuple[float, float]:
    """An axis that shows every estimate, and of intervals as much as ten times their spread."""
    low, high = min(centres), max(centres)
    spread = max(high - low, 0.05 * max(abs(low), abs(high)), 1e-6)
    finite = [bound for bound in bounds if bound is not None and np.isfinite(bound)]
    reach = [bound for bound in finite if low - 10 * spread <= bound <= high + 10 * spread]
    low, high = min([low, *reach]), max([high, *reach])
    pad = 0.08 * (high - low) or spread
    return low - pad, high + pad
