"""Data frames in, charts out: what each view of a run draws. How lines are drawn is said in charts_lines."""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.lines import Drawing, draw
from validation.charts.panels import PLAIN, Panel, Style

ROWS = 6  # of a small chart
TIER_METRICS = {"top_norm": "top", "bottom_norm": "bottom", "middle_norm": "middle"}


def overview(steps: np.ndarray, values: np.ndarray, title: str) -> alt.Chart:
    """A small chart of the whole run with a brush named "range"."""
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
    """The documented score of each expert against its two thresholds; score has expert, role and value."""
    found = score[np.isfinite(score["value"]) & (score["value"] > 0)]
    marks = [supported, refuted, *found["value"]]
    x = alt.X(
        "value:Q",
        scale=alt.Scale(type="log", domain=[min(marks) / 2, max(marks) * 2], nice=False),
        axis=alt.Axis(
            title="Mean divergence score, log scale",
            values=[refuted, supported],
            format="~g",
            grid=False,
            domain=False,
            ticks=False,
        ),
    )
    # A row for each expert; of many, a row for each role, where the pointer tells which is which.
    by, said = ("expert", "'expert ' + datum.label") if len(score) <= ROWS else ("role", "datum.label")
    rows = score[by].unique().tolist()
    names = alt.Axis(title=None, ticks=False, domain=False, labelExpr=said, labelOverlap=False)
    y = alt.Y(f"{by}:N", sort=rows, axis=names)
    limits = alt.Chart(pd.DataFrame({"value": [refuted, supported]}))
    color = alt.Color("series:N", scale=alt.Scale(domain=theme.SERIES), legend=None)
    tooltip = [
        alt.Tooltip("expert:N"),
        alt.Tooltip("role:N"),
        alt.Tooltip("value:Q", title="mean divergence score", format=".4g"),
    ]
    points = alt.Chart(found.assign(series=found["role"] + " whole")).mark_point(filled=True, size=90, opacity=1)
    layers = [
        limits.mark_rule(strokeDash=theme.THRESHOLD_DASH, strokeWidth=1.5, color=theme.GREY).encode(x=x),
        points.encode(x=x, y=y, color=color, tooltip=tooltip),
    ]
    return alt.layer(*layers).properties(height=76 + 20 * len(rows)).configure_view(stroke=None)


def tier_norms(long: pd.DataFrame, style: Style = PLAIN, *, small: bool = False) -> Drawing:
    """Gradient norms of every expert and tier over the steps; long has expert, role, metric, step, value.

    Of a file without any tier the norms of the whole gradients.
    """
    return draw([_norms(long)], style, small=small)


def tier_panels(long: pd.DataFrame, style: Style = PLAIN) -> Drawing:
    """The same lines, one panel per tier."""
    return draw(
        [
            _panel(long, metric, f"{part.capitalize()} norm (loss / weight)", part)
            for metric, part in TIER_METRICS.items()
        ],
        style,
    )


def divergence(long: pd.DataFrame, style: Style = PLAIN, *, supported: float, refuted: float) -> Drawing:
    """The documented divergence score over the steps, with its two thresholds."""
    return draw([_divergence(long, supported, refuted)], style)


def direction(long: pd.DataFrame, style: Style = PLAIN) -> Drawing:
    """1 - cosine between each expert's gradient and the clean expert's."""
    compared = long[long["role"] != "clean"]
    one = _panel(compared, "direction", "Direction (1 - cosine to expert 0)", log=False)
    return draw([replace(one, word="direction")], style)


def routing(long: pd.DataFrame, style: Style = PLAIN) -> Drawing:
    """Each expert's share of the batch."""
    return draw([shares(long)], style)


def loss(long: pd.DataFrame, style: Style = PLAIN) -> Drawing:
    """Training loss over the steps."""
    return draw([_loss(long)], style)


def together(long: pd.DataFrame, style: Style = PLAIN, *, supported: float, refuted: float) -> Drawing:
    """Norms, divergence, routing shares and loss, one above the other on one axis; what the file lacks is left out."""
    panels = [_norms(long), _divergence(long, supported, refuted), shares(long), _loss(long)]
    there = [panel for panel in panels if panel.rows["value"].notna().any()]
    return draw(there or panels[:1], style)


def _norms(long: pd.DataFrame) -> Panel:
    tiers = long["metric"].isin(TIER_METRICS)
    parts = TIER_METRICS if long.loc[tiers, "value"].notna().any() else {"norm": "whole"}
    rows = long[long["metric"].isin(parts)]
    return Panel("Gradient norm (loss / weight)", _named(rows, rows["metric"].map(parts)), log=True)


def _divergence(long: pd.DataFrame, supported: float, refuted: float) -> Panel:
    one = _panel(long[long["role"] != "clean"], "divergence", "Divergence score (loss / weight)")
    thresholds = ((supported, f"> {supported:g} diverges"), (refuted, f"< {refuted:g} does not"))
    return replace(one, thresholds=thresholds, word="divergence")


def shares(long: pd.DataFrame) -> Panel:
    """The routing shares as a panel."""
    one = _panel(long, "routing_weight", "Routing share", log=False)
    return replace(one, include=(0.0, 1.0), word="share")


def _loss(long: pd.DataFrame) -> Panel:
    one = _panel(long, "loss", "Loss (nats per token)", log=False)
    return replace(one, from_zero=False)


def _panel(long: pd.DataFrame, metric: str, title: str, part: str = "whole", *, log: bool = True) -> Panel:
    rows = long[long["metric"] == metric]
    return Panel(title, _named(rows, pd.Series(part, rows.index)), log=log)


def _named(rows: pd.DataFrame, parts: pd.Series) -> pd.DataFrame:
    """The rows with their series: role and part, which the colour tells; the loss is no expert's."""
    series = np.where(rows["metric"] == "loss", "loss", rows["role"].astype(str) + " " + parts.astype(str))
    return rows.assign(series=pd.Categorical(series)).drop(columns="role")
