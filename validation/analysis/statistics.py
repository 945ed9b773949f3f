"""Page's test of a trend with a dose, arrays, and numbers that JSON can hold.

Axis letters: S seeds, D doses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from validation.analysis.intervals import Array, Interval, student

__all__ = ["Array", "Trend", "dose_response", "exp", "finite"]


@dataclass(frozen=True)
class Trend:
    """The trend of values with a dose, over several seeds."""

    p: float
    """p-value of Page's test against no order among the doses."""
    slope: Interval
    """Slope per unit of dose, with Student's t interval over the slopes of the seeds."""


def dose_response(values_SD: Array, doses_D: Array, *, alpha: float = 0.05) -> Trend:
    """Return the trend of one value per seed and rising dose. Page 1963: ranks within each seed, on any scale.

    Raises ValueError for fewer than two seeds or three doses.
    """
    from scipy import stats  # as slow to load as the whole app, so only on demand

    values_SD, doses_D = np.asarray(values_SD, dtype=np.float64), np.asarray(doses_D, dtype=np.float64)
    if values_SD.shape[0] < 2 or values_SD.shape[1] < 3:
        raise ValueError(f"a trend needs two seeds and three doses, not an array of shape {values_SD.shape}")
    p = float(stats.page_trend_test(values_SD).pvalue)
    centred_D = doses_D - doses_D.mean()
    return Trend(p, student(values_SD @ centred_D / float(centred_D @ centred_D), alpha))


def exp(value: float) -> float:
    """Return e to the value; infinity where the result would overflow."""
    return math.inf if value >= 700 else math.exp(value)


def finite(value: float) -> float | None:
    """Return the value, or None where it is not finite: JSON has neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None
