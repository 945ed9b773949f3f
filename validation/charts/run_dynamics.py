"""Views of the Dynamics page: tier norms, divergence, direction, routing share and loss over the steps, with titles."""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import numpy as np
import pandas as pd

from prismatic.contract.schema import PEER
from validation.charts import theme
from validation.charts.lines import LineChart, draw_panels
from validation.charts.panels import Panel
from validation.frames.run_dynamics import DEFAULT_STYLE, TIER_METRICS, Style

MAX_ROWS = 6  # experts with a row each in the chart of scores


def overview(steps: np.ndarray, values: np.ndarray, title: str) -> alt.Chart:
    """Return a small chart of the whole run with a brush named "range"."""
    brush = alt.selection_interval(name="range", encodings=["x"])
    return (
        alt.Chart(pd.DataFrame({"step": steps, "value": values}), height=theme.OVERVIEW_HEIGHT)
        .mark_line(strokeWidth=1, color=theme.GREY, tooltip=None)
        .encode(
            x=alt.X("step:Q", title="Drag over a range to see it at full resolution", scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", title=title, axis=alt.Axis(ticks=False, labels=False), scale=alt.Scale(zero=False)),
        )
        .add_params(brush)
    )


def scores(score: pd.DataFrame, *, supported: float, refuted: float) -> alt.LayerChart:
    """Return the mean divergence score of each expert and its two thresholds. score: rows of expert, role and value."""
    found = score[np.isfinite(score["value"]) & (score["value"] > 0)]
    marks = [supported, refuted, *found["value"]]
    scale = alt.Scale(type="log", domain=[min(marks) / 2, max(marks) * 2], nice=False)
    x_axis = alt.Axis(
        title="Mean divergence score, log scale",
        values=[refuted, supported],
        format="~g",
        grid=False,
        domain=False,
        ticks=False,
    )
    x = alt.X("value:Q", scale=scale, axis=x_axis)
    # A row for each expert; many experts share a row for each role, and the tooltip names the expert.
    by, name = ("expert", "'expert ' + datum.label") if len(score) <= MAX_ROWS else ("role", "datum.label")
    rows = score[by].unique().tolist()
    y_axis = alt.Axis(title=None, ticks=False, domain=False, labelExpr=name, labelOverlap=False)
    y = alt.Y(f"{by}:N", sort=rows, axis=y_axis)
    thresholds = alt.Chart(pd.DataFrame({"value": [refuted, supported]}))
    color = alt.Color("series:N", scale=alt.Scale(domain=theme.SERIES), legend=None)
    tooltip = [
        alt.Tooltip("expert:N", title="Expert"),
        alt.Tooltip("role:N", title="Role"),
        alt.Tooltip("value:Q", title="Mean divergence score (loss / weight)", format=".4g"),
    ]
    points = alt.Chart(found.assign(series=found["role"] + " whole")).mark_point(filled=True, size=90, opacity=1)
    layers = [
        thresholds.mark_rule(strokeDash=theme.THRESHOLD_DASH, strokeWidth=1.5, color=theme.GREY).encode(x=x),
        points.encode(x=x, y=y, color=color, tooltip=tooltip),
    ]
    return alt.layer(*layers).properties(height=76 + 20 * len(rows)).configure_view(stroke=None)


def tier_norms(rows: pd.DataFrame, style: Style = DEFAULT_STYLE, *, small: bool = False) -> LineChart:
    """Return the gradient norms of every expert and tier; the norms of whole gradients if the rows have no tiers.

    rows: expert, role, metric, step and value, here and below.
    """
    return draw_panels([_norms(rows, style)], style, small=small)


def tier_panels(rows: pd.DataFrame, style: Style = DEFAULT_STYLE) -> LineChart:
    """Return the gradient norms in one panel per tier."""
    panels = [
        _panel(rows, metric, f"{tier.capitalize()} tier: {style.norm[:1].lower()}{style.norm[1:]}", tier)
        for metric, tier in TIER_METRICS.items()
    ]
    return draw_panels(panels, style)


def divergence(rows: pd.DataFrame, style: Style = DEFAULT_STYLE, *, supported: float, refuted: float) -> LineChart:
    """Return the documented divergence score with its two thresholds."""
    return draw_panels([_divergence(rows, supported, refuted)], style)


def direction(rows: pd.DataFrame, style: Style = DEFAULT_STYLE) -> LineChart:
    """Return 1 - cosine between the gradient of each expert and that of expert 0."""
    compared = rows[rows["expert"] != 0]
    panel = _panel(compared, "direction", "Direction (1 - cosine to expert 0)", log=False)
    return draw_panels([replace(panel, label="direction")], style)


def routing(rows: pd.DataFrame, style: Style = DEFAULT_STYLE) -> LineChart:
    """Return the routing share of each expert."""
    return draw_panels([routing_panel(rows)], style)


def loss(rows: pd.DataFrame, style: Style = DEFAULT_STYLE) -> LineChart:
    """Return the training loss."""
    return draw_panels([_loss(rows)], style)


def together(rows: pd.DataFrame, style: Style = DEFAULT_STYLE, *, supported: float, refuted: float) -> LineChart:
    """Return norms, divergence, routing shares and loss, stacked on one axis, without panels that have no values.

    The documented divergence is from a clean expert, which peers have not.
    """
    scored = [] if (rows["role"] == PEER).any() else [_divergence(rows, supported, refuted)]
    panels = [_norms(rows, style), *scored, routing_panel(rows), _loss(rows)]
    filled = [panel for panel in panels if panel.rows["value"].notna().any()]
    return draw_panels(filled or panels[:1], style)


def _norms(rows: pd.DataFrame, style: Style) -> Panel:
    tiers = rows["metric"].isin(TIER_METRICS)
    parts = TIER_METRICS if rows.loc[tiers, "value"].notna().any() else {"norm": "whole"}
    own = rows[rows["metric"].isin(parts)]
    return Panel(style.norm, _with_series(own, own["metric"].map(parts)), log=True)


def _divergence(rows: pd.DataFrame, supported: float, refuted: float) -> Panel:
    panel = _panel(rows[rows["expert"] != 0], "divergence", "Divergence score (loss / weight)")
    thresholds = ((supported, f"> {supported:g} diverges"), (refuted, f"< {refuted:g} does not"))
    return replace(panel, thresholds=thresholds, label="divergence")


def routing_panel(rows: pd.DataFrame) -> Panel:
    """Return the panel of routing shares."""
    panel = _panel(rows, "routing_weight", "Routing share", log=False)
    return replace(panel, include=(0.0, 1.0), label="share")


def _loss(rows: pd.DataFrame) -> Panel:
    return replace(_panel(rows, "loss", "Loss (nats per token)", log=False), from_zero=False)


def _panel(rows: pd.DataFrame, metric: str, title: str, part: str = "whole", *, log: bool = True) -> Panel:
    own = rows[rows["metric"] == metric]
    return Panel(title, _with_series(own, pd.Series(part, own.index)), log=log)


def _with_series(rows: pd.DataFrame, parts: pd.Series) -> pd.DataFrame:
    """Return the rows with the column `series`, role and part, for the colour; the loss belongs to no expert."""
    roles = rows["role"].astype(str)
    of_peers = f"{PEER} " + (rows["expert"] % theme.MAX_PEERS).astype(str)
    names = np.where(roles == PEER, of_peers, roles + " " + parts.astype(str))
    series = np.where(rows["metric"] == "loss", "loss", names)
    return rows.assign(series=pd.Categorical(series)).drop(columns="role")
