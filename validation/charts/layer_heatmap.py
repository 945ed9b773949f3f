"""Charts of the Layers page: the heatmap, one expert in one layer over the steps, its histogram, and layer ablation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from prismatic.contract.schema import PEER
from validation.charts import theme
from validation.charts.ticks import factor_ticks
from validation.frames.layer_heatmap import ALL_TIERS, MEASURES, Measure
from validation.judgement.layer_ablation import LayerAblation
from validation.verdict.claims import Claim

TIER_ORDER = (ALL_TIERS, "bottom", "middle", "top")
MAX_TICKS = 16
MIN_LOG = 0.02  # natural logarithm that an axis covers on either side of no difference
MAX_ROW = 44  # pixels
FACTOR = "format(exp(datum.value), '.4~g') + '×'"
POWER_OF_TWO = (
    "'2' + (datum.value < 0 ? '⁻' : '') + (abs(datum.value) > 9 ? '⁰¹²³⁴⁵⁶⁷⁸⁹'[floor(abs(datum.value) / 10)] : '')"
    " + '⁰¹²³⁴⁵⁶⁷⁸⁹'[abs(datum.value) % 10]"
)
NORM = "format(exp(datum.value), '.2~g')"


def heatmap(cells: pd.DataFrame, measure: str, ends: tuple[float, float], chosen: tuple[int, int]) -> alt.LayerChart:
    """Return one cell for each layer (across) and each expert and tier (down). Cells without a finite value are blank.

    cells: one frame of HeatmapFrames. ends: of the colour scale. chosen: layer and (first) expert of the framed cells.
    """
    about = MEASURES[measure]
    data = cells.assign(row=_row_names(cells), text=[_value_text(value, log=about.log) for value in cells["value"]])
    rows = _ordered_rows(data)
    x, y = _heatmap_axes(sorted(data["layer"].unique().tolist()), rows)
    titles = {"layer": "Layer", "experts": "Expert", "role": "Role", "tier": "Tier"}
    tooltip = [alt.Tooltip(f"{name}:N", title=title) for name, title in titles.items()]
    tooltip += [alt.Tooltip("text:N", title=f"{about.title} ({about.unit})")]
    picked = alt.selection_point(name="cell", fields=["layer", "expert", "tier"], on="click", toggle=False)
    rects = (
        alt.Chart(data[data["value"].notna()])
        .mark_rect(cursor="pointer")
        .encode(x=x, y=y, color=_heatmap_color(about, ends), tooltip=tooltip)
        .add_params(picked)
    )
    framed = alt.Chart(data[(data["layer"] == chosen[0]) & (data["expert"] == chosen[1])])
    frame = framed.mark_rect(fillOpacity=0, stroke=theme.GREY, strokeWidth=2.5, tooltip=None).encode(x=x, y=y)
    # The height includes legend and axis: the page fits the whole chart into it.
    height = 130 + len(rows) * max(11, min(MAX_ROW, 420 // max(1, len(rows))))
    return alt.LayerChart(layer=[rects, frame], height=height).configure_view(stroke=None)


def _heatmap_axes(layers: list[int], rows: list[str]) -> tuple[alt.X, alt.Y]:
    x_axis = alt.Axis(values=_ticks(layers), labelAngle=0, ticks=False, domain=False)
    y_axis = alt.Axis(
        ticks=False,
        domain=False,
        labelFlush=False,
        labelLimit=150,
        labelOverlap=len(rows) > 60,
        labelFontSize=11 if len(rows) < 30 else 9,
    )
    x_scale, y_scale = (alt.Scale(domain=domain, paddingInner=0.06, paddingOuter=0) for domain in (layers, rows))
    x = alt.X("layer:O", title="Layer", scale=x_scale, axis=x_axis)
    return x, alt.Y("row:N", title=None, scale=y_scale, axis=y_axis)


def _heatmap_color(about: Measure, ends: tuple[float, float]) -> alt.Color:
    low, high = ends
    legend = alt.Legend(
        title=about.unit,
        orient="top",
        gradientLength=220,
        gradientThickness=10,
        values=_legend_values(low, high, about),
        labelExpr=_label_expression(about),
    )
    scale = alt.Scale(
        domain=[low, 0, high] if about.centred else [low, high],
        range=theme.DIVERGING if about.centred else theme.RAMP,
        clamp=True,
    )
    return alt.Color("value:Q", scale=scale, legend=legend)


def cell_series(data: pd.DataFrame, measure: str, role: str, at: tuple[int, int] | None) -> alt.LayerChart:
    """Return one expert in one layer over the steps: the mean of each window as a line, its extremes as a band.

    data: from cell_rows. at: first and last step that the heatmap shows, marked by a bar.
    """
    about = MEASURES[measure]
    parts = data["tier"].replace(ALL_TIERS, "whole")
    shades = "clean" if role == PEER else role  # of one expert, the tiers differ
    data = data.assign(series=shades + " " + parts, text=[_value_text(value, log=about.log) for value in data["value"]])
    x = alt.X("step:Q", title="Training step", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickCount=6))
    y, color = _cell_value(data, about), _cell_color(set(data["series"]))
    tooltip = [
        alt.Tooltip("step:Q", title="Step"),
        alt.Tooltip("tier:N", title="Tier"),
        alt.Tooltip("text:N", title=f"{about.title} ({about.unit})"),
    ]
    base = alt.Chart(data[data["value"].notna()])
    line = base.mark_line(strokeWidth=1.7, point=len(data) <= 6, clip=True)
    layers = [
        base.mark_area(opacity=0.18, clip=True).encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=color),
        line.encode(x=x, y=y, color=color, tooltip=tooltip),
    ]
    if about.centred:
        zero = alt.Chart(pd.DataFrame({"value": [0.0]})).mark_rule(color=theme.GREY, strokeDash=theme.ZERO_DASH)
        layers.insert(0, zero.encode(y=alt.Y("value:Q")))
    if at is not None:
        span = alt.Chart(pd.DataFrame({"step": [at[0]], "until": [at[1]]}))
        bar = span.mark_rect(color=theme.GREY, opacity=0.35, stroke=theme.GREY, strokeWidth=1)
        layers.insert(0, bar.encode(x=alt.X("step:Q"), x2=alt.X2("until:Q")))
    return alt.LayerChart(layer=layers, height=theme.CELL_HEIGHT)


def _cell_value(data: pd.DataFrame, about: Measure) -> alt.Y:
    label = _label_expression(about)
    axis, scale = alt.Axis(labelExpr=label, tickCount=6), alt.Scale(zero=False)
    if about.centred and about.log:
        low, high = _padded(data)
        ticks = factor_ticks(math.exp(low), math.exp(high))
        axis = alt.Axis(labelExpr=label, values=[math.log(tick) for tick in ticks])
        scale = alt.Scale(domain=[low, high], nice=False)
    return alt.Y("value:Q", title=about.unit, scale=scale, axis=axis)


def _cell_color(there: set[str]) -> alt.Color:
    present = [name for name in theme.SERIES if name in there]
    tier = "split(datum.label, ' ')[1]"
    legend = alt.Legend(values=present, orient="top", title=None, labelExpr=tier, symbolOpacity=1, symbolType="stroke")
    scale = alt.Scale(domain=theme.SERIES)
    return alt.Color("series:N", scale=scale, legend=legend if len(present) > 1 else None)


def _padded(data: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of an axis of logarithms: all values and no difference; rounding errors alone do not fill it."""
    finite = data[["value", "low", "high"]].to_numpy(dtype=float)
    low, high = min(float(np.nanmin(finite)), -MIN_LOG), max(float(np.nanmax(finite)), MIN_LOG)
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def cell_histogram(data: pd.DataFrame, title: str) -> alt.Chart:
    """Return the share of gradient entries by size: a column for each step, a row for each power of two."""
    bins = list(range(int(data["bin"].min()), int(data["bin"].max()) + 1))
    steps = sorted(data["step"].unique().tolist())
    legend = alt.Legend(title="Share of entries", orient="top", format=".0%", gradientLength=160, gradientThickness=8)
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
            color=alt.Color("share:Q", scale=alt.Scale(range=theme.RAMP), legend=legend),
            tooltip=[
                alt.Tooltip("step:O", title="From step"),
                alt.Tooltip("last_step:O", title="To step"),
                alt.Tooltip("bin:O", title="log2 |gradient|"),
                alt.Tooltip("share:Q", title="Share of entries", format=".1%"),
            ],
        )
    )


def layer_ablation(without: Sequence[LayerAblation], names: Sequence[int], claim: Claim) -> alt.LayerChart:
    """Return a claim's estimate and interval without each layer, the threshold (dashed) and the estimate of all layers.

    A filled diamond marks a layer whose removal changes the status.
    """
    rows, scale = _ablation_rows(without, names, claim)
    layers = sorted(rows["layer"].unique().tolist())
    x = alt.X("layer:O", title="Layer removed", axis=alt.Axis(values=_ticks(layers), labelAngle=0, ticks=False))
    y = alt.Y("estimate:Q", title=f"Estimate ({claim.unit})", scale=scale, axis=alt.Axis(tickCount=6))
    color = alt.Color("series:N", scale=alt.Scale(domain=theme.SERIES), legend=None)
    tooltip = [alt.Tooltip("layer:O", title="Without layer"), alt.Tooltip("status:N", title="Status")]
    tooltip += [
        alt.Tooltip(f"{name}:Q", format=".3~g", title=f"{name.capitalize()} ({claim.unit})")
        for name in ("estimate", "low", "high")
    ]
    base = alt.Chart(rows)
    interval = base.mark_rule(strokeWidth=2, clip=True)
    marks = [
        interval.encode(x=x, y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q"), color=color),
        base.mark_point(filled=True, opacity=1).encode(
            x=x,
            y=y,
            color=color,
            shape=alt.ShapeValue("circle", condition={"test": "datum.changed", "value": "diamond"}),
            size=alt.SizeValue(60, condition={"test": "datum.changed", "value": 130}),
            tooltip=tooltip,
        ),
    ]
    for value, dash in ((claim.threshold, theme.THRESHOLD_DASH), (claim.estimate, theme.SOLID)):
        if value is not None:
            rule = alt.Chart(pd.DataFrame({"estimate": [value]})).mark_rule(color=theme.GREY, strokeDash=dash)
            marks.insert(0, rule.encode(y=alt.Y("estimate:Q", scale=scale)))
    return alt.LayerChart(layer=marks, height=theme.ABLATION_HEIGHT)


def _ablation_rows(
    without: Sequence[LayerAblation], names: Sequence[int], claim: Claim
) -> tuple[pd.DataFrame, alt.Scale]:
    """Return a row for each layer with an estimate, bounds cut off at the axis, and the scale of that axis."""
    rows = pd.DataFrame(
        [
            {
                "layer": names[each.layer],
                "estimate": each.claim.estimate,
                "low": each.claim.low,
                "high": each.claim.high,
                "status": each.claim.status,
                "changed": each.claim.status != claim.status,
                "series": "perturbed bottom" if each.claim.status != claim.status else "control bottom",
            }
            for each in without
            if each.claim.estimate is not None
        ]
    )
    marks = [value for value in (claim.threshold, claim.estimate) if value is not None]
    low, high = _extent([*rows["estimate"], *marks], rows["low"].tolist() + rows["high"].tolist())
    for name in ("low", "high"):
        rows[name] = rows[name].astype(float).clip(low, high)
    return rows, alt.Scale(domain=[low, high], nice=False)


def _row_names(cells: pd.DataFrame) -> list[str]:
    named = zip(cells["tier"], cells["experts"], cells["role"], strict=True)
    return [_row_name(tier, experts, role) for tier, experts, role in named]


def _row_name(tier: str, experts: str, role: str) -> str:
    first = "expert" if tier == ALL_TIERS else tier
    return f"{first} {experts}" + ("" if role in ("perturbed", PEER) else f" {role}")


def _ordered_rows(data: pd.DataFrame) -> list[str]:
    """Return the row names, tier by tier, with a blank row between two tiers."""
    rows: list[str] = []
    for place, tier in enumerate(tier for tier in TIER_ORDER if tier in set(data["tier"])):
        own = data[data["tier"] == tier][["expert", "row"]].drop_duplicates().sort_values("expert")
        rows += ([" " * place] if rows else []) + own["row"].tolist()
    return rows


def _ticks(values: Sequence[int], most: int = MAX_TICKS) -> list[int]:
    """Return at most `most` evenly spaced values."""
    return list(values[:: -(-len(values) // most) or 1])


def _label_expression(about: Measure) -> str:
    if not about.log:
        return "format(datum.value, '.2~g')"
    return FACTOR if about.centred else NORM


def _legend_values(low: float, high: float, about: Measure) -> list[float]:
    if about.centred and about.log:
        return [math.log(tick) for tick in factor_ticks(math.exp(low), math.exp(high), most=5)]
    return [low, low / 2, 0.0, high / 2, high] if about.centred else np.linspace(low, high, 4).tolist()


def _value_text(value: float, *, log: bool) -> str:
    if not np.isfinite(value):
        return "no finite value"
    return f"{np.exp(value):.3g}" if log else f"{value:.3g}"


def _extent(centres: Sequence[float], bounds: Sequence[float | None]) -> tuple[float, float]:
    """Return the ends of an axis with every estimate; bounds count up to ten times the spread of the estimates."""
    low, high = min(centres), max(centres)
    spread = max(high - low, 0.05 * max(abs(low), abs(high)), 1e-6)
    finite = [bound for bound in bounds if bound is not None and np.isfinite(bound)]
    near = [bound for bound in finite if low - 10 * spread <= bound <= high + 10 * spread]
    low, high = min([low, *near]), max([high, *near])
    pad = 0.08 * (high - low) or spread
    return low - pad, high + pad
