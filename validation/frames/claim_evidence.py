"""The evidence of a claim as rows to draw: its effects in six bins of time, by seed or expert, and what decides.

Axis letters: U units (seeds, or perturbed experts of one run), K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import Cohort, MeasuredRun
from validation.analysis.distinct import LAST
from validation.analysis.effects import DIRECTION, ENDS, Levels
from validation.analysis.experiment import measure
from validation.analysis.measurements import Effect, Measurements
from validation.analysis.statistics import Array
from validation.verdict.claims import DISTINCT, Claim, Component, Reason
from validation.verdict.words.wording import KEPT, PAIRS, QUANTITIES, compared_with, quantity_of, shown


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
    over: int | None = None
    """The number of last bins that the interval is over; None for all."""


def claim_evidence(
    runs: Sequence[MeasuredRun], claims: Sequence[Claim], cohort: Cohort, thresholds: Thresholds
) -> dict[str, list[EffectEvidence]]:
    """Return the evidence by claim, for each effect that the claim names. claims: about these runs together."""
    found = {claim.name: _of_distinct(runs, claim, cohort) for claim in claims if claim.name == DISTINCT}
    others = [claim for claim in claims if claim.name != DISTINCT and claim.reason != Reason.NO_PERTURBATION]
    return found | (_of_effects(runs, others, cohort, thresholds) if others else {})


def _of_effects(
    runs: Sequence[MeasuredRun], claims: Sequence[Claim], cohort: Cohort, thresholds: Thresholds
) -> dict[str, list[EffectEvidence]]:
    m = measure(runs, cohort, thresholds, {})
    valid = [each for each in runs if each.run.id in m.valid]
    levels = next((own for each in valid if (own := each.levels(m.source)) is not None), None)
    if levels is None:
        return {}
    units = [_seed_name(each) for each in valid]
    if m.single:
        units = [f"expert {levels.experts[place]}" for place in levels.role("perturbed")]
    return {
        claim.name: [_evidence(m.effects[part.name], part, m, levels, units) for part in claim.components]
        for claim in claims
    }


def _of_distinct(runs: Sequence[MeasuredRun], claim: Claim, cohort: Cohort) -> list[EffectEvidence]:
    """Return the direction between the experts by bin: of each seed its mean over pairs, of one run each expert's."""
    valid = [each for each in runs if cohort.carries_verdict(each) and each.pairs is not None]
    first = valid[0] if valid else None
    if first is None or first.pairs is None or first.isolated is None or claim.threshold is None:
        return []
    level_SEEK = [each.pairs.of[DIRECTION] for each in valid if each.pairs is not None]
    if len(valid) > 1:
        units = tuple(_seed_name(each) for each in valid)
        values_UK = np.stack([_mean_over(level_EEK, (0, 1)) for level_EEK in level_SEEK])
    else:
        units = tuple(f"expert {expert}" for expert in first.pairs.experts)
        values_UK = _mean_over(level_SEEK[0], (1,))
    bounds = (claim.low, claim.estimate, claim.high)
    return [
        EffectEvidence(
            QUANTITIES[PAIRS],
            "each expert compared with each other on the same batch, mean over pairs; the last third decides",
            False,
            units,
            first.isolated.bins.edges,
            values_UK,
            _mean_over(values_UK, (0,)),
            None if None in bounds else bounds,  # type: ignore[arg-type]
            (claim.threshold,),
            over=LAST,
        )
    ]


def _mean_over(values: Array, axes: tuple[int, ...]) -> Array:
    """Return the mean of the finite values over some axes; NaN without any."""
    known = np.isfinite(values)
    count = known.sum(axis=axes)
    total = np.where(known, values, 0.0).sum(axis=axes)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _seed_name(each: MeasuredRun) -> str:
    return f"run {each.run.id}" if each.run.seed is None else f"seed {each.run.seed}"


def _evidence(effect: Effect, part: Component, m: Measurements, levels: Levels, units: Sequence[str]) -> EffectEvidence:
    known_UK = np.isfinite(effect.x_UK)
    with np.errstate(invalid="ignore"):
        mean_K = np.where(known_UK, effect.x_UK, 0.0).sum(axis=0) / known_UK.sum(axis=0)
    sides = (1, -1) if effect.two_sided else (1,)
    bounds = (part.low, part.estimate, part.high)
    found = EffectEvidence(
        quantity_of(effect.name, m.control),
        f"compared with {compared_with(m.control, twins=m.twins)}",
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
