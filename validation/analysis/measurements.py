"""Measurements: an experiment as the numbers that a decision needs, effects over seeds or over the experts of one run.

They are computed once and never change. Version 2 of the rules (verdict/rules.py) decides by them; version 1, which is
in force, does not. Axis letters: S seeds, U units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from validation.analysis.intervals import Interval, fieller, student, welch
from validation.analysis.statistics import Array


@dataclass(frozen=True, eq=False)
class Effect:
    """An effect: its value in each unit, and the margin that it is compared to.

    Over seeds a unit is a run, x_U its effect, and first_U and last_U the effect early and late. Within one run a unit
    is an expert: x_U are the perturbed ones, y_U the control experts, and there is no first and last.
    """

    name: str
    margin: float
    two_sided: bool
    x_U: Array
    y_U: Array | None = None
    first_U: Array = field(default_factory=lambda: np.empty(0))
    last_U: Array = field(default_factory=lambda: np.empty(0))

    def interval(self, alpha: float) -> Interval:
        """Return the estimate with its interval at alpha: Student over seeds, Welch within one run."""
        return student(self.x_U, alpha) if self.y_U is None else welch(self.x_U, self.y_U, alpha)

    def beyond(self, alpha: float) -> bool:
        """Return True if the effect surely exceeds its margin."""
        return self.interval(alpha).beyond(self.margin, two_sided=self.two_sided)

    def inside(self, alpha: float) -> bool:
        """Return True if an effect as large as the margin is ruled out."""
        return self.interval(alpha).inside(self.margin, two_sided=self.two_sided)

    def early(self, alpha: float) -> bool:
        """Return True if the effect surely exceeded its margin at the beginning."""
        return student(self.first_U, alpha).beyond(self.margin, two_sided=self.two_sided)

    def kept(self, alpha: float) -> Interval:
        """Return the share of the first effect that is left at the end: Fieller's interval over the paired seeds."""
        return fieller(self.first_U, self.last_U, alpha)

    def with_least_favourable(self, missing: int) -> tuple[Effect, Effect]:
        """Return the effect as if `missing` more units had the smallest value of all, and the largest."""

        def extended(values: Array, filler: float) -> Array:
            return np.append(values, np.full(missing if len(values) else 0, filler))

        low, high = (
            Effect(
                self.name,
                self.margin,
                self.two_sided,
                extended(self.x_U, float(pick(self.x_U))),
                self.y_U,
                extended(self.first_U, float(pick(self.first_U)) if len(self.first_U) else 0.0),
                extended(self.last_U, float(pick(self.last_U)) if len(self.last_U) else 0.0),
            )
            for pick in (np.min, np.max)
        )
        return low, high


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
    replicas: bool = True
    """False if a seed is unknown or there twice, or if two runs are copies."""
    sham_effects: Mapping[str, Effect] = field(default_factory=dict)
    """What the sham runs show by themselves; empty without sham runs."""
    compared: bool = True
    """False without control experts and without sham runs of the same seeds."""
    common_gradients: int = 0
    """Runs in which all experts share one gradient."""
    control_direction: Effect | None = None
    """Direction of the control experts, with the margin above which it cannot show more; None where not measured."""
    sustained_share: float = 0.5
