"""The evidence for the claims about one expert: its series, the rows that count, their estimates and margins.

Isolated gradients are preferred where the probe measured enough of them, because routing has no part in them.
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
from validation.analysis.controls import CONTROL_EXPERT, Cohort, Control, control_of
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array, Batches, Estimate, batched, half_width


@dataclass(frozen=True)
class Evidence:
    """The series of one expert, restricted to the rows after the warm-up in which every tier is usable."""

    run: Run
    expert: Expert
    thresholds: Thresholds
    rows: NDArray[np.bool_]
    collinear: bool
    control: Control | None
    """The control of the divergence; None if these runs have none."""
    divergence: dict[str, Array]
    """Log ratios by tier, or {"direction": 1 - cosine}, beyond routing and control."""
    above_noise: Array | None
    """Direction beyond the difference between two halves of one batch; None if not measured."""
    cohort: Cohort

    @property
    def directional(self) -> bool:
        """True if divergence is judged by direction (1 - cosine), False if by the norm of each tier."""
        return "direction" in self.divergence

    @cached_property
    def margin(self) -> float:
        """The threshold of divergence, on the scale of its series."""
        directional = self.directional
        fixed = self.thresholds.divergence_direction if directional else math.log(self.thresholds.divergence_ratio)
        return max(fixed, *(self.spread(name) for name in self.divergence))

    def spread(self, name: str) -> float:
        """Return the spread of a series between sham runs, times the required number of standard deviations."""
        return self.thresholds.sham_spread * self.cohort.spread(self.run, name, self.control)[0]

    def usable(self, series_T: Array) -> Array:
        """Return the finite values of a series in the rows that count."""
        values = series_T[self.rows]
        return np.asarray(values[np.isfinite(values)])

    def estimate(self, series_T: Array, *, related: Sequence[Array] = ()) -> Estimate:
        """Return the mean of a series."""
        noise = [self.usable(other_T) for other_T in related]
        return batched(self.usable(series_T), related=noise).mean(self.thresholds.alpha)

    def divergence_estimate(self, name: str) -> Estimate:
        """Return the mean of one series of divergence, with the spread between draws if it can be estimated."""
        alpha = self.thresholds.alpha / len(self.divergence)  # Bonferroni: three tiers are three chances to be wrong
        effect = batched(self.usable(self.divergence[name]), related=self.related).mean(alpha)
        draws = (self.control.draws or {}).get(name) if self.control else None
        return effect.widened(half_width(draws.error, draws.freedom, alpha)) if draws else effect

    def over_time(self, series_T: Array) -> Batches:
        """Return the batch means of a series that may bend."""
        return batched(self.usable(series_T), trend=3, related=self.related)

    @cached_property
    def related(self) -> list[Array]:
        """The series with the same noise: the tiers of this expert, or the directions of all perturbed experts."""
        if not self.directional:
            return [self.usable(values) for values in self.divergence.values()]
        if self.control is None or self.control.kind != CONTROL_EXPERT or self.control.baseline is None:
            return []
        baseline = self.control.baseline["direction"]
        return [self.usable(e["direction"] - baseline) for e in self.run.of_role("perturbed")]

    @property
    def bottom_gain(self) -> Array:
        """The gain of the bottom tier beyond the middle tier, as log ratio to the clean expert."""
        return series.bottom_gain(self.expert, self.run.experts[0])

    @cached_property
    def gain_estimate(self) -> Estimate:
        """The mean of `bottom_gain`, with the spread between draws if it can be estimated."""
        effect = self.estimate(self.bottom_gain, related=series.related_gains(self.run))
        draws = self.cohort.draws_of_gain(self.run)
        return effect.widened(half_width(draws.error, draws.freedom, self.thresholds.alpha)) if draws else effect

    @cached_property
    def oriented(self) -> Array:
        """The divergence as one series: the direction, or the mean over tiers after making each tier's sum positive.

        Two tiers that differ in opposite ways would otherwise cancel.
        """
        if self.directional:
            return self.divergence["direction"]
        turned = [values * np.sign(np.nansum(values[self.rows])) for values in self.divergence.values()]
        return np.asarray(np.mean(turned, axis=0))


def evidence_of(run: Run, expert: Expert, cohort: Cohort, thresholds: Thresholds) -> Evidence:
    """Return the evidence about one perturbed expert; a sham run of the cohort can be its control."""
    isolated = run.isolated
    if isolated is not None and expert.index in isolated.experts and 0 in isolated.experts:
        same = isolated.experts[expert.index]
        if _usable_rows(isolated, same, thresholds).sum() >= thresholds.min_points:
            run, expert = isolated, same
    control = control_of(run, expert, cohort)
    divergence = series.divergence(run, expert)
    if control is not None and control.baseline is not None:
        divergence = {name: values - control.baseline[name] for name, values in divergence.items()}
    return Evidence(
        run=run,
        expert=expert,
        thresholds=thresholds,
        rows=_usable_rows(run, expert, thresholds),
        collinear=series.is_collinear(run, expert.index),
        control=control,
        divergence=divergence,
        above_noise=series.above_noise(run, expert),
        cohort=cohort,
    )


def _usable_rows(run: Run, expert: Expert, thresholds: Thresholds) -> NDArray[np.bool_]:
    """Return the rows after the warm-up in which this expert and the clean one have every tier."""
    return expert.tiers_usable & run.experts[0].tiers_usable & run.after_warmup(thresholds.warmup)
