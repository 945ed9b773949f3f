"""A panel, one plot of lines: its rows, title, thresholds, and the scale and extent of its vertical axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from validation.charts.ticks import IS_POWER, log_ticks

MINOR_OPACITY = 0.35  # of grid lines between powers of ten


@dataclass(frozen=True, eq=False)
class Panel:
    """A plot of lines: rows of expert, metric, series (a name of theme.SERIES, for the colour), step and value."""

    title: str
    rows: pd.DataFrame
    log: bool
    include: tuple[float, ...] = ()
    """Values that the axis must contain."""
    thresholds: tuple[tuple[float, str], ...] = ()
    """Value and label of each threshold."""
    from_zero: bool = True
    """A linear axis begins at zero."""
    label: str = ""
    """Name of the values in a tooltip that covers several panels; empty for tiers."""

    @property
    def values(self) -> np.ndarray:
        """The values of all rows; NaN for missing ones."""
        return np.asarray(self.rows["value"].to_numpy(dtype=float, na_value=np.nan))

    @property
    def logarithmic(self) -> bool:
        """The panel asks for a logarithmic axis and has a value above zero to show on it."""
        return self.log and bool((self.values[np.isfinite(self.values)] > 0).any())

    @property
    def drawable(self) -> pd.DataFrame:
        """The rows, with NaN for the values that the axis cannot show."""
        there = np.isfinite(self.values) & ((self.values > 0) | (not self.logarithmic))
        return self.rows.assign(value=self.rows["value"].where(there))

    @property
    def extent(self) -> tuple[float, float]:
        """The lowest and highest value of the axis: all values with a margin, thresholds and included values."""
        values = self.drawable["value"].dropna().to_numpy(dtype=float)
        marks = [*([values.min(), values.max()] if len(values) else []), *self.include]
        marks += [value for value, _ in self.thresholds]
        if self.logarithmic:
            return min(marks) / 1.4, max(marks) * 1.4
        low, high = (min(marks), max(marks)) if marks else (0.0, 1.0)
        return min(low, 0.0) if self.from_zero else low, high if high > low else low + 1

    @property
    def scale(self) -> alt.Scale:
        """The scale, without a domain: the extent sets it as invisible rows, so that new rows fit the same chart."""
        if self.logarithmic:
            return alt.Scale(type="log", nice=False)
        return alt.Scale(zero=False, nice=True)

    def axis(self, *, minor: bool = False, **look: Any) -> alt.Axis:
        """Return the vertical axis, with labels at powers of ten if it is logarithmic. minor: with ticks between."""
        if not self.logarithmic:
            return alt.Axis(format=".4~g", **look)
        ticks = log_ticks(*self.extent)
        if not ticks.decades:
            return alt.Axis(format=".4~g", values=ticks.values, **look)
        powers = [tick for tick in ticks.values if math.log10(tick) == round(math.log10(tick))]
        if not minor:
            return alt.Axis(format=".4~g", values=powers, **look)
        label = f"{IS_POWER} ? format(datum.value, '.4~g') : ''"
        faint = {"condition": {"test": IS_POWER, "value": 1}, "value": MINOR_OPACITY}
        look |= {"tickCount": len(ticks.values)}  # a smaller count would leave some out
        return alt.Axis(values=ticks.values, labelExpr=label, labelOverlap=False, gridOpacity=faint, **look)


def panel_rows(frame: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """Return the rows of a frame that belong to the lines of a panel, with the `series` of each line."""
    lines = panel.rows[["expert", "metric", "series"]].drop_duplicates().astype({"metric": str})
    return frame.astype({"metric": str}).merge(lines, on=["expert", "metric"])
