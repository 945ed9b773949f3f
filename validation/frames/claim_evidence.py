"""The evidence of a claim as rows to draw: its effects in six bins of time, by seed or expert, and what decides.

Axis letters: U units (seeds, or perturbed experts of one run), K bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import Cohort, MeasuredRun
from validation.analysis.effects import DIRECTION, ENDS, Levels
from validation.analysis.experiment import CONTROL_EXPERT, SHAM_RUN, measure
from validation.analysis.measurements import Effect, Measurements
from validation.analysis.statistics import Array
from validation.verdict.claims import Claim, Component
from validation.verdict.words.wording import KEPT, QUANTITIES, shown

COMPARED = {
    CONTROL_EXPERT: "perturbed against control experts",
    SHAM_RUN: "perturbed experts against the same experts of the sham run",
}


@dataclass(frozen=True, eq=False)
class EffectEvidence:
    """An effect of a claim by bin, in the unit in which people read it."""

    title: str
    compared: str
    """The experts that the effect compares."""
    ratio: bool
    """True for factors (logarithmic axis around 1), False for differences (around 0)."""
    units: tuple[str, ...]
    """The name of each seed or expert."""
    edges: Array
    """Steps at which bins begin and end, [K + 1]."""
    values_UK: Array
    """NaN where a bin is missing or not judged yet."""
    mean_K: Array
    interval: tuple[float, float, float] | None
    """Lower bound, estimate and upper bound over the whole run; None without bounds, and for sustainment."""
    margins: tuple[float, ...]
    """Values that the interval must pass, on both sides if the sign does not matter; for sustainment what must stay."""
    ends: tuple[tuple[float, float, float], ...] = ()
    """First step, last step and mean of the first and the last two bins; for sustainment only."""


def claim_evidence(
    runs: Sequence[MeasuredRun], claims: Iterable[Claim], cohort: Cohort, thresholds: Thresholds
) -> dict[str, list[EffectEvidence]]:
    """Return the evidence by claim, for each effect that the claim names. claims: about these runs together."""
    m = measure(runs, cohort, thresholds, {})
    valid = [each for each in runs if each.run.id in m.valid]
    levels = next((own for each in valid if (own := each.levels(m.source)) is not None), None)
    if levels is None:
        return {}
    units = [f"run {each.run.id}" if each.run.seed is None else f"seed {each.run.seed}" for each in valid]
    if m.single:
        units = [f"expert {levels.experts[place]}" for place in levels.role("perturbed")]
    return {
        claim.name: [_evidence(m.effects[part.name], part, m, levels, units) for part in claim.components]
        for claim in claims
    }


def _evidence(effect: Effect, part: Component, m: Measurements, levels: Levels, units: Sequence[str]) -> EffectEvidence:
    known_UK = np.isfinite(effect.x_UK)
    with np.errstate(invalid="ignore"):
        mean_K = np.where(known_UK, effect.x_UK, 0.0).sum(axis=0) / known_UK.sum(axis=0)
    sides = (1, -1) if effect.two_sided else (1,)
    bounds = (part.low, part.estimate, part.high)
    compared = COMPARED.get(m.control or "", "perturbed experts against the clean expert")
    found = EffectEvidence(
        QUANTITIES[effect.name],
        f"{compared}, beyond the sham run" if m.twins and m.control != SHAM_RUN else compared,
        effect.name != DIRECTION,
        tuple(units),
        levels.bins.edges,
        _shown(effect, effect.x_UK),
        _shown(effect, mean_K),
        None if None in bounds else bounds,  # type: ignore[arg-type]
        tuple(shown(effect.name, side * effect.margin) for side in sides),
    )
    return _with_ends(found, effect, part) if part.unit == KEPT else found


def _with_ends(found: EffectEvidence, effect: Effect, part: Component) -> EffectEvidence:
    """Return the evidence of sustainment: the means of the first and the last bins, and the share that must stay."""
    first, last = (effect.interval(0.05, column).mid for column in (1, 2))
    begin, until, since, end = found.edges[[0, ENDS, -1 - ENDS, -1]].tolist()
    ends = ((begin, until, shown(effect.name, first)), (since, end, shown(effect.name, last)))
    return replace(found, interval=None, margins=(shown(effect.name, part.threshold * first),), ends=ends)


def _shown(effect: Effect, values: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(values if effect.name == DIRECTION else np.exp(values))
