"""Arrays in, estimates with intervals out. Training steps are autocorrelated, so a t-test over steps is wrong.

The one primitive is lag-corrected batch means: cut the series into equal batches, take their means, estimate the
dependence that is left between batches, and widen the interval by it. Batch means: Glynn & Whitt 1991, "Estimating the
asymptotic variance with batch means"; fixed few batches with t critical values: Lazarus, Lewis, Stock & Watson 2018.
Axis letters: T logged steps, B batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
BATCHES = 20


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, the information it stands on, and what it could have seen."""

    mid: float
    low: float
    high: float
    points: int
    """Logged steps that went in."""
    effective: float
    """Batches' worth of independent information, at most the number of batches."""
    detectable: float
    """Smallest effect found with 80 % probability; infinite where nothing could be."""

    def transformed(self, function: Callable[[float], float]) -> Estimate:
        """The same estimate on a rising scale, such as exp for log ratios."""
        low, mid, high, detectable = map(function, (self.low, self.mid, self.high, self.detectable))
        return Estimate(mid, low, high, self.points, self.effective, detectable)

    def absolute(self) -> Estimate:
        """The interval of the magnitude: the sign is given up last, because |noise| never averages out."""
        low = 0.0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))
        high = max(abs(self.low), abs(self.high))
        return Estimate(abs(self.mid), low, high, self.points, self.effective, self.detectable)


def mean_weights(batches: int = BATCHES) -> Array:
    """The mean over all batches."""
    return np.full(batches, 1 / batches)


def third_weights(first: float, last: float, batches: int = BATCHES) -> Array:
    """last x (mean of the last third) + first x (mean of the first third)."""
    third = round(batches / 3)
    weights = np.zeros(batches)
    weights[:third] += first / third
    weights[-third:] += last / third
    return weights


def lag_corrected(series_T: Array, weights_B: Array, *, trend: int = 1, alpha: float = 0.05) -> Estimate:
    """Estimate the contrast weights_B . batch means of a finite series, at level 1 - alpha, two-sided.

    trend: how many coefficients (q) of a polynomial are taken out before the noise is measured: 1 for a level, 3 where
    the series may bend. Fewer points than batches carry no estimate: the interval is then infinite.
    """
    series_T = np.asarray(series_T, dtype=np.float64)
    batches = len(weights_B)
    size = len(series_T) // batches
    if size == 0:
        mid = float(series_T.mean()) if len(series_T) else math.nan
        return Estimate(mid, -math.inf, math.inf, len(series_T), 0.0, math.inf)
    # What does not fill the batches is dropped from the beginning, next to the warm-up.
    mean_B = series_T[len(series_T) - size * batches :].reshape(batches, size).mean(axis=1)
    time_B = np.linspace(-1, 1, batches)
    residual_B = mean_B - np.polyval(np.polyfit(time_B, mean_B, trend - 1), time_B)
    squares = float(residual_B @ residual_B)
    mid = float(weights_B @ mean_B)
    # A residual at rounding level has no correlation worth the name.
    if squares <= (1e-12 * (1 + float(np.abs(mean_B).max()))) ** 2:
        return Estimate(mid, mid, mid, len(series_T), float(batches), 0.0)
    r = _lag_one(residual_B, squares, trend)
    effective = batches * (1 - r) / (1 + r)
    freedom = max(1.0, effective - trend) if effective >= 4 else 1.0
    error = math.sqrt(squares / (batches - trend) * float(weights_B @ weights_B) * (1 + r) / (1 - r))
    critical = float(stats.t.ppf(1 - alpha / 2, freedom))
    detectable = (critical + float(stats.t.ppf(0.8, freedom))) * error
    return Estimate(mid, mid - critical * error, mid + critical * error, len(series_T), effective, detectable)


def _lag_one(residual_B: Array, squares: float, trend: int) -> float:
    """Correlation of neighbouring batches, corrected for its bias in short series and for the trend taken out."""
    lag = float(residual_B[:-1] @ residual_B[1:]) / squares
    return min(max(lag + (trend + (trend + 2) * lag) / len(residual_B), 0.0), 0.99)


def across_runs(values: Array, *, alpha: float = 0.05) -> Estimate:
    """Student's t interval over runs, the unit of replication. Fewer than two runs have an infinite interval."""
    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    mid = float(values.mean())
    if count < 2:
        return Estimate(mid, -math.inf, math.inf, count, float(count), math.inf)
    error = float(values.std(ddof=1)) / math.sqrt(count)
    critical = float(stats.t.ppf(1 - alpha / 2, count - 1))
    detectable = (critical + float(stats.t.ppf(0.8, count - 1))) * error
    return Estimate(mid, mid - critical * error, mid + critical * error, count, float(count), detectable)
