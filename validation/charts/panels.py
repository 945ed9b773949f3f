"""What a chart of lines over the steps is made of: panels of rows, and what is drawn beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from validation.frames.batches import Counted


@dataclass(frozen=True, eq=False)
class Style:
    """How the reader wants lines drawn, and what is known of the run beside them."""

    axis: str = "Training step"
    smooth: pd.DataFrame | None = None
    """Running medians to be drawn over the raw lines, with the columns of the lines."""
    pointer: pd.DataFrame | None = None
    """What the pointer reads, with the columns of the lines; without it the drawn points."""
    gaps: Sequence[tuple[float, float]] = ()
    """Where nothing was logged, on the axis."""
    counted: Counted | None = None
    """What the verdict leaves out, and the means of its batches, to be shown."""


PLAIN = Style()


@dataclass(frozen=True, eq=False)
class Panel:
    """One plot: rows of expert, metric, series (what its colour says), step and value."""

    title: str
    rows: pd.DataFrame
    log: bool
    include: tuple[float, ...] = ()
    """Values that the axis must reach."""
    thresholds: tuple[tuple[float, str], ...] = ()
    from_zero: bool = True
    """Whether a linear axis begins at zero."""
    word: str = ""
    """What its values are called beside those of other panels; tiers need none."""

    @property
    def values(self) -> np.ndarray:
        """Of all rows; NaN where there is none."""
        return np.asarray(self.rows["value"].to_numpy(dtype=float, na_value=np.nan))

    @property
    def logarithmic(self) -> bool:
        """Whether there is anything that a logarithmic axis can show."""
        return self.log and bool((self.values[np.isfinite(self.values)] > 0).any())

    @property
    def drawn(self) -> pd.DataFrame:
        """The rows with only what the axis can show."""
        there = np.isfinite(self.values) & ((self.values > 0) | (not self.logarithmic))
        return self.rows.assign(value=self.rows["value"].where(there))

    @property
    def ends(self) -> tuple[float, float]:
        """From where to where the axis goes: all values, with some air."""
        values = self.drawn["value"].dropna().to_numpy(dtype=float)
        marks = [*([values.min(), values.max()] if len(values) else []), *self.include]
        marks += [value for value, _ in self.thresholds]
        if self.logarithmic:
            return min(marks) / 1.4, max(marks) * 1.4
        low, high = (min(marks), max(marks)) if marks else (0.0, 1.0)
        return min(low, 0.0) if self.from_zero else low, high if high > low else low + 1

    @property
    def scale(self) -> alt.Scale:
        """Without a domain, which the ends give it as rows: other rows are then no other chart."""
        if self.logarithmic:
            return alt.Scale(type="log", clamp=True, nice=False)
        return alt.Scale(zero=False, nice=True)


def own(frame: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """The rows of a frame that belong to a panel's lines, under the names of those."""
    lines = panel.rows[["expert", "metric", "series"]].drop_duplicates().astype({"metric": str})
    return frame.astype({"metric": str}).merge(lines, on=["expert", "metric"])
