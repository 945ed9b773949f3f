"""Axes, colours, labels and texts that the charts of the Compare page share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from validation.analysis.statistics import Array
from validation.charts import theme
from validation.charts.ticks import factor_ticks

FACTOR = "format(exp(datum.value), '.4~g') + '×'"
NUMBER = "format(datum.value, '.3~g')"
LABEL_GAP = 0.06  # least distance of two labels, as a share of the height
COLOR = alt.Color("color:N", scale=alt.Scale(domain=theme.COLORS), legend=None)


def value_axis(domain: tuple[float, float], *, log: bool) -> alt.Axis:
    """Return the vertical axis; logarithms are labelled with their factors."""
    if not log:
        return alt.Axis(labelExpr=NUMBER, tickCount=6)
    ticks = factor_ticks(math.exp(domain[0]), math.exp(domain[1]))
    return alt.Axis(labelExpr=FACTOR, values=[math.log(tick) for tick in ticks])


def axis_domain(values: Array, centres: Array) -> tuple[float, float]:
    """Return the ends of an axis with all centres; intervals count up to the spread of the centres on either side.

    The intervals of two seeds are so wide that they would flatten everything else.
    """
    centres, values = centres[np.isfinite(centres)], values[np.isfinite(values)]
    if not len(centres):
        return 0.0, 1.0
    low, high = float(centres.min()), float(centres.max())
    spread = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-9)
    low, high = max(float(values.min()), low - spread), min(float(values.max()), high + spread)
    return low - 0.04 * spread, high + 0.04 * spread


def ends(values: pd.Series) -> tuple[float, float]:
    first, last = float(values.min()), float(values.max())
    return first, last if last > first else first + 1.0


def with_color(data: pd.DataFrame, shown: Sequence[str]) -> pd.DataFrame:
    colors = {group: theme.GROUPS[place % theme.MAX_GROUPS] for place, group in enumerate(shown)}
    return data.assign(color=data["group"].map(colors))


def last_rows(data: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the last row of each line that has a value."""
    known = data[data["value"].notna()].sort_values("middle")
    return known.groupby(by, sort=False).tail(1).copy()


def value_text(value: float, *, log: bool) -> str:
    if not np.isfinite(value):
        return "none"
    return f"{np.exp(value):.3g}" if log else f"{value:.3g}"
