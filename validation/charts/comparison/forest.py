"""The forest plot: a line for each run, a diamond for each group, the margin as a band, the numbers at the right."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from validation.charts import theme
from validation.charts.comparison.axes import FACTOR, NUMBER
from validation.charts.ticks import factor_ticks
from validation.frames.comparison.forest import HEADING, POOLED, RUN, Forest
from validation.verdict.groups import PEERS, POSITIVE, SHAM, TREATED

ROW, AXIS_ROOM = 22, 76  # pixels of a row, and of the axis with its title
NUMBERS_WIDTH = 130  # pixels to the right of the plot
COLORS = {TREATED: theme.ESTIMATE, POSITIVE: theme.POSITIVE_CONTROL, SHAM: theme.GREY, PEERS: theme.ESTIMATE}
COLOR = alt.Color("role:N", scale=alt.Scale(domain=[*COLORS], range=[*COLORS.values()]), legend=None)
TEXT_COLOR = alt.Color("ink:N", scale=alt.Scale(domain=theme.COLORS), legend=None)
INK = theme.GROUPS[5]  # nearly black on a light page, nearly white on a dark one


def forest_chart(data: Forest, title: str, needed: str) -> alt.LayerChart:
    """Return the forest plot. title: of the axis. needed: what stands at the threshold."""
    # Lines are told apart by their place: two seeds of different groups have one label.
    rows = data.rows.assign(ink=INK)
    rows["line"] = [f"{place:05} {label}" for place, label in zip(rows["place"], rows["label"], strict=True)]
    y = alt.Y(
        "line:N",
        title=None,
        scale=alt.Scale(domain=rows["line"].tolist(), padding=0),
        axis=alt.Axis(labelExpr="slice(datum.label, 6)", labelLimit=140, ticks=False, domain=False, grid=False),
    )
    layers = [*_background(data, title, needed), *_lines(rows, data.edge, y), *_texts(rows, y)]
    chart = alt.LayerChart(layer=layers, height=ROW * len(rows) + AXIS_ROOM)
    return chart.resolve_scale(color="independent")


def _background(data: Forest, title: str, needed: str) -> list[alt.Chart]:
    """Return the band of effects that are too small to count, the line at no effect, and the thresholds."""
    scale = alt.Scale(domain=[-data.edge, data.edge], nice=False)
    x = alt.X("value:Q", title=title, scale=scale, axis=_axis(data))
    small = {"value": [-data.margin if data.two_sided else -data.edge], "until": [data.margin]}
    limits = [data.margin, -data.margin] if data.two_sided else [data.margin]
    none, limit = pd.DataFrame({"value": [0.0]}), pd.DataFrame({"value": limits})
    words = pd.DataFrame({"value": [0.0, data.margin], "words": ["no effect", needed], "ink": INK})
    label = {"y": alt.YValue(-8), "text": alt.Text("words:N"), "color": TEXT_COLOR}
    return [
        alt.Chart(pd.DataFrame(small)).mark_rect(color=theme.GREY, opacity=0.16).encode(x=x, x2=alt.X2("until:Q")),
        alt.Chart(none).mark_rule(color=theme.GREY).encode(x=x),
        alt.Chart(limit).mark_rule(color=theme.GREY, strokeDash=theme.THRESHOLD_DASH).encode(x=x),
        alt.Chart(words.head(1)).mark_text(align="right", dx=4, fontSize=11).encode(x=x, **label),
        alt.Chart(words.tail(1)).mark_text(align="left", dx=-2, fontSize=11).encode(x=x, **label),
    ]


def _axis(data: Forest) -> alt.Axis:
    if not data.is_factor:
        return alt.Axis(labelExpr=NUMBER, tickCount=5, grid=False)
    ticks = factor_ticks(math.exp(-data.edge), math.exp(data.edge), most=6)
    return alt.Axis(labelExpr=FACTOR, values=[math.log(tick) for tick in ticks], grid=False)


def _lines(rows: pd.DataFrame, edge: float, y: alt.Y) -> list[alt.Chart]:
    """Return intervals and estimates; what lies beyond the axis is a triangle at its edge."""
    tooltip = [alt.Tooltip(f"{name}:N", title=name.capitalize()) for name in ("run", "label", "estimate")]
    rows = rows.assign(estimate=rows["text"])
    layers = []
    for kind, width, shape, size in ((RUN, 1.5, "circle", 36), (POOLED, 3, "diamond", 150)):
        some = rows[rows["kind"] == kind]
        bounded, inside = some[some["low"].notna()], some[some["value"].abs() < edge]
        rule = alt.Chart(bounded).mark_rule(strokeWidth=width)
        point = alt.Chart(inside).mark_point(shape=shape, size=size, filled=True, opacity=1)
        layers += [
            rule.encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, color=COLOR, tooltip=tooltip),
            point.encode(x=alt.X("value:Q"), y=y, color=COLOR, tooltip=tooltip),
        ]
    for side, name, shape in ((-edge, "below", "triangle-left"), (edge, "above", "triangle-right")):
        beyond = rows[rows[name].astype(bool)].assign(side=side)
        arrow = alt.Chart(beyond).mark_point(shape=shape, size=60, filled=True, opacity=1)
        layers.append(arrow.encode(x=alt.X("side:Q"), y=y, color=COLOR, tooltip=tooltip))
    return layers


def _texts(rows: pd.DataFrame, y: alt.Y) -> list[alt.Chart]:
    """Return the headings of the groups, and the numbers of each line."""
    headings, numbers = rows[rows["kind"] == HEADING], rows[rows["text"] != ""]
    limit = alt.ExprRef(f"width + {NUMBERS_WIDTH}")
    heading = alt.Chart(headings).mark_text(align="left", dx=4, fontWeight="bold", fontSize=12, limit=limit)
    layers = [heading.encode(x=alt.XValue(0), y=y, text=alt.Text("run:N"), color=TEXT_COLOR)]
    for bold in (True, False):
        text = alt.Chart(numbers[(numbers["kind"] == POOLED) == bold]).mark_text(
            align="left", dx=8, fontWeight="bold" if bold else "normal", fontSize=11
        )
        layers.append(text.encode(x=alt.XValue("width"), y=y, text=alt.Text("text:N"), color=TEXT_COLOR))
    return layers
