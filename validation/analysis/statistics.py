"""Arrays in, estimates with intervals out. Training steps are autocorrelated, so a t-test over steps is wrong.

The one primitive is lag-corrected batch means: cut the series into equal batches, take their means, estimate the
dependence that is left between batches, and widen the interval by it. Batch means: Glynn & Whitt 1991, "Estimating the
asymptotic variance with batch means"; fixed few batches with t critical values: Lazarus, Lewis, Stock & Watson 2018.
Axis letters: T logged steps, B batches.
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
FINE_TREND = 5
SURE = 4.0


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
    information: float = 0.0
    """How many independent points the dependent ones are worth: points (1 - rho) / (1 + rho)."""
    spread: float = 0.0
    """Half the width that comes from elsewhere than the points, and that no more of them would narrow."""

    def transformed(self, function: Callable[[float], float]) -> Estimate:
        """The same estimate on a rising scale, such as exp for log ratios."""
        low, mid, high, detectable = map(function, (self.low, self.mid, self.high, self.detectable))
        return replace(self, mid=mid, low=low, high=high, detectable=detectable)

    def widened(self, half: float) -> Estimate:
        """With a further, independent uncertainty of +- half."""
        low, high = (math.hypot(self.mid - self.low, half), math.hypot(self.high - self.mid, half))
        return replace(self, low=self.mid - low, high=self.mid + high, spread=math.hypot(self.spread, half))

    def absolute(self) -> Estimate:
        """The interval of the magnitude: the sign is given up last, because |noise| never averages out."""
        low = 0.0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))
        high = max(abs(self.low), abs(self.high))
        return replace(self, mid=abs(self.mid), low=low, high=high)


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


@dataclass(frozen=True)
class Batches:
    """A series as the means of equal batches, and how sure they are: every contrast of them is an estimate."""

    mean_B: Array
    points: int
    variance: float
    """Of one batch mean, widened by the dependence between batches."""
    effective: float
    freedom: float
    information: float

    def contrast(self, weights_B: Array, alpha: float = 0.05) -> Estimate:
        """weights_B . batch means at level 1 - alpha, two-sided; without enough points the interval is infinite."""
        mid = float(weights_B @ self.mean_B)
        error = math.sqrt(self.variance * float(weights_B @ weights_B))
        if not math.isfinite(error):
            return Estimate(mid, -math.inf, math.inf, self.points, 0.0, math.inf, self.information)
        critical = _critical(1 - alpha / 2, self.freedom)
        detectable = (critical + _critical(0.8, self.freedom)) * error
        half = critical * error
        return Estimate(mid, mid - half, mid + half, self.points, self.effective, detectable, self.information)

    def mean(self, alpha: float = 0.05) -> Estimate:
        """The mean of the series."""
        return self.contrast(mean_weights(len(self.mean_B)), alpha)


def batched(series_T: Array, *, trend: int = 1, related: Sequence[Array] = (), batches: int = BATCHES) -> Batches:
    """A finite series as batch means with the variance that lag-corrected batch means give them.

    trend: how many coefficients (q) of a polynomial are taken out before the noise is measured: 1 for a level, 3 where
    the series may bend. More are taken out where the series surely bends more than noise could. related: series
    with noise of the same kind, such as the other tiers of the same expert: the correlation of 20 batches is a noisy
    guess, and is not believed where it is below that of all of them together. Fewer points than batches carry no
    estimate.
    """
    series_T = np.asarray(series_T, dtype=np.float64)
    points, mean = len(series_T), float(series_T.mean()) if len(series_T) else math.nan
    if points < batches:
        return Batches(np.full(batches, mean), points, math.inf, 0.0, 1.0, 0.0)
    mean_B = batch_means(series_T, batches)
    trend = _sure_trend(mean_B, trend)
    residual_B = _remainder(batches, trend) @ mean_B
    squares = float(residual_B @ residual_B)
    # A residual at rounding level has no correlation worth the name.
    if squares <= (1e-12 * (1 + float(np.abs(mean_B).max()))) ** 2:
        return Batches(mean_B, points, 0.0, float(batches), batches - trend, points)
    r = _correlation(residual_B[None], trend)
    relatives = [batch_means(one, batches) for one in related if len(one) >= batches]
    if len(relatives) > 1:
        r = max(r, _correlation(np.stack(relatives) @ _remainder(batches, trend), trend))
    effective = batches * (1 - r) / (1 + r)
    freedom = _freedom(effective, trend, batches, shared=len(relatives) > 1)
    variance = squares / (batches - trend) * (1 + r) / (1 - r)
    return Batches(mean_B, points, variance, effective, freedom, _information(series_T - mean))


def _information(centred_T: Array) -> float:
    """n (1 - rho) / (1 + rho), with rho the correlation of neighbouring points, as for an AR(1) series."""
    squares = float(centred_T @ centred_T)
    rho = float(centred_T[:-1] @ centred_T[1:]) / squares if squares else 0.0
    rho = min(max(rho, 0.0), 1.0)
    return len(centred_T) * (1 - rho) / (1 + rho)


def batch_means(series_T: Array, batches: int = BATCHES) -> Array:
    """Means of equally long batches, [B]. What does not fill them is dropped from the beginning, near the warm-up."""
    size = len(series_T) // batches
    return np.asarray(series_T[len(series_T) - size * batches :].reshape(batches, size).mean(axis=1))


def _sure_trend(mean_B: Array, trend: int) -> int:
    """How many coefficients of a polynomial to take out: `trend`, or FINE_TREND where the series surely bends so much.

    A curve is no noise if it explains SURE times more than it would of a random walk, the slowest noise of all, whose
    squares fall as 1 / k^2 with the order k. Without this a steady decay counts as noise, and its interval as endless.
    """
    batches = len(mean_B)
    coarse_B, fine_B = (_remainder(batches, q) @ mean_B for q in (trend, FINE_TREND))
    fine = float(fine_B @ fine_B)
    if fine == 0 or float(coarse_B @ coarse_B) / fine < SURE * _of_a_walk(trend) / _of_a_walk(FINE_TREND):
        return trend
    r = _correlation(fine_B[None], FINE_TREND)
    return FINE_TREND if batches * (1 - r) / (1 + r) >= 5 else trend


def _of_a_walk(trend: int) -> float:
    """Share of a random walk's squares that a polynomial of `trend` coefficients leaves, up to a constant."""
    return math.pi**2 / 6 - sum(1 / k**2 for k in range(1, trend))


@cache
def _remainder(batches: int, trend: int) -> Array:
    """[B, B], what takes a polynomial with so many coefficients out of a series of batch means."""
    basis = np.linalg.qr(np.vander(np.linspace(-1, 1, batches), trend))[0]
    return np.asarray(np.eye(batches) - basis @ basis.T)


def _correlation(residual_KB: Array, trend: int) -> float:
    """Of neighbouring batches, over all series, corrected for its bias in short series and for the trend taken out."""
    squares = float((residual_KB**2).sum())
    lag = float((residual_KB[:, :-1] * residual_KB[:, 1:]).sum()) / squares if squares else 0.0
    return float(min(max(lag + (trend + (trend + 2) * lag) / residual_KB.shape[1], 0.0), 0.99))


def _freedom(effective: float, trend: int, batches: int, *, shared: bool) -> float:
    """Degrees of freedom. Where the correlation of several series together is used, it is known better."""
    if shared:
        return min(max(1.0, 1.5 * effective), batches - trend)
    return max(1.0, effective - trend) if effective >= 4 else 1.0


def half_width(error: float, freedom: float, alpha: float) -> float:
    """Half the width of a two-sided interval at level 1 - alpha."""
    return _critical(1 - alpha / 2, freedom) * error


def _critical(level: float, freedom: float) -> float:
    """Student's t quantile; the plain function is a hundred times faster than a distribution's method."""
    return float(special.stdtrit(freedom, level))


def across_runs(values: Array, *, alpha: float = 0.05) -> Estimate:
    """Student's t interval over runs, the unit of replication. Fewer than two runs have an infinite interval."""
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
    """How many more runs like these would put the interval on one side of the threshold; None if more than `most`.

    By the mean and the spread of those that are there, so no more than a guide.
    """
    values = np.asarray(values, dtype=np.float64)
    distance, spread = abs(float(values.mean()) - threshold), float(values.std(ddof=1))
    counts = np.arange(len(values), len(values) + most + 1)
    half = special.stdtrit(counts - 1, 1 - alpha / 2) * spread / np.sqrt(counts)
    enough = counts[half < distance]
    return int(enough[0]) - len(values) if len(enough) else None


def more_points(effect: Estimate, threshold: float) -> int | None:
    """How many more points like these would put the interval on one side of the threshold; None if no number would.

    The width that comes from the points falls with the square root of their number; the spread does not.
    """
    allowed = (effect.mid - threshold) ** 2 - effect.spread**2
    half = effect.high - effect.mid if effect.mid < threshold else effect.mid - effect.low
    if allowed <= 0 or not math.isfinite(half):
        return None
    needed = effect.points * (half**2 - effect.spread**2) / allowed
    return None if needed > 1e9 else max(0, math.ceil(needed) - effect.points)


def benjamini_yekutieli(p: Array) -> Array:
    """p-values for having looked at all of them, however they depend on each other: Benjamini & Yekutieli 2001.

    As scipy.stats has it, which takes longer to load than a page may take to come.
    """
    order, ranks = np.argsort(p), np.arange(1, len(p) + 1)
    raised = p[order] * len(p) * (1 / ranks).sum() / ranks
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(raised[::-1])[::-1].clip(max=1.0)
    return adjusted


@dataclass(frozen=True)
class Trend:
    """Whether values rise with a dose, over several seeds."""

    p: float
    """Of Page's test: that the order of the doses in each seed is chance."""
    slope: Estimate
    """Per unit of dose: Student's t interval over the seeds' own slopes."""


def dose_response(values_SD: Array, doses_D: Array, *, alpha: float = 0.05) -> Trend:
    """values_SD: one value per seed and rising dose. Page 1963: a trend in ranks within each seed, whatever the scale.

    Raises ValueError for fewer than two seeds or three doses.
    """
    from scipy import stats  # as much to load as the app itself: only where somebody asks

    values_SD, doses_D = np.asarray(values_SD, dtype=np.float64), np.asarray(doses_D, dtype=np.float64)
    if values_SD.shape[0] < 2 or values_SD.shape[1] < 3:
        raise ValueError(f"a trend needs two seeds and three doses; there are {values_SD.shape}")
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
