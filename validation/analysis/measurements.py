"""Measurements: an experiment as the numbers that a decision needs, effects over seeds or over the experts of one run.

They are computed once and never change.
Axis letters: U units, V units of the other group, K bins; 3: the whole run, its beginning, its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from validation.analysis.intervals import Interval, fieller, p_beyond, pooled, student, welch
from validation.analysis.statistics import Array

MOST_EXCHANGES = 0.025
"""The share of exchanges of roles that may reach as far as an effect beyond its margin."""


@dataclass(frozen=True, eq=False)
class Effect:
    """An effect: its values in each unit, and the margin that it is compared to.

    Over seeds a unit is a run. Within one run a unit is an expert: x_U3 are the perturbed ones, y_V3 the controls.
    """

    name: str
    margin: float
    two_sided: bool
    x_U3: Array
    y_V3: Array | None = None
    x_UK: Array = field(default_factory=lambda: np.empty((0, 0)))
    """The units by bin, as charts show them: within one run less the mean of the control experts."""
    exchanges: tuple[float, float] = (0.0, 0.0)
    """Over seeds, the shares of exchanges of roles within runs that give as low and as high a mean.

    0 with twins, and where the interval is not beyond the margin: then nobody asks.
    """
    opposed: tuple[float, float] | None = None
    """Over seeds, the lowest and the highest layer, where one surely lies below minus the margin and one above it."""

    def interval(self, alpha: float, column: int = 0) -> Interval:
        """Return the estimate with its interval at alpha: Student over seeds, Welch within one run.

        column: 0 for the whole run, 1 for its beginning, 2 for its end.
        """
        x_U = self.x_U3[:, column]
        return student(x_U, alpha) if self.y_V3 is None else welch(x_U, self.y_V3[:, column], alpha)

    def beyond(self, alpha: float) -> bool:
        """Return True if the effect surely exceeds its margin, and no odd expert explains it."""
        return self.outside(alpha) and not self.by_exchange(alpha)

    def outside(self, alpha: float) -> bool:
        """Return True if the whole interval exceeds the margin."""
        return self.interval(alpha).beyond(self.margin, two_sided=self.two_sided)

    def by_exchange(self, alpha: float) -> bool:
        """Return True if experts that differ whatever their role may give as large an effect.

        Over seeds roles are exchanged. Within one run, where few experts are compared to many, those few may agree by
        chance: the interval with the variance of all must exceed the margin as well.
        """
        if self.y_V3 is None:
            return self._is_common_by_exchange
        found = pooled(self.x_U3[:, 0], self.y_V3[:, 0], alpha)
        return not found.beyond(self.margin, two_sided=self.two_sided)

    @property
    def _is_common_by_exchange(self) -> bool:
        """True if too many exchanges of roles over seeds reach as far, to the side on which the effect lies."""
        return self.exchanges[bool(self.x_U3[:, 0].mean() > 0)] > MOST_EXCHANGES

    def inside(self, alpha: float) -> bool:
        """Return True if an effect as large as the margin is ruled out."""
        return self.interval(alpha).inside(self.margin, two_sided=self.two_sided)

    def early(self, alpha: float) -> bool:
        """Return True if the effect surely exceeded its margin at the beginning."""
        return self.interval(alpha, 1).beyond(self.margin, two_sided=self.two_sided)

    def kept(self, alpha: float) -> Interval:
        """Return the share of the first effect that is left at the end: Fieller's interval over the paired units."""
        return fieller(self.x_U3[:, 1:], alpha, None if self.y_V3 is None else self.y_V3[:, 1:])

    def p(self) -> float:
        """Return the smallest alpha at which the effect over seeds surely exceeds its margin."""
        if self.y_V3 is not None or self._is_common_by_exchange:
            return 1.0
        return p_beyond(self.x_U3[:, 0], self.margin, two_sided=self.two_sided)

    def with_least_favourable(self, missing: int) -> list[Effect]:
        """Return the effect as if `missing` more units were the smallest of all, the largest, fading or growing."""
        low, high = self.x_U3.min(axis=0), self.x_U3.max(axis=0)
        fading, growing = np.stack([low, high, low]).diagonal(), np.stack([high, low, high]).diagonal()
        ends = (low, high, fading, growing)
        return [replace(self, x_U3=np.vstack([self.x_U3, np.tile(end, (missing, 1))])) for end in ends]


@dataclass(frozen=True, eq=False)
class Measurements:
    """An experiment as numbers: runs that differ only in the seed, or one run."""

    alpha: float
    effects: Mapping[str, Effect]
    """By name; an effect that could not be measured is not there."""
    units: int
    """Seeds, or in one run the experts of the rarer role."""
    units_needed: int
    single: bool = False
    """True if the units are the experts of one run."""
    runs: int = 1
    without_verdict: int = 0
    """Runs whose data carries no verdict."""
    valid: tuple[str, ...] = ()
    """Ids of the runs that carry one, in the order of the units of effects over seeds."""
    copies: str = ""
    """The reason why runs are no replicas of each other; empty if they are."""
    sham: bool = False
    """True if nothing was perturbed in these runs."""
    sham_effects: Mapping[str, Effect] = field(default_factory=dict)
    """The effects of the sham runs by themselves; empty without enough of them."""
    control: str | None = None
    """The control of the perturbed experts: control_expert, frozen_routing, sham_run; None without any."""
    twins: bool = False
    """True if the sham run of the same seed is subtracted from every run."""
    common_gradients: int = 0
    """Runs in which all experts share one gradient."""
    control_direction: Effect | None = None
    """Direction of the control experts, with the margin above which it cannot show more; None where not measured."""
    source: str = "merged"
    """Source of the gradients: merged, or isolated."""
    noisy: bool = False
    """True if experts see batches of their own, and directions are not corrected for the noise of these batches."""
    corrected: bool = False
    """True if sizes and directions are corrected for the noise of the batch."""
    unclear: bool = False
    """True if directions were measured, but are mostly noise."""
    load: Effect | None = None
    """Log of the experts' routing shares, with the margin of sizes, of merged gradients; None where none are logged."""
    shares_missing: bool = False
    """True if the sizes of a run's merged gradients cannot be told from its routing shares, which are not logged."""
    means_only: bool = False
    """True if a run of several layers holds nothing but means over them."""
    bins: int = 6
    """Bins of time that are judged; fewer than six at an interim look at unfinished runs."""
    planned_rows: bool = True
    """False if a run plans fewer rows than bins."""
    sustained_share: float = 0.5
