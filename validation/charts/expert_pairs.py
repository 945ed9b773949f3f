"""Charts of the experts of a layer among themselves: the matrix of their pairs, their load, and how even that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.ticks import factor_ticks
from validation.frames.expert_pairs import MEASURED, NOISE, PAIR_MEASURES
from validation.frames.routing_load import RoutingLoad

MAX_TICKS, LOAD_TICKS = 16, 8
TWICE = 32  # experts up to which both halves of the symmetric matrix are drawn: more cells take a browser too long
MATRIX_HEIGHT, LOAD_HEIGHT, EVENNESS_HEIGHT = 520, 330, 170
LEGEND = 60  # pixels of a chart's height that are no cells
CROSS = "M-1,-1L1,1M-1,1L1,-1"
LARGEST_LOAD = 8.0  # times an even share; the colours end there
FACTOR = "format(exp(datum.value), '.3~g') + '×'"

Span = tuple[int, int]
"""First and last step."""


def pair_matrix(cells: pd.DataFrame, order: Sequence[int], measure: str, high: float) -> alt.LayerChart:
    """Return the matrix of a measure between each two experts, in this order on both axes.

    cells: one frame of PairFrames. high: value at the end of the colour scale, which begins with 0. A pair whose
    gradient is mostly noise is grey with a cross; one that was not compared, and the diagonal, are blank. Of many
    experts each pair is drawn once, below the diagonal.
    """
    if len(order) > TWICE:
        place = {expert: number for number, expert in enumerate(order)}
        cells = cells[cells["expert"].map(place) > cells["other"].map(place)]
    about = PAIR_MEASURES[measure]
    x, y = (_experts(name, order) for name in ("other", "expert"))
    legend = alt.Legend(
        title=about.unit,
        orient="top",
        gradientLength=220,
        gradientThickness=10,
        values=np.linspace(0, high, 4).tolist(),
        format=".2~g",
    )
    scale = alt.Scale(domain=[0, high], range=theme.RAMP, clamp=True)
    tooltip = [alt.Tooltip("expert:N", title="Expert"), alt.Tooltip("other:N", title="Other expert")]
    value = alt.Tooltip("value:Q", title=f"{about.title} ({about.unit})", format=".3~g")
    state = alt.Tooltip("state:N", title=f"{about.title} ({about.unit})")
    noise = cells[cells["state"] == NOISE]
    side = (MATRIX_HEIGHT - LEGEND) / max(len(order), 1)
    layers = [
        alt.Chart(cells[cells["state"] == MEASURED])
        .mark_rect()
        .encode(x=x, y=y, color=alt.Color("value:Q", scale=scale, legend=legend), tooltip=[*tooltip, value]),
        alt.Chart(noise).mark_rect(color=theme.GREY, opacity=0.22).encode(x=x, y=y, tooltip=[*tooltip, state]),
        alt.Chart(noise)
        .mark_point(shape=CROSS, size=min(side**2 / 4, 120), color=theme.GREY, strokeWidth=1, opacity=1)
        .encode(x=x, y=y, tooltip=[*tooltip, state]),
    ]
    return alt.LayerChart(layer=layers, height=MATRIX_HEIGHT).configure_view(stroke=None)


def expert_loads(load: RoutingLoad, order: Sequence[int], shown: Span) -> alt.LayerChart:
    """Return the load of each expert over the steps: 1 is an even share. shown: steps that a frame marks."""
    rows = _until(load.shares)
    end = min(max(_spread(rows["load"]), math.log(2)), math.log(LARGEST_LOAD))
    with np.errstate(divide="ignore"):
        value = np.log(rows["load"]).clip(-end, end)
    text = ["no token" if one == 0 else f"{one:.3g}×" for one in rows["load"]]
    legend = alt.Legend(
        title="share / even share",
        orient="top",
        gradientLength=180,
        gradientThickness=10,
        values=[math.log(tick) for tick in factor_ticks(math.exp(-end), math.exp(end), most=5)],
        labelExpr=FACTOR,
        labelOverlap="greedy",
        labelSeparation=6,
    )
    scale = alt.Scale(domain=[-end, 0, end], range=theme.DIVERGING, clamp=True)
    tooltip = [
        alt.Tooltip("expert:N", title="Expert"),
        alt.Tooltip("step:Q", title="From step"),
        alt.Tooltip("last_step:Q", title="To step"),
        alt.Tooltip("text:N", title="Share / even share"),
    ]
    cells = (
        alt.Chart(rows.assign(value=value, text=text))
        .mark_rect()
        .encode(
            x=_steps(rows),
            x2=alt.X2("until:Q"),
            y=_experts("expert", order, most=LOAD_TICKS),
            color=alt.Color("value:Q", scale=scale, legend=legend),
            tooltip=tooltip,
        )
    )
    return alt.LayerChart(layer=[cells, *_frame(shown)], height=LOAD_HEIGHT).configure_view(stroke=None)


def routing_evenness(load: RoutingLoad, shown: Span) -> alt.LayerChart:
    """Return the entropy of the shares over the steps: 1 is even, 0 is one expert for all tokens."""
    rows = _until(load.evenness)
    tooltip = [
        alt.Tooltip("step:Q", title="From step"),
        alt.Tooltip("last_step:Q", title="To step"),
        alt.Tooltip("entropy:Q", title="Entropy (1 is even)", format=".3~f"),
        alt.Tooltip("violation:Q", title="Largest share / even share - 1", format=".3~g"),
        alt.Tooltip("unused:Q", title="Experts without a token", format=".3~g"),
    ]
    line = (
        alt.Chart(rows)
        .mark_line(color=theme.ESTIMATE, strokeWidth=1.8, point={"size": 18, "color": theme.ESTIMATE})
        .encode(
            x=_steps(rows),
            y=alt.Y("entropy:Q", title="Entropy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
            tooltip=tooltip,
        )
    )
    return alt.LayerChart(layer=[line, *_frame(shown)], height=EVENNESS_HEIGHT)


def _experts(name: str, order: Sequence[int], most: int = MAX_TICKS) -> alt.X | alt.Y:
    """Return the axis of experts in this order; of many, some are named."""
    axis = alt.Axis(
        values=[*order[:: -(-len(order) // most) or 1]],
        labelAngle=0,
        ticks=False,
        domain=False,
        labelOverlap=False,
        labelFontSize=11 if len(order) <= MAX_TICKS else 10,
    )
    scale = alt.Scale(domain=[*order], paddingInner=0.06 if len(order) <= 2 * MAX_TICKS else 0, paddingOuter=0)
    if name == "other":
        return alt.X("other:O", title="Expert", scale=scale, axis=axis)
    return alt.Y("expert:O", title="Expert", scale=scale, axis=axis)


def _steps(rows: pd.DataFrame) -> alt.X:
    ends = [float(rows["step"].min()), float(rows["until"].max())]
    return alt.X(
        "step:Q",
        title="Training step",
        scale=alt.Scale(domain=ends, nice=False),
        axis=alt.Axis(tickCount=6, grid=False),
    )


def _until(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the step at which the next window begins; the last window is as long as the one before."""
    starts = sorted(rows["step"].unique().tolist())
    last = starts[-1] + (starts[-1] - starts[-2] if len(starts) > 1 else 1)
    following = dict(zip(starts, [*starts[1:], last], strict=True))
    return rows.assign(until=rows["step"].map(following))


def _frame(shown: Span) -> list[alt.Chart]:
    """Return marks around the steps that the matrix shows."""
    rows = pd.DataFrame({"step": [shown[0]], "until": [max(shown[1], shown[0] + 1)]})
    bar = alt.Chart(rows).mark_rect(fillOpacity=0, stroke=theme.GREY, strokeWidth=2, tooltip=None, clip=True)
    return [bar.encode(x=alt.X("step:Q"), x2=alt.X2("until:Q"))]


def _spread(loads: pd.Series) -> float:
    """Return the logarithm of nearly the largest load, up or down."""
    positive = loads[loads > 0]
    return float(np.quantile(np.abs(np.log(positive)), 0.99)) if len(positive) else 0.0
