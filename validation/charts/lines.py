"""Panels of lines over the steps, alone or stacked on one axis: rows in, an Altair chart out.

A zero, a NaN or a missing value is never drawn as a number: zeros are ticks on a rail below a logarithmic axis, missing
values crosses on a rail above it, and lines break where there is nothing. Colours come from the theme: these scales
have a fixed domain and no range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.hover import pointers
from validation.charts.panels import PLAIN, Panel, Style, own
from validation.frames.batches import Counted

Drawing = alt.LayerChart | alt.VConcatChart
INSIDE = 38  # pixels at both ends of stacked plots, for the labels within
PLACES = ",.10~g"  # steps, tokens or hours, without the noise of their last digits
FROM_ZERO = "datum.value < 0 ? '' : datum.label"
NARROW = "windowSize()[0] < 640"


def draw(panels: Sequence[Panel], style: Style = PLAIN, *, small: bool = False) -> Drawing:
    """One panel as a chart of its own; several above each other on one axis, which move and are read together.

    small: one panel as it would stand among others, for where there is little room.
    """
    colors, dashes = _colors(panels, 2 if small else len(theme.PARTS)), _dashes(panels)
    read = pointers(panels, style)
    if len(panels) == 1 and not small:
        y = alt.Axis(title=panels[0].title, format=".4~g")
        layers = _layers(0, panels[0], read[0], style, colors, dashes, alt.Axis(title=style.axis, format=PLACES), y)
        return _moved(alt.LayerChart(layer=layers, height=theme.LINES_HEIGHT), layers)
    # Inside the plot, the labels of all panels take no room beside it: plots stay aligned, also on a phone.
    inside = alt.Axis(
        title=None, format=".4~g", ticks=False, domain=False, labelAlign="left", labelBaseline="bottom", labelPadding=-4
    )
    charts = []
    for place, panel in enumerate(panels):
        last = panel is panels[-1]
        x = alt.Axis(title=style.axis if last else None, labels=last, ticks=last, labelExpr=FROM_ZERO, format=PLACES)
        height = "height" if small else str(theme.STACKED_HEIGHT)  # alone the page fits legends and axes into it
        layers = _layers(place, panel, read[place], style, colors, dashes, x, inside, height, padding=INSIDE)
        title = alt.Title(panel.title, anchor="start", fontSize=13, fontWeight="normal", offset=3)
        charts.append(
            alt.LayerChart(layer=layers, height=theme.SMALL_HEIGHT if small else theme.STACKED_HEIGHT, title=title)
        )
    if small:
        return _moved(charts[0], charts[0].layer)
    stacked: alt.VConcatChart = alt.vconcat(*charts, spacing=12).resolve_scale(x="shared")
    return _moved(stacked, [layer for panel in stacked.vconcat for layer in panel.layer])


def _moved(chart: Drawing, layers: Sequence[Any]) -> Drawing:
    """With the steps moved, zoomed and read off in all panels at once, which Altair's own way cannot say of layers."""
    named = [str(layer.name) for layer in layers if isinstance(layer.name, str)]
    # A pinch on a touch pad comes as a wheel with ctrl; with shift the wheel turns sideways, which is no zoom.
    wheel = "wheel![event.altKey || event.ctrlKey]"
    zoom = alt.IntervalSelectionConfig(type="interval", encodings=["x"], zoom=wheel)
    near = alt.PointSelectionConfig(type="point", nearest=True, on="pointermove", fields=["step"], clear="pointerout")
    lines, pointers = ([name for name in named if name.startswith(kind)] for kind in ("lines", "pointer"))
    chart.params = [
        alt.TopLevelSelectionParameter(name="zoom", select=zoom, bind="scales", views=lines),
        alt.TopLevelSelectionParameter(name="hover", select=near, views=pointers),
    ]
    return chart


def _colors(panels: Sequence[Panel], most: int) -> alt.Color:
    """By role and part, with a legend below the plot, where a phone has room for it, and a row for each role."""
    there = {name for panel in panels for name in panel.rows["series"].unique()}
    present = [name for name in theme.SERIES if name in there]
    columns = min(most, max(1, len({name.split()[1] for name in present})))
    legend = alt.Legend(
        title=None,
        orient="bottom",
        values=present,
        columns=alt.ExprRef(f"{NARROW} ? {min(2, columns)} : {columns}"),
        symbolType="stroke",
        symbolOpacity=1,
        symbolStrokeWidth=3,
    )
    return alt.Color("series:N", scale=alt.Scale(domain=theme.SERIES), legend=legend if present else None)


def _dashes(panels: Sequence[Panel]) -> alt.StrokeDash:
    """By expert: solid for the clean one and the first perturbed one, whose colours differ; then a pattern for each."""
    experts = sorted({int(expert) for panel in panels for expert in panel.rows["expert"].unique()})
    own = [expert for expert in experts if expert >= 0]
    ranges = [theme.EXPERT_DASHES[max(0, expert - 1) % len(theme.EXPERT_DASHES)] for expert in experts]
    legend = alt.Legend(
        title="Expert",
        titleOrient="left",
        orient="top",
        values=own,
        columns=alt.ExprRef(f"{NARROW} ? 4 : 8"),
        symbolType="stroke",
        symbolOpacity=1,
        symbolStrokeWidth=2,
        symbolSize=300,
        titleFontWeight="normal",
    )
    return alt.StrokeDash(
        "expert:N", scale=alt.Scale(domain=experts, range=ranges), legend=legend if len(own) > 1 else None
    )


def _layers(
    place: int,
    panel: Panel,
    pointer: alt.Chart,
    style: Style,
    color: alt.Color,
    dash: alt.StrokeDash,
    x_axis: alt.Axis,
    y_axis: alt.Axis,
    height: str = "height",
    padding: int = 0,
) -> list[alt.Chart]:
    """Everything in one plot. height: of the plot, which only the chart itself knows where axes are fitted in."""
    x = alt.X("step:Q", axis=x_axis, scale=alt.Scale(nice=False, padding=padding))
    y = alt.Y("value:Q", axis=y_axis, scale=panel.scale)
    plain: Any = alt.Color("series:N", scale=alt.Scale(domain=theme.SERIES), legend=None)
    legend: Any = color
    if not set(panel.rows["series"].unique()) & set(theme.SERIES):  # the loss is no expert's
        plain = legend = alt.ColorValue(theme.GREY)
    columns = ["expert", "series", "step", "value"]
    rows = _broken(panel.drawn[columns], style.gaps)
    batches = _batches(panel, style.counted, x, y, plain) if style.counted is not None else []
    faint = style.smooth is not None or batches
    # The pointer tells the values; the page would make words of every row, which takes longer than to draw them.
    line = alt.Chart(rows).mark_line(
        clip=True, strokeWidth=0.7 if faint else 1.7, opacity=0.35 if faint else 1.0, tooltip=None
    )
    ends = alt.Chart(pd.DataFrame({"value": panel.ends})).mark_point(opacity=0, size=0, tooltip=None)
    layers = [line.encode(x=x, y=y, color=legend, strokeDash=dash).properties(name=f"lines{place}"), ends.encode(y=y)]
    if style.smooth is not None:
        smooth = _broken(own(style.smooth, panel)[columns], style.gaps)
        over = alt.Chart(smooth).mark_line(strokeWidth=2.2, clip=True, tooltip=None)
        layers.append(over.encode(x=x, y=y, color=legend, strokeDash=dash))
    layers += [chart.encode(x=x, y=y, color=plain) for chart in _lonely(rows)]
    if style.counted is not None:
        layers = [*_shaded(style.counted), *layers, *batches]
    layers += [layer for value, label in panel.thresholds for layer in _threshold(value, label)]
    layers += _rails(panel, plain, height)
    return [*layers, pointer.properties(name=f"pointer{place}")]


def _broken(rows: pd.DataFrame, gaps: Sequence[tuple[float, float]]) -> pd.DataFrame:
    """The rows with an empty one in each gap, so that no line is drawn across it."""
    rows = rows.reset_index(drop=True)  # any other index would travel to the browser as well
    inside = [(a + b) / 2 for a, b in gaps if len(rows) and a >= rows["step"].min() and b <= rows["step"].max()]
    if not inside:
        return rows
    lines = rows[["expert", "series"]].drop_duplicates()
    empty = lines.merge(pd.DataFrame({"step": inside, "value": np.nan}), how="cross")
    return pd.concat([rows, empty], ignore_index=True)


def _lonely(rows: pd.DataFrame) -> list[alt.Chart]:
    """Rows with no finite neighbour in their own line, which a line would not show."""
    finite = rows.assign(there=rows["value"].notna()).sort_values("step", kind="stable")
    lines = finite.groupby(["expert", "series"], observed=True)["there"]
    lonely = finite["there"] & ~lines.shift(1, fill_value=False) & ~lines.shift(-1, fill_value=False)
    chart = alt.Chart(finite[lonely].drop(columns="there").reset_index(drop=True))
    return [chart.mark_point(filled=True, size=22, clip=True)] if lonely.any() else []


def _batches(panel: Panel, counted: Counted, x: alt.X, y: alt.Y, color: alt.Color) -> list[alt.Chart]:
    """The mean of each batch, as long as the batch is."""
    means = own(counted.batches, panel)
    means = means[(means["value"] > 0) | (not panel.logarithmic)].drop(columns="metric")
    if not len(means):
        return []
    tooltip = [
        alt.Tooltip("series:N", title="batch mean of"),
        alt.Tooltip("expert:N"),
        alt.Tooltip("value:Q", format=".4g"),
        alt.Tooltip("step:Q", title="from step", format=",.0f"),
        alt.Tooltip("last:Q", title="to step", format=",.0f"),
    ]
    chart = alt.Chart(means.reset_index(drop=True)).mark_rule(strokeWidth=3.5, strokeCap="round", clip=True)
    return [chart.encode(x=x, x2=alt.X2("last:Q"), y=y, color=color, tooltip=tooltip)]


def _shaded(counted: Counted) -> list[alt.Chart]:
    """The steps that the verdict leaves out, and why."""
    if not counted.left_out:
        return []
    spans = pd.DataFrame(counted.left_out, columns=["step", "last", "why"])
    # A word must fit into its span; the pointer tells of all of them.
    wide = spans["last"] - spans["step"] > 0.08 * counted.whole
    middle = spans[wide].assign(step=(spans["step"] + spans["last"]) / 2)
    return [
        alt.Chart(spans)
        .mark_rect(color=theme.GREY, opacity=0.16, clip=True)
        .encode(x=alt.X("step:Q"), x2=alt.X2("last:Q"), tooltip=alt.Tooltip("why:N")),
        alt.Chart(middle)
        .mark_text(baseline="top", dy=14, color=theme.GREY, fontSize=12, clip=True)
        .encode(x=alt.X("step:Q"), y=alt.YValue(0), text=alt.Text("why:N")),
    ]


def _threshold(value: float, label: str) -> list[alt.Chart]:
    """A line across, named on a tag of its own, which stays readable on any line."""
    data = pd.DataFrame({"value": [value], "label": [label]})
    chart = alt.Chart(data).encode(y=alt.Y("value:Q"))
    return [
        chart.mark_rule(strokeDash=theme.THRESHOLD_DASH, strokeWidth=1.5, color=theme.GREY),
        chart.mark_bar(orient="horizontal", size=17, color=theme.TAG, cornerRadius=3).encode(
            x=alt.XValue(0), x2=alt.X2Value(12 + 6.3 * len(label))
        ),
        chart.mark_text(align="left", dx=6, color=theme.ON_TAG, fontSize=12).encode(
            x=alt.XValue(0), text=alt.Text("label:N")
        ),
    ]


def _rails(panel: Panel, color: alt.Color, height: str) -> list[alt.Chart]:
    """Zeros below a logarithmic axis, missing and non-finite values above: seen, and never at a made-up height."""
    marks = []
    for rows, shape, place, label in (
        (panel.logarithmic & (panel.values == 0), "triangle-down", f"{height} - 5", "zero"),
        (~np.isfinite(panel.values), "cross", "6", "no finite value"),
    ):
        if rows.any():
            chosen = panel.rows.loc[rows, ["step", "series", "expert"]].assign(what=label)
            chosen = chosen.iloc[:: max(1, len(chosen) // 1000)].reset_index(drop=True)
            mark = alt.Chart(chosen).mark_point(shape=shape, filled=True, size=28, opacity=0.8, clip=True)
            marks.append(
                mark.encode(
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
