"""Estimates with confidence intervals: lag-corrected batch means over steps, Student's t over runs, trends, p-values.

Training steps are autocorrelated, so a t-test over steps is wrong. Lag-corrected batch means cut a series into equal
batches, take their means, estimate the correlation left between neighbouring batches, and widen the interval by it.
Batch means: Glynn & Whitt 1991, "Estimating the asymptotic variance with batch means"; few batches with t critical
values: Lazarus, Lewis, Stock & Watson 2018. Axis letters: T logged steps, B batches, S seeds, D doses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
BATCHES = 20
FINE_TREND = 5  # coefficients of the finer polynomial, for series that clearly bend
BEND_FACTOR = 4.0  # by which the finer polynomial must beat its fit to a random walk


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval, its amount of information and its power."""

    mid: float
    low: float
    high: float
    points: int
    """Logged steps used."""
    effective: float
    """Number of independent batches that the correlated ones are worth."""
    detectable: float
    """Smallest effect that would be found with 80 % probability; infinite if none would."""
    information: float = 0.0
    """Number of independent points that the correlated ones are worth: points (1 - rho) / (1 + rho)."""
    spread: float = 0.0
    """Half the width that does not come from the points, and that more points would not narrow."""

    def transformed(self, function: Callable[[float], float]) -> Estimate:
        """Return the estimate on another, rising scale, such as exp for log ratios."""
        low, mid, high, detectable = map(function, (self.low, self.mid, self.high, self.detectable))
        return replace(self, mid=mid, low=low, high=high, detectable=detectable)

    def widened(self, half: float) -> Estimate:
        """Return the estimate with a further, independent uncertainty of +- half."""
        low, high = (math.hypot(self.mid - self.low, half), math.hypot(self.high - self.mid, half))
        return replace(self, low=self.mid - low, high=self.mid + high, spread=math.hypot(self.spread, half))

    def absolute(self) -> Estimate:
        """Return the interval of the magnitude. The sign goes last, because |noise| does not average out."""
        low = 0.0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))
        high = max(abs(self.low), abs(self.high))
        return replace(self, mid=abs(self.mid), low=low, high=high)


def mean_weights(batches: int = BATCHES) -> Array:
    """Return the weights of the mean over all batches, [B]."""
    return np.full(batches, 1 / batches)


def third_weights(first: float, last: float, batches: int = BATCHES) -> Array:
    """Return the weights of last x (mean of the last third) + first x (mean of the first third), [B]."""
    third = round(batches / 3)
    weights = np.zeros(batches)
    weights[:third] += first / third
    weights[-third:] += last / third
    return weights


@dataclass(frozen=True)
class Batches:
    """The means of equal batches of a series, with the variance and freedom that estimates of their contrasts need."""

    mean_B: Array
    points: int
    variance: float
    """Variance of one batch mean, widened by the correlation between batches."""
    effective: float
    freedom: float
    information: float

    def contrast(self, weights_B: Array, alpha: float = 0.05) -> Estimate:
        """Return weights_B . batch means with its two-sided interval, infinite for too few points."""
        mid = float(weights_B @ self.mean_B)
        error = math.sqrt(self.variance * float(weights_B @ weights_B))
        if not math.isfinite(error):
            return Estimate(mid, -math.inf, math.inf, self.points, 0.0, math.inf, self.information)
        critical = _critical(1 - alpha / 2, self.freedom)
        detectable = (critical + _critical(0.8, self.freedom)) * error
        half = critical * error
        return Estimate(mid, mid - half, mid + half, self.points, self.effective, detectable, self.information)

    def mean(self, alpha: float = 0.05) -> Estimate:
        """Return the mean of the series."""
        return self.contrast(mean_weights(len(self.mean_B)), alpha)


def batched(series_T: Array, *, trend: int = 1, related: Sequence[Array] = (), batches: int = BATCHES) -> Batches:
    """Return a finite series as batch means with their lag-corrected variance.

    trend: coefficients of the polynomial removed before the noise is measured, 1 for a level, 3 for a series that may
    bend; more are removed if the series clearly bends more than noise could. related: series with the same kind of
    noise, such as the other tiers of the expert. The correlation of 20 batches is a noisy estimate, so it is raised to
    the correlation of all related series if that is higher. A series shorter than `batches` gives an infinite variance.
    """
    series_T = np.asarray(series_T, dtype=np.float64)
    points, mean = len(series_T), float(series_T.mean()) if len(series_T) else math.nan
    if points < batches:
        return Batches(np.full(batches, mean), points, math.inf, 0.0, 1.0, 0.0)
    mean_B = batch_means(series_T, batches)
    trend = _trend_order(mean_B, trend)
    residual_B = _detrend(batches, trend) @ mean_B
    squares = float(residual_B @ residual_B)
    # A residual at rounding level has no meaningful correlation.
    if squares <= (1e-12 * (1 + float(np.abs(mean_B).max()))) ** 2:
        return Batches(mean_B, points, 0.0, float(batches), batches - trend, points)
    r = _correlation(residual_B[None], trend)
    related_KB = [batch_means(other_T, batches) for other_T in related if len(other_T) >= batches]
    if len(related_KB) > 1:
        r = max(r, _correlation(np.stack(related_KB) @ _detrend(batches, trend), trend))
    effective = batches * (1 - r) / (1 + r)
    freedom = _freedom(effective, trend, batches, shared=len(related_KB) > 1)
    variance = squares / (batches - trend) * (1 + r) / (1 - r)
    return Batches(mean_B, points, variance, effective, freedom, _information(series_T - mean))


def _information(centred_T: Array) -> float:
    """Return n (1 - rho) / (1 + rho), rho being the correlation of neighbouring points, as for an AR(1) series."""
    squares = float(centred_T @ centred_T)
    rho = float(centred_T[:-1] @ centred_T[1:]) / squares if squares else 0.0
    rho = min(max(rho, 0.0), 1.0)
    return len(centred_T) * (1 - rho) / (1 + rho)


def batch_means(series_T: Array, batches: int = BATCHES) -> Array:
    """Return the means of equal batches, [B]. Surplus points are dropped at the start, near the warm-up."""
    size = len(series_T) // batches
    return np.asarray(series_T[len(series_T) - size * batches :].reshape(batches, size).mean(axis=1))


def _trend_order(mean_B: Array, trend: int) -> int:
    """Return the number of polynomial coefficients to remove: FINE_TREND if the series clearly bends, else `trend`.

    A curve is not noise if the finer polynomial explains BEND_FACTOR times more than it would of a random walk, the
    slowest noise, whose squares fall as 1 / k^2 with the order k. Otherwise a steady decay would count as noise, with a
    useless interval.
    """
    batches = len(mean_B)
    coarse_B, fine_B = (_detrend(batches, q) @ mean_B for q in (trend, FINE_TREND))
    fine = float(fine_B @ fine_B)
    clear = BEND_FACTOR * _random_walk_share(trend) / _random_walk_share(FINE_TREND)
    if fine == 0 or float(coarse_B @ coarse_B) / fine < clear:
        return trend
    r = _correlation(fine_B[None], FINE_TREND)
    return FINE_TREND if batches * (1 - r) / (1 + r) >= 5 else trend


def _random_walk_share(trend: int) -> float:
    """Return the share of a random walk's squares left by a polynomial of `trend` coefficients, up to a constant."""
    return math.pi**2 / 6 - sum(1 / k**2 for k in range(1, trend))


@cache
def _detrend(batches: int, trend: int) -> Array:
    """Return the matrix, [B, B], that removes a polynomial of `trend` coefficients from batch means."""
    basis = np.linalg.qr(np.vander(np.linspace(-1, 1, batches), trend))[0]
    return np.asarray(np.eye(batches) - basis @ basis.T)


def _correlation(residual_KB: Array, trend: int) -> float:
    """Return the correlation of neighbouring batches over all series, corrected for short series and removed trends."""
    squares = float((residual_KB**2).sum())
    lag = float((residual_KB[:, :-1] * residual_KB[:, 1:]).sum()) / squares if squares else 0.0
    return float(min(max(lag + (trend + (trend + 2) * lag) / residual_KB.shape[1], 0.0), 0.99))


def _freedom(effective: float, trend: int, batches: int, *, shared: bool) -> float:
    """Return the degrees of freedom. shared: the correlation is that of several series, which is better known."""
    if shared:
        return min(max(1.0, 1.5 * effective), batches - trend)
    return max(1.0, effective - trend) if effective >= 4 else 1.0


def half_width(error: float, freedom: float, alpha: float) -> float:
    """Return half the width of a two-sided interval at level 1 - alpha."""
    return _critical(1 - alpha / 2, freedom) * error


def _critical(level: float, freedom: float) -> float:
    """Return a quantile of Student's t; `special` is a hundred times faster than a distribution of scipy.stats."""
    return float(special.stdtrit(freedom, level))


def across_runs(values: Array, *, alpha: float = 0.05) -> Estimate:
    """Return the mean over runs with Student's t interval; it is infinite for fewer than two runs."""
    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    mid = float(values.mean()) if count else math.nan
    if count < 2:
        return Estimate(mid, -math.inf, math.inf, count, float(count), math.inf, float(count))
    error = float(values.std(ddof=1)) / math.sqrt(count)
    critical = _critical(1 - alpha / 2, count - 1)
    detectable = (critical + _critical(0.8, count - 1)) * error
    return Estimate(mid, mid - critical * error, mid + critical * error, count, float(count), detectable, float(count))


def more_runs(values: Array, threshold: float, *, alpha: float = 0.05, most: int = 1000) -> int | None:
    """Return how many more runs would put the interval on one side of the threshold; None if more than `most`.

    It assumes the mean and spread of these runs, so it is only a guide.
    """
    values = np.asarray(values, dtype=np.float64)
    distance, spread = abs(float(values.mean()) - threshold), float(values.std(ddof=1))
    counts = np.arange(len(values), len(values) + most + 1)
    half = special.stdtrit(counts - 1, 1 - alpha / 2) * spread / np.sqrt(counts)
    enough = counts[half < distance]
    return int(enough[0]) - len(values) if len(enough) else None


def more_points(effect: Estimate, threshold: float) -> int | None:
    """Return how many more points would put the interval on one side of the threshold; None if no number would.

    The part of the width that comes from the points falls with the square root of their number; the spread does not.
    """
    allowed = (effect.mid - threshold) ** 2 - effect.spread**2
    half = effect.high - effect.mid if effect.mid < threshold else effect.mid - effect.low
    if allowed <= 0 or not math.isfinite(half):
        return None
    needed = effect.points * (half**2 - effect.spread**2) / allowed
    return None if needed > 1e9 else max(0, math.ceil(needed) - effect.points)


def benjamini_yekutieli(p: Array) -> Array:
    """Return p-values adjusted for multiple testing under any dependence: Benjamini & Yekutieli 2001.

    scipy.stats has it too, but takes longer to load than a page may take to open.
    """
    order, ranks = np.argsort(p), np.arange(1, len(p) + 1)
    raised = p[order] * len(p) * (1 / ranks).sum() / ranks
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(raised[::-1])[::-1].clip(max=1.0)
    return adjusted


@dataclass(frozen=True)
class Trend:
    """The trend of values with a dose, over several seeds."""

    p: float
    """p-value of Page's test against no order among the doses."""
    slope: Estimate
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
    slopes_S = values_SD @ centred_D / float(centred_D @ centred_D)
    return Trend(p, across_runs(slopes_S, alpha=alpha))


def exp(value: float) -> float:
    """Return e to the value; infinity where the result would overflow."""
    return math.inf if value >= 700 else math.exp(value)


def finite(value: float) -> float | None:
    """Return the value, or None where it is not finite: JSON has neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None
