"""Intervals over seeds and over experts: Student, Welch, Fieller, Holm; exchanged roles; how many seeds would decide.

Units are independent: runs with different seeds, or experts of one run. Steps and layers are not. An interval
at alpha holds the truth with probability 1 - alpha if the effects of the units are normal.
Axis letters: S seeds, U units, E experts, A assignments of roles to experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy import special

from prismatic.contract.power import POWER

Array = NDArray[np.float64]
MOST_SEEDS = 1000
EXCHANGES = 4096  # that are looked at; of more, so many are drawn


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    mid: float
    low: float
    high: float
    units: int

    @property
    def bounded(self) -> bool:
        """True if both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def beyond(self, margin: float, *, two_sided: bool) -> bool:
        """True if the whole interval lies above the margin, or on one side of both margins."""
        return self.low > margin or (two_sided and self.high < -margin)

    def inside(self, margin: float, *, two_sided: bool) -> bool:
        """True if the interval rules out an effect as large as the margin."""
        return self.high < margin and (not two_sided or self.low > -margin)


@lru_cache(maxsize=4096)
def t_quantile(alpha: float, freedom: float) -> float:
    """Return the factor of a two-sided t interval at alpha."""
    return float(special.stdtrit(freedom, 1 - alpha / 2))


def student(x_U: Array, alpha: float) -> Interval:
    """Return the mean of independent units with Student's t interval; without bounds for fewer than two units."""
    units, mid = len(x_U), float(x_U.mean()) if len(x_U) else math.nan
    if units < 2:
        return Interval(mid, -math.inf, math.inf, units)
    half = t_quantile(alpha, units - 1) * float(x_U.std(ddof=1)) / math.sqrt(units)
    return Interval(mid, mid - half, mid + half, units)


def welch(x_U: Array, y_U: Array, alpha: float) -> Interval:
    """Return mean(x) - mean(y) with the interval of Welch 1947, for two groups whose variances may differ."""
    mid = float(x_U.mean() - y_U.mean()) if len(x_U) and len(y_U) else math.nan
    units = len(x_U) + len(y_U)
    if min(len(x_U), len(y_U)) < 2:
        return Interval(mid, -math.inf, math.inf, units)
    squares = [float(group.var(ddof=1)) / len(group) for group in (x_U, y_U)]
    error2 = sum(squares)
    if error2 == 0:
        return Interval(mid, mid, mid, units)
    freedom = 1 / sum((s / error2) ** 2 / (len(group) - 1) for s, group in zip(squares, (x_U, y_U), strict=True))
    half = t_quantile(alpha, freedom) * math.sqrt(error2)
    return Interval(mid, mid - half, mid + half, units)


def pooled(x_U: Array, y_U: Array, alpha: float) -> Interval:
    """Return mean(x) - mean(y) with the interval of Student 1908, for two groups of one variance."""
    freedom, units = len(x_U) + len(y_U) - 2, len(x_U) + len(y_U)
    if min(len(x_U), len(y_U)) < 2:
        return welch(x_U, y_U, alpha)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in (x_U, y_U))
    half = t_quantile(alpha, freedom) * math.sqrt(squares / freedom * (1 / len(x_U) + 1 / len(y_U)))
    mid = float(x_U.mean() - y_U.mean())
    return Interval(mid, mid - half, mid + half, units)


def exchanged(level_SE: Sequence[Array], treated: Sequence[int]) -> tuple[float, float]:
    """Return how often exchanging roles gives a mean difference as low as the one found, and as high (Fisher 1935).

    level_SE: of each run, the levels of its treated experts and then of its controls. treated: the number of the
    former. Roles are exchanged within runs. Where one expert in a run is odd, whatever its role, and the roles are not
    equally many, Student's interval takes it for an effect of the role: it is mostly in the larger group.
    """
    rng = np.random.default_rng(0)
    differences = [_contrasts(len(level_E), count) @ level_E for level_E, count in zip(level_SE, treated, strict=True)]
    found = float(np.mean([difference_A[0] for difference_A in differences]))
    if math.prod(map(len, differences)) <= EXCHANGES:
        mean_A = np.array([*product(*differences)]).mean(axis=1)
    else:
        drawn = [difference_A[rng.integers(len(difference_A), size=EXCHANGES)] for difference_A in differences]
        mean_A = np.append(np.mean(drawn, axis=0), found)
    near = 1e-9 * max(1.0, float(np.abs(mean_A).max()))
    return float((mean_A <= found + near).mean()), float((mean_A >= found - near).mean())


@lru_cache(maxsize=64)
def _contrasts(experts: int, treated: int) -> Array:
    """Return what turns levels into treated minus control experts, [A, E], the experts' own roles first."""
    if math.comb(experts, treated) <= EXCHANGES:
        places_A = np.array([*combinations(range(experts), treated)])
    else:
        rng = np.random.default_rng(0)
        drawn = rng.permuted(np.tile(np.arange(experts), (EXCHANGES, 1)), axis=1)[:, :treated]
        places_A = np.vstack([np.arange(treated), drawn])
    contrasts = np.full((len(places_A), experts), -1 / (experts - treated))
    np.put_along_axis(contrasts, places_A, 1 / treated, axis=1)
    return contrasts


def fieller(x_U2: Array, alpha: float, y_V2: Array | None = None) -> Interval:
    """Return the ratio of the second mean to the first over paired units with the interval of Fieller 1954.

    y_V2: units of another group, whose means are subtracted; the degrees of freedom are then those of the smaller
    group. Without bounds where the first mean is not surely different from zero.
    """
    groups = [x_U2] if y_V2 is None else [x_U2, y_V2]
    units, fewest = sum(map(len, groups)), min(map(len, groups))
    if not fewest:
        return Interval(math.nan, -math.inf, math.inf, units)
    x, y = (x_U2.mean(axis=0) - (0.0 if y_V2 is None else y_V2.mean(axis=0))).tolist()
    mid = y / x if x else math.nan
    if fewest < 2:
        return Interval(mid, -math.inf, math.inf, units)
    q = t_quantile(alpha, fewest - 1) ** 2
    covariances = [np.cov(group, rowvar=False)[[0, 0, 1], [0, 1, 1]] / len(group) for group in groups]
    xx, xy, yy = np.sum(covariances, axis=0).tolist()
    a, b, c = x * x - q * xx, x * y - q * xy, y * y - q * yy
    if a <= 0:
        return Interval(mid, -math.inf, math.inf, units)
    root = math.sqrt(max(b * b - a * c, 0.0))
    return Interval(mid, (b - root) / a, (b + root) / a, units)


def p_beyond(x_U: Array, margin: float, *, two_sided: bool) -> float:
    """Return the smallest alpha at which the Student interval of the units lies beyond the margin."""
    if len(x_U) < 2:
        return 1.0
    mid, error = float(x_U.mean()), float(x_U.std(ddof=1)) / math.sqrt(len(x_U))
    distance = max(mid - margin, -mid - margin if two_sided else -math.inf)
    if distance <= 0:
        return 1.0
    return 0.0 if error == 0 else float(2 * special.stdtr(len(x_U) - 1, -distance / error))


def holm(p_G: Sequence[float]) -> list[float]:
    """Return the p-values of several groups, adjusted for testing all of them: Holm 1979."""
    order = np.argsort(p_G)
    raised = np.asarray(p_G, dtype=float)[order] * np.arange(len(p_G), 0, -1)
    adjusted = np.empty(len(p_G))
    adjusted[order] = np.maximum.accumulate(raised).clip(max=1.0)
    return [float(p) for p in adjusted]


def seeds_that_decide(mid: float, sd: float, margin: float, *, alpha: float, at_least: int = 6) -> int | None:
    """Return the number of seeds that decide an effect of this size with probability 0.8; None if more than a thousand.

    Power by the shifted t approximation: t(1 - alpha / 2) + t(0.8) standard errors between the effect and the margin.
    """
    distance = abs(abs(mid) - margin)
    if not (distance > 0 and math.isfinite(sd)):
        return None
    for seeds in range(at_least, MOST_SEEDS + 1):
        needed = t_quantile(alpha, seeds - 1) + float(special.stdtrit(seeds - 1, POWER))
        if distance >= needed * sd / math.sqrt(seeds):
            return seeds
    return None


def smallest_effect(sd: float, margin: float, *, alpha: float, seeds: int) -> float:
    """Return the smallest effect that so many seeds find beyond the margin with probability 0.8, as above."""
    needed = t_quantile(alpha, seeds - 1) + float(special.stdtrit(seeds - 1, POWER))
    return margin + needed * sd / math.sqrt(seeds)
