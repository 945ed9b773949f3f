"""Data frames in, charts out. Colours come from the theme: these scales have a fixed domain and no range.

A zero, a NaN or a missing value is never drawn as a number: zeros are ticks on a rail below a logarithmic axis, missing
values crosses on a rail above it, and lines break where there is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from validation.claims import Claim

# In the order of chartCategoricalColors in .streamlit/config.toml.
SERIES = [
    f"{role} {part}" for role in ("clean", "perturbed", "control") for part in ("middle", "bottom", "top", "whole")
]
GREY = "#737b87"  # 3:1 against both backgrounds
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [10, 4], [1, 3])
HOVER_STEPS = 400  # a hover layer over every step makes each move of the mouse slow
TIER_METRICS = {"top_norm": "top", "bottom_norm": "bottom", "middle_norm": "middle"}
HEIGHT, PANEL = 420, 230


@dataclass(frozen=True)
class Style:
    """How the reader wants lines drawn: what the axis counts, and over how many points they are smoothed; 0 is not."""

    axis: str = "Training step"
    smooth: int = 0


PLAIN = Style()


def overview(steps: np.ndarray, values: np.ndarray, title: str) -> alt.Chart:
    """A small chart of the whole run with a brush named "range"."""
    brush = alt.selection_interval(name="range", encodings=["x"])
    return (
        alt.Chart(pd.DataFrame({"step": steps, "value": values}), height=130)
        .mark_line(strokeWidth=1, color=GREY)
        .encode(
            x=alt.X("step:Q", title="Drag over a range to see it at full resolution", scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", title=title, axis=alt.Axis(ticks=False, labels=False), scale=alt.Scale(zero=False)),
        )
        .add_params(brush)
    )


def tier_norms(long: pd.DataFrame, style: Style = PLAIN) -> alt.LayerChart:
    """Gradient norms of every expert and tier over the steps; long has expert, role, metric, step, value.

    Of a file without any tier the norms of the whole gradients.
    """
    tiers = long["metric"].isin(TIER_METRICS)
    parts = TIER_METRICS if long.loc[tiers, "value"].notna().any() else {"norm": "whole"}
    data = long[long["metric"].isin(parts)].assign(part=lambda d: d["metric"].map(parts))
    return _lines(data, "Gradient norm (loss / weight)", style, log=True)


def tier_panels(long: pd.DataFrame, style: Style = PLAIN) -> list[alt.LayerChart]:
    """The same lines, one chart per tier."""
    return [
        _lines(
            long[long["metric"] == metric].assign(part=part), f"{part.capitalize()} norm", style, log=True, height=PANEL
        )
        for metric, part in TIER_METRICS.items()
    ]


def divergence(long: pd.DataFrame, style: Style = PLAIN, *, supported: float, refuted: float) -> alt.LayerChart:
    """The documented divergence score over the steps, with its two thresholds."""
    data = long[(long["metric"] == "divergence") & (long["role"] != "clean")].assign(part="whole")
    marks = pd.DataFrame(
        {"value": [supported, refuted], "label": [f"> {supported:g} diverges", f"< {refuted:g} does not"]}
    )
    rules = alt.Chart(marks).mark_rule(strokeDash=[4, 4], opacity=0.7).encode(y=alt.Y("value:Q"))
    texts = (
        alt.Chart(marks)
        .mark_text(align="left", baseline="bottom", dx=4)
        .encode(y=alt.Y("value:Q"), x=alt.XValue(0), text=alt.Text("label:N"))
    )
    return _lines(
        data, "Divergence score (loss / weight)", style, log=True, extra=[rules, texts], include=[supported, refuted]
    )


def direction(long: pd.DataFrame, style: Style = PLAIN) -> alt.LayerChart:
    """1 - cosine between each expert's gradient and the clean expert's."""
    data = long[(long["metric"] == "direction") & (long["role"] != "clean")].assign(part="whole")
    return _lines(data, "Direction (1 - cosine to expert 0)", style, log=False)


def routing(long: pd.DataFrame, style: Style = PLAIN) -> alt.LayerChart:
    """Each expert's share of the batch."""
    return _lines(
        long[long["metric"] == "routing_weight"].assign(part="whole"), "Routing share", style, log=False, include=[0, 1]
    )


def loss(steps: np.ndarray, values: np.ndarray, style: Style = PLAIN) -> alt.Chart:
    """Training loss over the steps."""
    data = pd.DataFrame({"step": steps, "loss": values})
    return (
        alt.Chart(data, height=HEIGHT)
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("step:Q", title=style.axis),
            y=alt.Y("loss:Q", title="Loss (nats per token)", scale=alt.Scale(zero=False)),
            tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("loss:Q", format=".4f")],
        )
    )


def interval(claim: Claim) -> alt.LayerChart | None:
    """A claim's estimate and interval as a bar against its threshold (dashed) and no effect (thin).

    None for a claim without an estimate.
    """
    if claim.estimate is None or claim.threshold is None:
        return None
    log = claim.unit == "ratio" and claim.estimate > 0
    nothing = 1.0 if log else 0.0
    centre = [claim.estimate, claim.threshold, nothing]
    reach = [min(centre) / 4, max(centre) * 4] if log else [-math.inf, math.inf]
    # A bound that is missing, or so far away that it would squeeze all else, is drawn as a bar that runs to the edge.
    bounds = [v if v is not None and reach[0] < v < reach[1] else None for v in (claim.low, claim.high)]
    marks = [*centre, *(bound for bound in bounds if bound is not None)]
    if log:
        pad = max(max(marks) / min(marks), 1.05) ** 0.1
        domain = [min(marks) / pad, max(marks) * pad]
    else:
        pad = 0.1 * (max(marks) - min(marks))
        domain = [min(marks) - pad, max(marks) + pad]
    low, high = (edge if bound is None else bound for bound, edge in zip(bounds, domain, strict=True))
    scale = alt.Scale(type="log" if log else "linear", domain=domain, nice=False)
    x = alt.X(
        "x:Q",
        scale=scale,
        axis=alt.Axis(
            title=None, values=[nothing, claim.threshold], grid=False, domain=False, ticks=False, format="~g"
        ),
    )
    own = alt.Chart(pd.DataFrame({"x": [claim.estimate], "low": [low], "high": [high]}))
    layers = [
        _mark_at(nothing).mark_rule(color=GREY, opacity=0.6).encode(x=x),
        _mark_at(claim.threshold).mark_rule(color=GREY, strokeDash=[4, 3], strokeWidth=2).encode(x=x),
        own.mark_bar(height=8, color=GREY, opacity=0.5).encode(x=alt.X("low:Q", scale=scale), x2=alt.X2("high:Q")),
        own.mark_point(filled=True, size=110, opacity=1, color=GREY).encode(x=x),
    ]
    # The height holds the axis too: the page fits the whole chart into it.
    return alt.layer(*layers).properties(height=64).configure_view(stroke=None)


def _mark_at(value: float) -> alt.Chart:
    return alt.Chart(pd.DataFrame({"x": [value]}))


def _lines(
    data: pd.DataFrame,
    title: str,
    style: Style,
    *,
    log: bool,
    height: int = HEIGHT,
    extra: Sequence[alt.Chart] = (),
    include: Sequence[float] = (),
) -> alt.LayerChart:
    """One panel: a line per expert and part; colour by role and part, dash by expert."""
    data = data.assign(series=data["role"] + " " + data["part"], expert=data["expert"].astype(str))
    values = data["value"].to_numpy(dtype=float, na_value=np.nan)
    finite = values[np.isfinite(values) & ((values > 0) if log else True)]
    log = log and len(finite) > 0
    y = alt.Y("value:Q", title=title, scale=_scale(np.append(finite, include), log=log), axis=alt.Axis(format="~g"))
    there = set(data["series"].unique())
    present = [name for name in SERIES if name in there]
    experts = sorted(data["expert"].unique(), key=int)
    color = alt.Color(
        "series:N", title="Expert and tier", scale=alt.Scale(domain=SERIES), legend=alt.Legend(values=present)
    )
    dash = alt.StrokeDash(
        "expert:N",
        title="Expert",
        sort=experts,
        scale=alt.Scale(domain=experts, range=[list(_dash(int(e))) for e in experts]),
    )
    drawn = data[~(data["value"] <= 0)] if log else data
    x = alt.X("step:Q", title=style.axis, scale=alt.Scale(nice=False))
    width, opacity = (0.7, 0.35) if style.smooth else (1.7, 1.0)
    mark = alt.Chart(drawn).mark_line(clip=True, strokeWidth=width, opacity=opacity)
    lines = mark.encode(x=x, y=y, color=color, strokeDash=dash)
    layers = [lines, *_points(drawn, x, y), *extra, *_rails(data, values, log), _hover(data)]
    if style.smooth:
        layers.insert(1, _smoothed(drawn, style.smooth).encode(x=x, y=y, color=color, strokeDash=dash))
    zoom = alt.selection_interval(name="zoom", bind="scales", encodings=["x"], zoom="wheel![event.shiftKey]")
    layers[0] = lines.add_params(zoom)
    return alt.LayerChart(layer=layers, height=height)


def _smoothed(drawn: pd.DataFrame, window: int) -> alt.Chart:
    """The running median over so many drawn points: a spike moves it little. For the eye: no verdict is fed with it."""
    ordered = drawn.sort_values("step")
    medians = ordered.groupby(["expert", "series"])["value"].transform(
        lambda values: values.rolling(window, center=True, min_periods=1).median()
    )
    return alt.Chart(ordered.assign(value=medians)).mark_line(strokeWidth=2.2, clip=True)


def _points(drawn: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Rows with no finite neighbour in their own line, which a line would not show."""
    finite = drawn.assign(there=np.isfinite(drawn["value"].astype(float))).sort_values("step")
    lines = finite.groupby(["expert", "series"])["there"]
    lonely = finite["there"] & ~lines.shift(1, fill_value=False) & ~lines.shift(-1, fill_value=False)
    color = alt.Color("series:N", scale=alt.Scale(domain=SERIES), legend=None)
    chart = alt.Chart(finite[lonely].drop(columns="there"))
    return [chart.mark_point(filled=True, size=22, clip=True).encode(x=x, y=y, color=color)] if lonely.any() else []


def _scale(values: np.ndarray, *, log: bool) -> alt.Scale:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if log:
        return alt.Scale(type="log", domain=[low / 1.4, high * 1.4], clamp=True, nice=False)
    return alt.Scale(domain=[min(low, 0.0), high if high > low else low + 1], nice=True)


def _dash(expert: int) -> Sequence[int]:
    """Solid for the clean expert and the first perturbed one, whose colours differ; then a pattern per expert."""
    return DASHES[max(0, expert - 1) % len(DASHES)]


def _rails(data: pd.DataFrame, values: np.ndarray, log: bool) -> list[alt.Chart]:
    """Zeros below a logarithmic axis, missing and non-finite values above: seen, and never at a made-up height."""
    marks = []
    color = alt.Color("series:N", scale=alt.Scale(domain=SERIES), legend=None)
    for rows, shape, place, label in (
        # The page fits axes and titles into the height, so only the chart itself knows how high its plot is.
        (log & (values == 0), "triangle-down", "height - 5", "zero"),
        (~np.isfinite(values), "cross", "6", "no finite value"),
    ):
        if rows.any():
            chosen = data[rows][["step", "series", "expert"]].assign(what=label)
            chosen = chosen.iloc[:: max(1, len(chosen) // 1000)]
            marks.append(
                alt.Chart(chosen)
                .mark_point(shape=shape, filled=True, size=28, opacity=0.8, clip=True)
                .encode(
                    x=alt.X("step:Q"),
                    y=alt.YValue(alt.ExprRef(place)),
                    color=color,
                    tooltip=[
                        alt.Tooltip("step:Q"),
                        *(alt.Tooltip(f"{name}:N") for name in ("series", "expert", "what")),
                    ],
                )
            )
    return marks


def _hover(data: pd.DataFrame) -> alt.Chart:
    """A rule at the nearest step that tells every value there."""
    names = data["series"] + " (expert " + data["expert"] + ")"
    wide = (
        data.assign(name=names).pivot_table(index="step", columns="name", values="value", aggfunc="max").reset_index()
    )
    wide = wide.iloc[:: math.ceil(len(wide) / HOVER_STEPS) or 1] if len(wide) else wide
    columns = [name for name in wide.columns if name != "step"]
    # Short field names: brackets and dots in a field name are syntax to the chart.
    wide.columns = ["step", *(f"v{place}" for place in range(len(columns)))]
    tooltip = [
        alt.Tooltip("step:Q"),
        *(alt.Tooltip(f"v{i}:Q", title=name, format=".3g") for i, name in enumerate(columns)),
    ]
    near = alt.selection_point(
        name="hover", nearest=True, on="pointermove", fields=["step"], empty=False, clear="pointerout"
    )
    return (
        alt.Chart(wide)
        .mark_rule()
        .encode(
            x=alt.X("step:Q"),
            opacity=alt.OpacityValue(0, condition={"param": near.name, "empty": False, "value": 0.5}),
            tooltip=tooltip,
        )
        .add_params(near)
    )
