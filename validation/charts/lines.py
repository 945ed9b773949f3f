"""Lines over the steps, in one panel or stacked: zeros, missing values, gaps, bins, thresholds, zoom and legends.

Zeros and missing values have no height: zeros are triangles below a logarithmic axis, missing values are crosses at the
top, and lines break there. Colour scales have the domain theme.SERIES and no range; the page or the report has the
colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from validation.charts import theme
from validation.charts.end_labels import NARROW, end_labels, has_end_labels
from validation.charts.hover import hover_layers
from validation.charts.panels import Panel, panel_rows
from validation.frames.bins import VerdictBins
from validation.frames.run_dynamics import DEFAULT_STYLE, Style

LineChart = alt.LayerChart | alt.VConcatChart
INSIDE = 38  # pixels at both ends of stacked plots, for the labels inside
X_FORMAT = ",.10~g"  # steps, tokens or hours, without rounding errors in the last digits
AXIS_PIXELS = 90  # of a chart's height that its horizontal axis takes on a page
FAINT_LINE, LINE, CLEAN_LINE = 0.7, 1.6, 3.4  # widths in pixels
DENSE = 250  # points of a line that fill its band
FROM_ZERO = "datum.value < 0 ? '' : datum.label"


def draw_panels(panels: Sequence[Panel], style: Style = DEFAULT_STYLE, *, small: bool = False) -> LineChart:
    """Return one panel as a chart, or several stacked on one axis that zoom and show their tooltip together.

    small: draw one panel as in a stack, with the labels of its axis inside the plot.
    """
    hover = hover_layers(panels, style)
    if len(panels) == 1 and not small:
        return _single(panels[0], hover[0], style)
    colors, dashes = _colors(panels, 2 if small else len(theme.PARTS)), _dashes(panels)
    # Labels inside the plot take no room beside it, so that stacked plots stay aligned, also on a phone.
    look: dict[str, Any] = {
        "ticks": False,
        "domain": False,
        "labelAlign": "left",
        "labelBaseline": "bottom",
        "labelPadding": -4,
    }
    charts = []
    for place, panel in enumerate(panels):
        inside = panel.axis(title=None, **look)
        last = panel is panels[-1]
        x = alt.Axis(title=style.axis if last else None, labels=last, ticks=last, labelExpr=FROM_ZERO, format=X_FORMAT)
        height = "height" if small else str(theme.STACKED_HEIGHT)  # a small chart shares its height with its axes
        layers = _layers(place, panel, hover[place], style, colors, dashes, x, inside, height, padding=INSIDE)
        title = alt.Title(panel.title, anchor="start", fontSize=13, fontWeight="normal", offset=3)
        charts.append(
            alt.LayerChart(layer=layers, height=theme.SMALL_HEIGHT if small else theme.STACKED_HEIGHT, title=title)
        )
    if small:
        return _interactive(charts[0], charts[0].layer)
    stacked: alt.VConcatChart = alt.vconcat(*charts, spacing=12).resolve_scale(x="shared")
    return _interactive(stacked, [layer for panel in stacked.vconcat for layer in panel.layer])


def _single(panel: Panel, pointer: alt.Chart, style: Style) -> LineChart:
    """Return one panel with labels at the ends of its lines, or with legends where there is no room for labels."""
    labelled, plot = has_end_labels(panel), style.height or theme.LINES_HEIGHT - AXIS_PIXELS
    colors, dashes = _colors([panel], len(theme.PARTS), legends=not labelled), _dashes([panel], legends=not labelled)
    x = alt.Axis(title=style.axis, format=X_FORMAT, ticks=True, domain=True, grid=False)
    y = panel.axis(title=panel.title, minor=True)
    layers = _layers(0, panel, pointer, style, colors, dashes, x, y)
    if labelled:
        layers += end_labels(panel, plot, colors, dashes)
    return _interactive(alt.LayerChart(layer=layers, height=theme.LINES_HEIGHT), layers)


def _interactive(chart: LineChart, layers: Sequence[Any]) -> LineChart:
    """Add pan, zoom and pointer of all panels at once. Altair's own way cannot bind a selection to chosen layers."""
    named = [str(layer.name) for layer in layers if isinstance(layer.name, str)]
    # A pinch on a touch pad arrives as a wheel event with ctrl; shift turns the wheel into a sideways scroll.
    wheel = "wheel![event.altKey || event.ctrlKey]"
    zoom = alt.IntervalSelectionConfig(type="interval", encodings=["x"], zoom=wheel)
    near = alt.PointSelectionConfig(type="point", nearest=True, on="pointermove", fields=["step"], clear="pointerout")
    lines, rules = ([name for name in named if name.startswith(kind)] for kind in ("lines", "pointer"))
    chart.params = [
        alt.TopLevelSelectionParameter(name="zoom", select=zoom, bind="scales", views=lines),
        alt.TopLevelSelectionParameter(name="hover", select=near, views=rules),
    ]
    return chart


def _colors(panels: Sequence[Panel], most: int, *, legends: bool = True) -> alt.Color:
    """Return the colour by role and part, or by peer, with a legend below the plot, where a phone has room for it."""
    there = {name for panel in panels for name in panel.rows["series"].unique()}
    present = [name for name in theme.SERIES if name in there]
    peers = [name for name in present if name in theme.PEERS]
    columns = min(2 * most if peers else most, max(1, len({name.split()[1] for name in present})))
    legend = alt.Legend(
        title=None,
        labelExpr="replace(datum.label, 'peer', 'expert')" if peers else alt.Undefined,
        orient="bottom",
        values=present,
        columns=alt.ExprRef(f"{NARROW} ? {min(2, columns)} : {columns}"),
        symbolType="stroke",
        symbolOpacity=1,
        symbolStrokeWidth=3,
    )
    legends = legends and bool(present) and not _repeat(panels)
    return alt.Color("series:N", scale=alt.Scale(domain=theme.SERIES), legend=legend if legends else None)


def _repeat(panels: Sequence[Panel]) -> bool:
    """Return True if two peers share a colour, so that a legend of colours names none."""
    lines = pd.concat([panel.rows[["expert", "series"]] for panel in panels]).drop_duplicates()
    return bool(lines.loc[lines["series"].isin(theme.PEERS), "series"].duplicated().any())


def _dashes(panels: Sequence[Panel], *, legends: bool = True) -> alt.StrokeDash:
    """Return the dash by expert: solid for experts 0 and 1, whose colours differ, then a pattern for each."""
    experts = sorted({int(expert) for panel in panels for expert in panel.rows["expert"].unique()})
    named = [expert for expert in experts if expert >= 0]
    colors = any(panel.rows["series"].isin(theme.PEERS).any() for panel in panels) and not _repeat(panels)
    legends = legends and not colors  # which name the peers
    ranges = [theme.EXPERT_DASHES[max(0, expert - 1) % len(theme.EXPERT_DASHES)] for expert in experts]
    legend = alt.Legend(
        title="Expert",
        titleOrient="left",
        orient="top",
        values=named,
        columns=alt.ExprRef(f"{NARROW} ? 4 : 8"),
        symbolType="stroke",
        symbolOpacity=1,
        symbolStrokeWidth=2,
        symbolSize=300,
        titleFontWeight="normal",
    )
    return alt.StrokeDash(
        "expert:N", scale=alt.Scale(domain=experts, range=ranges), legend=legend if len(named) > 1 and legends else None
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
    """Return all layers of one plot. height: a Vega expression of the height of the plot in pixels."""
    x = alt.X("step:Q", axis=x_axis, scale=alt.Scale(nice=False, padding=padding))
    y = alt.Y("value:Q", axis=y_axis, scale=panel.scale)
    plain: Any = alt.Color("series:N", scale=alt.Scale(domain=theme.SERIES), legend=None)
    legend: Any = color
    if not set(panel.rows["series"].unique()) & set(theme.SERIES):  # the loss belongs to no expert
        plain = legend = alt.ColorValue(theme.GREY)
    columns = ["expert", "series", "step", "value"]
    rows = _broken(panel.drawable[columns], style.gaps)
    bins = _bins(panel, style.bins, x, y, plain) if style.bins is not None else []
    faint = style.smooth is not None or bins
    # Tooltips come from the pointer: a tooltip for every row would take the page longer than drawing the lines.
    line = alt.Chart(rows).mark_line(clip=True, opacity=0.35 if faint else 1.0, tooltip=None)
    ends = alt.Chart(pd.DataFrame({"value": panel.extent})).mark_point(opacity=0, size=0, tooltip=None)
    line = line.encode(x=x, y=y, color=legend, strokeDash=dash)
    line = line.encode(strokeWidth=alt.StrokeWidthValue(FAINT_LINE) if faint else _width(rows))
    layers = [line.properties(name=f"lines{place}"), ends.encode(y=alt.Y("value:Q", scale=panel.scale))]
    if style.smooth is not None:
        smooth = _broken(panel_rows(style.smooth, panel)[columns], style.gaps)
        medians = alt.Chart(smooth).mark_line(strokeWidth=2.2, clip=True, tooltip=None)
        layers.append(medians.encode(x=x, y=y, color=legend, strokeDash=dash))
    layers += [chart.encode(x=x, y=y, color=plain) for chart in _isolated_points(rows)]
    if style.bins is not None:
        layers = [*_skipped(style.bins), *layers, *bins]
    layers += [layer for value, label in panel.thresholds for layer in _threshold(value, label, padding)]
    layers += _rails(panel, plain, height)
    return [*layers, pointer.properties(name=f"pointer{place}")]


def _width(rows: pd.DataFrame) -> alt.StrokeWidthValue:
    """Return the width of lines: the clean expert's is wider, to be seen below lines that fall on it, unless dense."""
    if len(rows) > DENSE * len(rows[["expert", "series"]].drop_duplicates()):
        return alt.StrokeWidthValue(LINE)
    if rows["series"].isin(theme.PEERS).any():
        return alt.StrokeWidthValue(LINE)
    wide: Any = {"test": "datum.expert === 0", "value": CLEAN_LINE}
    return alt.StrokeWidthValue(LINE, condition=wide)


def _broken(rows: pd.DataFrame, gaps: Sequence[tuple[float, float]]) -> pd.DataFrame:
    """Return the rows with a missing value in each gap, so that no line crosses it."""
    rows = rows.reset_index(drop=True)  # any other index would be sent to the browser
    inside = [(a + b) / 2 for a, b in gaps if len(rows) and a >= rows["step"].min() and b <= rows["step"].max()]
    if not inside:
        return rows
    lines = rows[["expert", "series"]].drop_duplicates()
    empty = lines.merge(pd.DataFrame({"step": inside, "value": np.nan}), how="cross")
    return pd.concat([rows, empty], ignore_index=True)


def _isolated_points(rows: pd.DataFrame) -> list[alt.Chart]:
    """Return points for values without a neighbour in their line, which the line does not show."""
    finite = rows.assign(there=rows["value"].notna()).sort_values("step", kind="stable")
    lines = finite.groupby(["expert", "series"], observed=True)["there"]
    alone = finite["there"] & ~lines.shift(1, fill_value=False) & ~lines.shift(-1, fill_value=False)
    chart = alt.Chart(finite[alone].drop(columns="there").reset_index(drop=True))
    return [chart.mark_point(filled=True, size=22, clip=True)] if alone.any() else []


def _bins(panel: Panel, bins: VerdictBins, x: alt.X, y: alt.Y, color: alt.Color) -> list[alt.Chart]:
    """Return the mean of each bin as a bar from its first to its last step."""
    means = panel_rows(bins.means, panel)
    means = means[(means["value"] > 0) | (not panel.logarithmic)].drop(columns="metric")
    if not len(means):
        return []
    tooltip = [
        alt.Tooltip("series:N", title="Mean of"),
        alt.Tooltip("expert:N", title="Expert"),
        alt.Tooltip("value:Q", title="Value", format=".4g"),
        alt.Tooltip("step:Q", title="From", format=",.0f"),
        alt.Tooltip("last:Q", title="To", format=",.0f"),
    ]
    chart = alt.Chart(means.reset_index(drop=True)).mark_rule(strokeWidth=3.5, strokeCap="round", clip=True)
    return [chart.encode(x=x, x2=alt.X2("last:Q"), y=y, color=color, tooltip=tooltip)]


def _skipped(bins: VerdictBins) -> list[alt.Chart]:
    """Return a shade over the steps that the verdict skips, with the reason."""
    if not bins.skipped:
        return []
    spans = pd.DataFrame(bins.skipped, columns=["step", "last", "why"])
    # A reason is written only into a span wide enough for it; tooltips show all.
    wide = spans["last"] - spans["step"] > 0.08 * bins.span
    middle = spans[wide].assign(step=(spans["step"] + spans["last"]) / 2)
    return [
        alt.Chart(spans)
        .mark_rect(color=theme.GREY, opacity=0.16, clip=True)
        .encode(x=alt.X("step:Q"), x2=alt.X2("last:Q"), tooltip=alt.Tooltip("why:N", title="Skipped by the verdict")),
        alt.Chart(middle)
        .mark_text(baseline="top", dy=14, color=theme.GREY, fontSize=12, clip=True)
        .encode(x=alt.X("step:Q"), y=alt.YValue(0), text=alt.Text("why:N")),
    ]


def _threshold(value: float, label: str, left: int) -> list[alt.Chart]:
    """Return a dashed line and its label on a tag that stays readable across lines. left: pixels beside axis labels."""
    data = pd.DataFrame({"value": [value], "label": [label]})
    chart = alt.Chart(data).encode(y=alt.Y("value:Q"))
    return [
        chart.mark_rule(strokeDash=theme.THRESHOLD_DASH, strokeWidth=1.5, color=theme.GREY),
        chart.mark_bar(orient="horizontal", size=17, color=theme.TAG, cornerRadius=3).encode(
            x=alt.XValue(left), x2=alt.X2Value(left + 12 + 6.3 * len(label))
        ),
        chart.mark_text(align="left", dx=6, color=theme.ON_TAG, fontSize=12).encode(
            x=alt.XValue(left), text=alt.Text("label:N")
        ),
    ]


def _rails(panel: Panel, color: alt.Color, height: str) -> list[alt.Chart]:
    """Return marks for zeros below a logarithmic axis, and for missing and non-finite values at the top."""
    marks = []
    for rows, shape, place, label in (
        (panel.logarithmic & (panel.values == 0), "triangle-down", f"{height} - 5", "zero"),
        (~np.isfinite(panel.values), "cross", "6", "no finite value"),
    ):
        if rows.any():
            chosen = panel.rows.loc[rows, ["step", "series", "expert"]].assign(found=label)
            chosen = chosen.iloc[:: max(1, len(chosen) // 1000)].reset_index(drop=True)
            mark = alt.Chart(chosen).mark_point(shape=shape, filled=True, size=28, opacity=0.8, clip=True)
            marks.append(
                mark.encode(
                    x=alt.X("step:Q"),
                    y=alt.YValue(alt.ExprRef(place)),
                    color=color,
                    tooltip=[
                        alt.Tooltip("step:Q", title="Step"),
                        *(alt.Tooltip(f"{name}:N", title=name.capitalize()) for name in ("series", "expert", "found")),
                    ],
                )
            )
    return marks
