"""Labels at the right ends of lines, in the colours of the lines, moved apart; they stand in for legends."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from prismatic.contract.schema import PEER
from validation.charts import theme
from validation.charts.panels import Panel
from validation.charts.ticks import spread_labels

MAX_LABELS = 24  # lines of one plot; more have legends
LINE_PIXELS = 15.5  # height of a label
NARROW = "windowSize()[0] < 640"  # a phone: no room beside the plot, so the labels stand below it, in two columns
COLUMNS, ROW_PIXELS, BELOW, LEFT = 2, 16, 84, 36  # of the labels on a phone; LEFT: pixels left of the plot
SAMPLE = 13  # length of the rule between a line and its label, which has the dash of the line


def has_end_labels(panel: Panel) -> bool:
    """Return True if every line of this panel can have a label of its own."""
    lines = panel.rows[["expert", "series"]].drop_duplicates()
    return 0 < len(lines) <= MAX_LABELS and lines["series"].isin(theme.SERIES).all()


def end_labels(panel: Panel, height: int, color: alt.Color, dash: alt.StrokeDash) -> list[alt.Chart]:
    """Return a rule with the dash of its line and a text for each line. height: of the plot, in pixels."""
    chart = alt.Chart(_placed(panel, height)).encode(color=color)
    left = f"datum.place % {COLUMNS} * (width + {LEFT}) / {COLUMNS} - {LEFT}"
    below = f"height + {BELOW} + {ROW_PIXELS} * floor(datum.place / {COLUMNS})"

    def at(on_phone: str, beside: str) -> alt.ExprRef:
        return alt.ExprRef(f"{NARROW} ? {on_phone} : {beside}")

    # A chart that zooms clips its marks to the plot, unless they say that they lie beside it.
    rule = chart.mark_rule(strokeWidth=1.5, clip=False, tooltip=None).encode(
        x=alt.XValue(at(left, "width + 3")),
        x2=alt.X2Value(at(f"{left} + {SAMPLE}", f"width + {3 + SAMPLE}")),
        y=alt.YValue(at(below, "scale('y', datum.value)")),
        y2=alt.Y2Value(at(below, "scale('y', datum.placed)")),
        strokeDash=dash,
    )
    font = alt.ExprRef(f"{NARROW} ? 11 : 12")
    text = chart.mark_text(align="left", baseline="middle", fontSize=font, clip=False, tooltip=None).encode(
        x=alt.XValue(at(f"{left} + {SAMPLE + 4}", f"width + {7 + SAMPLE}")),
        y=alt.YValue(at(below, "scale('y', datum.placed)")),
        text=alt.Text("label:N"),
    )
    return [rule, text]


def _placed(panel: Panel, height: int) -> pd.DataFrame:
    """Return a row for each line: its last value, and the place of its label, inside the plot and free of others."""
    low, high = panel.extent
    scaled, back = (np.log, np.exp) if panel.logarithmic else (np.asarray, np.asarray)
    bottom, top = float(scaled(low)), float(scaled(high))
    lines = panel.drawable.sort_values("step", kind="stable").groupby(["expert", "series"], observed=True, sort=True)
    # A line without any value, such as one of zeros, has its label at the bottom, where its marks are.
    ends = lines["value"].last().fillna(low).reset_index()
    ends = ends.assign(order=ends["series"].map(theme.SERIES.index)).sort_values(["expert", "order"], ignore_index=True)
    gap = (top - bottom) * LINE_PIXELS / height
    places = spread_labels(scaled(ends["value"].to_numpy(dtype=float)), gap, low=bottom + gap / 2, high=top - gap / 2)
    labels = [_label(expert, series) for expert, series in zip(ends["expert"], ends["series"], strict=True)]
    return ends.drop(columns="order").assign(placed=back(places), label=labels, place=np.arange(len(ends)))


def _label(expert: int, series: str) -> str:
    role, part = series.split()
    if role == PEER:
        return f"expert {expert}"
    return f"expert {expert} {role}" + ("" if part == "whole" else f", {part}")
