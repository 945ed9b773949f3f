"""Experiments as measurements: runs of one group over their seeds, or one run over its experts.

Axis letters: S seeds, E experts, K bins; 3: the whole run, its beginning, its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.bins import BINS
from validation.analysis.cohort import Cohort, MeasuredRun
from validation.analysis.copies import false_twin, no_replicas
from validation.analysis.effects import (
    BOTTOM,
    DIRECTION,
    LOAD,
    SIZE,
    TIER_SIZES,
    TWO_SIDED,
    Levels,
    effect_K,
    effect_LK,
    expert_levels,
    over_time,
)
from validation.analysis.intervals import exchanged, student
from validation.analysis.measurements import Effect, Measurements
from validation.analysis.statistics import Array

CONTROL_EXPERT, FROZEN_ROUTING, SHAM_RUN = "control_expert", "frozen_routing", "sham_run"
LOOKS = (2, 4)  # complete bins at which unfinished runs are judged
LOOK_SHARE = 1 / 4  # of alpha, at each look

Pair = tuple[Levels, Levels | None]
"""The levels of a run, and of its twin where twins are subtracted."""


def margin_of(name: str, thresholds: Thresholds) -> float:
    """Return the margin of an effect, on the scale of its level."""
    if name == DIRECTION:
        return thresholds.divergence_direction
    return math.log(thresholds.awakening_ratio if name == BOTTOM else thresholds.divergence_ratio)


def measure(
    runs: Sequence[MeasuredRun], cohort: Cohort, thresholds: Thresholds, sham_effects: Mapping[str, Effect]
) -> Measurements:
    """Return runs that differ only in the seed as measurements over the seeds; a single run by its experts.

    Runs without a verdict are left out and counted. sham_effects: see `effects_of_shams`.
    """
    valid = [each for each in runs if cohort.carries_verdict(each)]
    m = Measurements(
        alpha=thresholds.alpha,
        effects={},
        units=len(valid),
        units_needed=int(thresholds.min_seeds),
        single=len(runs) == 1,
        runs=len(runs),
        without_verdict=len(runs) - len(valid),
        valid=tuple(each.run.id for each in valid),
        sham=runs[0].run.is_sham,
        sham_effects=sham_effects,
        sustained_share=thresholds.sustained_share,
    )
    if not valid:
        return m
    source, pairs, reason = _paired(valid, cohort)
    bins = bins_judged([levels for pair in pairs for levels in pair if levels is not None])
    m = _described(m, valid, [own for own, _ in pairs], source)
    pairs = [(own.until(bins), None if twin is None else twin.until(bins)) for own, twin in pairs]
    m = replace(
        m,
        copies=reason,
        control=_control(pairs),
        twins=pairs[0][1] is not None,
        bins=bins,
        alpha=thresholds.alpha * (1.0 if bins == BINS else LOOK_SHARE),
    )
    m = _by_expert(m, pairs[0], thresholds) if m.single else _by_seed(m, pairs, thresholds)
    return replace(m, unclear=m.corrected and bins > 0 and DIRECTION not in m.effects)


def effects_of_shams(runs: Sequence[MeasuredRun], cohort: Cohort, thresholds: Thresholds) -> dict[str, Effect]:
    """Return the effects that the sham runs of a group show by themselves; none for too few of them."""
    source = source_of([each for each in runs if each.run.id not in cohort.invalid])
    levels = [own for sham in cohort.shams_of(runs[0].run) if (own := sham.levels(source)) is not None]
    pairs: list[Pair] = [(own, None) for own in levels if len(own.controls) and own.bins.complete == BINS]
    if len(pairs) < thresholds.min_seeds:
        return {}
    return {name: _over_seeds(name, pairs, thresholds) for name in _names(pairs, BINS)}


def _paired(runs: Sequence[MeasuredRun], cohort: Cohort) -> tuple[str, list[Pair], str]:
    """Return the source of gradients, the levels of each run and of its twin, and a reason against their independence.

    All runs are judged by isolated gradients or none, and all have a twin or none is subtracted.
    """
    source = source_of(runs)
    own = [levels for each in runs if (levels := each.levels(source)) is not None]
    shams = [cohort.twin_of(each.run) for each in runs]
    twins = [None if sham is None else sham.levels(source) for sham in shams]
    reason = no_replicas(runs, own)
    paired: list[Pair] = [(o, t) for o, t in zip(own, twins, strict=True) if t is not None and _alike(o, t)]
    if len(paired) < len(runs):
        return source, [(levels, None) for levels in own], reason
    reason = reason or no_replicas([sham for sham in shams if sham], [twin for _, twin in paired if twin])
    problems = (false_twin(each, sham, *p) for each, sham, p in zip(runs, shams, paired, strict=True))
    return source, paired, reason or next(filter(None, problems), "")


def source_of(runs: Sequence[MeasuredRun]) -> str:
    """Return the one source of gradients that all runs of a group are judged by."""
    return "isolated" if runs and all(each.source == "isolated" for each in runs) else "merged"


def _alike(own: Levels, twin: Levels) -> bool:
    """Return True if each expert has a counterpart, measured in the same way."""
    same = own.roles == twin.roles and own.of.keys() == twin.of.keys()
    corrected = (own.reliability_ELK is None) == (twin.reliability_ELK is None)
    return same and corrected and own.of[BOTTOM].shape == twin.of[BOTTOM].shape


def bins_judged(levels: Sequence[Levels]) -> int:
    """Return the number of bins to judge: all of finished runs, else those of the last interim look."""
    complete = min(each.bins.complete for each in levels)
    return complete if complete == BINS else max((look for look in LOOKS if look <= complete), default=0)


def _described(m: Measurements, valid: Sequence[MeasuredRun], own: Sequence[Levels], source: str) -> Measurements:
    """Return the measurements with what the runs are, apart from their effects."""
    corrected = all(levels.reliability_ELK is not None for levels in own)
    runs = [each.run for each in valid]
    return replace(
        m,
        source=source,
        common_gradients=sum(each.common_gradient for each in valid) if source == "merged" else 0,
        corrected=corrected,
        noisy=not corrected and source == "merged" and not all(run.same_batch for run in runs),
        shares_missing=any(levels.shares_missing for levels in own),
        means_only=any(levels.means_only for levels in own),
        planned_rows=all(levels.bins.enough_planned for levels in own),
    )


def _control(pairs: Sequence[Pair]) -> str | None:
    if all(len(own.role("control")) for own, _ in pairs):
        return CONTROL_EXPERT
    if all(len(own.controls) for own, _ in pairs):
        return FROZEN_ROUTING
    return SHAM_RUN if pairs[0][1] is not None else None


def _names(pairs: Sequence[Pair], bins: int) -> list[str]:
    """Return the effects that every run and twin has, measured in one way and in a common bin."""
    levels = [each for pair in pairs for each in pair if each is not None]
    common = set.intersection(*(each.measured(bins) for each in levels))
    common -= {name for name in common for own, twin in pairs if not _common_bins(name, own, twin)}
    if len({each.reliability_ELK is None for each in levels}) > 1:
        common &= {BOTTOM}
    divergence = [SIZE, DIRECTION] if {SIZE, DIRECTION} <= common else [*TIER_SIZES]
    return [name for name in (BOTTOM, *divergence) if name in common]


def _common_bins(name: str, own: Levels, twin: Levels | None) -> int:
    """Return the number of bins in which the effect of a run and of its twin is known."""
    known = [np.isfinite(each.of[name]).all(axis=(0, 1)) for each in (own, twin) if each is not None]
    return int(np.all(known, axis=0).sum())


def _by_seed(m: Measurements, pairs: Sequence[Pair], thresholds: Thresholds) -> Measurements:
    names = _names(pairs, m.bins)
    effects = {name: _over_seeds(name, pairs, thresholds) for name in names}
    loads = [each for each in map(_loads, pairs) if each is not None]
    load = _over_seeds(LOAD, loads, thresholds) if pairs and len(loads) == len(pairs) else None
    seen = pairs if DIRECTION in names else []
    controls_S3 = np.array([over_time(_control_direction(*pair).mean(axis=(0, 1))) for pair in seen])
    return replace(m, effects=effects, load=load, control_direction=_saturation(controls_S3, m, thresholds))


def _loads(pair: Pair) -> Pair | None:
    """Return the routing shares of a run and its twin in place of their effects; None where they are not known."""
    own, twin = (None if each is None else each.loads for each in pair)
    return None if own is None or (twin is None) != (pair[1] is None) else (own, twin)


def _over_seeds(name: str, pairs: Sequence[Pair], thresholds: Thresholds) -> Effect:
    x_SK = np.stack([effect_K(_comparable(*pair), name, pair[1]) for pair in pairs])
    x_S3 = np.stack([over_time(x_K) for x_K in x_SK])
    opposed = _opposed_layers(name, pairs, thresholds)
    effect = Effect(name, margin_of(name, thresholds), name in TWO_SIDED, x_S3, x_UK=x_SK, opposed=opposed)
    if any(twin is not None for _, twin in pairs) or not effect.outside(thresholds.alpha):
        return effect
    return replace(effect, exchanges=_exchanges(name, pairs))


def _opposed_layers(name: str, pairs: Sequence[Pair], thresholds: Thresholds) -> tuple[float, float] | None:
    """Return the effect in the lowest and in the highest layer, if their mean hides that both are surely there."""
    if len({own.layers for own, _ in pairs}) > 1 or pairs[0][0].layers < 2:
        return None
    x_SL = np.stack([over_time(effect_LK(_comparable(*pair), name, pair[1]))[:, 0] for pair in pairs])
    margin, found = margin_of(name, thresholds), [student(x_S, thresholds.alpha / x_SL.shape[1]) for x_S in x_SL.T]
    low, high = min(found, key=lambda each: each.high), max(found, key=lambda each: each.low)
    return (low.mid, high.mid) if low.high < -margin and high.low > margin else None


def _exchanges(name: str, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return how often exchanging the roles of experts within runs gives as low and as high an effect."""
    level_SE, treated = [], []
    for own, _ in pairs:
        perturbed, controls = own.role("perturbed"), _comparable(own, None).controls
        level_E = over_time(expert_levels(own, name))[:, 0]
        level_SE.append(level_E[np.append(perturbed, controls)])
        treated.append(len(perturbed))
    return exchanged(level_SE, treated)


def _comparable(own: Levels, twin: Levels | None) -> Levels:
    """Return the levels; without any control, those of the clean expert show a difference, though not its cause."""
    return own if len(own.controls) or twin is not None else replace(own, clean_is_control=True)


def _by_expert(m: Measurements, pair: Pair, thresholds: Thresholds) -> Measurements:
    own, twin = _comparable(*pair), pair[1]
    perturbed, controls = own.role("perturbed"), own.controls

    def effect(name: str, own: Levels, twin: Levels | None) -> Effect:
        level_EK = expert_levels(own, name, twin)
        level_E3, y_E3, x_EK = over_time(level_EK), None, level_EK[perturbed]
        if len(controls):
            y_E3, x_EK = level_E3[controls], x_EK - level_EK[controls].mean(axis=0)
        return Effect(name, margin_of(name, thresholds), name in TWO_SIDED, level_E3[perturbed], y_E3, x_EK)

    effects = {name: effect(name, own, twin) for name in _names([pair], m.bins)}
    loads = _loads(pair)
    controls_E3 = over_time(_control_direction(*pair).mean(axis=1)) if DIRECTION in effects else np.empty(0)
    units = min(len(perturbed), len(own.role("control")))
    return replace(
        m,
        effects=effects,
        load=None if loads is None else effect(LOAD, *loads),
        units=units,
        units_needed=int(thresholds.min_experts),
        control_direction=_saturation(controls_E3, m, thresholds),
    )


def _control_direction(own: Levels, twin: Levels | None) -> Array:
    """Return the direction of the control experts, [E, L, K]; without them, of the same experts of the twin."""
    controls = own.role("control")
    if len(controls) or twin is None:
        return own.of[DIRECTION][controls if len(controls) else own.role("clean")]
    return twin.of[DIRECTION][twin.role("perturbed")]


def _saturation(x_U3: Array, m: Measurements, thresholds: Thresholds) -> Effect | None:
    if not len(x_U3) or m.control not in (CONTROL_EXPERT, SHAM_RUN):
        return None
    return Effect(DIRECTION, thresholds.saturated, False, x_U3)
