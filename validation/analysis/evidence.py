"""The series that the claims about one expert are decided from, and what can be said of their means.

Isolated gradients are preferred where the probe has measured enough of them: the routing has no part in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.thresholds import Thresholds
from validation.analysis import series
from validation.analysis.controls import CONTROL_EXPERT, BetweenDraws, Cohort, Control, control_of
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array, Batches, Estimate, batched, t_half


@dataclass(frozen=True)
class Evidence:
    """What the claims of one expert are decided from: rows after the warm-up in which every series is usable."""

    run: Run
    expert: Expert
    thresholds: Thresholds
    rows: NDArray[np.bool_]
    collinear: bool
    control: Control | None
    """What the divergence was compared to; None if nothing in the cohort can tell its cause."""
    divergence: dict[str, Array]
    """By tier log ratios, or {"direction": 1 - cosine}, beyond routing and beyond the control."""
    above_noise: Array | None
    """Direction beyond what two halves of the same batch differ by; None where that was not measured."""
    cohort: Cohort

    @property
    def directional(self) -> bool:
        """Whether divergence is judged by direction, 1 - cosine, or by the size of each tier."""
        return "direction" in self.divergence

    @cached_property
    def margin(self) -> float:
        """What a divergence must exceed to count, on the scale of its series."""
        fixed = self.thresholds.divergence_direction if self.directional else math.log(self.thresholds.divergence_ratio)
        return max(fixed, *(self.spread(name) for name in self.divergence))

    def spread(self, name: str) -> float:
        """What differs between sham runs by chance, times the number of standard deviations that are asked for."""
        return self.thresholds.sham_spread * self.cohort.spread(self.run, name, self.control)[0]

    def kept(self, series_T: Array) -> Array:
        """The series in the rows that count."""
        kept = series_T[self.rows]
        return np.asarray(kept[np.isfinite(kept)])

    def estimate(self, series_T: Array, *, related: Sequence[Array] = ()) -> Estimate:
        """The mean of a series."""
        return batched(self.kept(series_T), related=[self.kept(one) for one in related]).mean(self.thresholds.alpha)

    def level(self, name: str) -> Estimate:
        """The mean of one series of divergence, with the spread between draws where that can be seen."""
        alpha = self.thresholds.alpha / len(self.divergence)  # three tiers are three chances to be wrong
        effect = batched(self.kept(self.divergence[name]), related=self.related).mean(alpha)
        draws = (self.control.draws or {}).get(name) if self.control else None
        return effect.widened(t_half(draws.error, draws.freedom, alpha)) if draws else effect

    def over_time(self, series_T: Array) -> Batches:
        """A series of divergence that may bend."""
        return batched(self.kept(series_T), trend=3, related=self.related)

    @cached_property
    def related(self) -> list[Array]:
        """Series whose noise is alike: the tiers of this expert, or the directions of all perturbed experts."""
        if not self.directional:
            return [self.kept(values) for values in self.divergence.values()]
        if self.control is None or self.control.kind != CONTROL_EXPERT or self.control.baseline is None:
            return []
        baseline = self.control.baseline["direction"]
        return [self.kept(e["direction"] - baseline) for e in self.run.of_role("perturbed")]

    @property
    def bottom_gain(self) -> Array:
        """What the bottom tier gained beyond the middle tier, as log ratio to the clean expert."""
        return series.bottom_gain(self.expert, self.run.experts[0])

    @cached_property
    def gain_estimate(self) -> Estimate:
        """The mean of `bottom_gain`, with the spread between draws where that can be seen."""
        effect = self.estimate(self.bottom_gain, related=series.related_gains(self.run))
        draws: BetweenDraws | None = self.cohort.draws_of_gain(self.run)
        return effect.widened(t_half(draws.error, draws.freedom, self.thresholds.alpha)) if draws else effect

    @cached_property
    def oriented(self) -> Array:
        """One series of divergence: direction as it is; of sizes the mean over tiers, each turned to be positive.

        Two tiers that differ in opposite ways would otherwise cancel.
        """
        if self.directional:
            return self.divergence["direction"]
        turned = [values * np.sign(np.nansum(values[self.rows])) for values in self.divergence.values()]
        return np.asarray(np.mean(turned, axis=0))


def evidence_of(run: Run, expert: Expert, cohort: Cohort, thresholds: Thresholds) -> Evidence:
    """What the claims about one perturbed expert are decided from; a sham run in the cohort can be the control."""
    alone = run.isolated
    if alone is not None and expert.index in alone.experts and 0 in alone.experts:
        twin = alone.experts[expert.index]
        if _usable(alone, twin, thresholds).sum() >= thresholds.min_points:
            run, expert = alone, twin
    control = control_of(run, expert, cohort)
    divergence = series.divergence(run, expert)
    if control is not None and control.baseline is not None:
        divergence = {name: values - control.baseline[name] for name, values in divergence.items()}
    return Evidence(
        run=run,
        expert=expert,
        thresholds=thresholds,
        rows=_usable(run, expert, thresholds),
        collinear=series.is_collinear(run, expert.index),
        control=control,
        divergence=divergence,
        above_noise=series.above_noise(run, expert),
        cohort=cohort,
    )


def _usable(run: Run, expert: Expert, thresholds: Thresholds) -> NDArray[np.bool_]:
    """Rows after the warm-up in which both experts have every tier."""
    return expert.tiers_usable & run.experts[0].tiers_usable & run.after_warmup(thresholds.warmup)
