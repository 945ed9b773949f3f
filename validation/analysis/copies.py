"""Copies among runs that should be replicas: repeated or unknown seeds, equal runs, and a twin that is its run.

Axis letters: S runs, N levels of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from validation.analysis.cohort import SCALE, MeasuredRun
from validation.analysis.effects import BOTTOM, DIRECTION, Levels
from validation.analysis.statistics import Array

SAME_RUN = 0.03  # root mean square between levels of two runs; honest seeds differ by 0.064 and more
SAME_BUT_SCALE = 0.01  # the same less one factor on every gradient; honest seeds differ by 0.048 and more
OF_USUAL = 0.25  # of the median distance of a group; the closest honest seeds of 420 groups had 0.29 and more
SAME_TWIN = 0.01  # the same for a run of scale 1 and its sham run


def no_replicas(runs: Sequence[MeasuredRun], levels: Sequence[Levels]) -> str:
    """Return the reason why these runs do not count as independent, or an empty string."""
    seeds = Counter(each.run.seed for each in runs)
    if len(runs) > 1 and None in seeds:
        return "some runs have no known seed"
    repeated = [seed for seed, count in seeds.items() if count > 1]
    if repeated:
        return f"seed {repeated[0]} is there twice"
    if same := _same_start(runs):
        return f"runs {same[0]} and {same[1]} start from the same weights{same[2]} under two seeds"
    # Where experts share one gradient a run is one smooth series, and seeds look alike; such runs support nothing.
    own = [(r, level) for r, level in zip(runs, levels, strict=True) if not (r.common_gradient and level is r.merged)]
    for places in _by_shape([level for _, level in own]).values():
        whole_SS, scaled_SS = _distances([own[place][1] for place in places])
        share_SS = np.minimum(whole_SS / _limit(whole_SS, SAME_RUN), scaled_SS / _limit(scaled_SS, SAME_BUT_SCALE))
        first, second = np.unravel_index(np.argmin(share_SS), share_SS.shape)
        if share_SS[first, second] < 1:
            names = [own[places[place]][0].run.id for place in (first, second)]
            return f"runs {names[0]} and {names[1]} are copies under two seeds"
    return ""


def false_twin(run: MeasuredRun, sham: MeasuredRun | None, own: Levels, twin: Levels | None) -> str:
    """Return the reason why a sham run is not the twin of a run, or an empty string.

    A perturbation changes levels in proportion to its scale, so a sham run without any difference is the run itself.
    """
    if sham is None or twin is None:
        return ""
    scale = run.run.option(SCALE)
    if _distances([own, twin])[0][0, 1] < SAME_TWIN * min(1.0, 1.0 if scale is None else scale):
        return f"the sham run of run {run.run.id} is a copy of it"
    known = run.run.reproducible and run.run.tier_hashes and sham.run.tier_hashes
    if known and sham.run.tier_hashes != run.run.tier_hashes:
        return f"the sham run of run {run.run.id} starts from other weights, so from another seed"
    return ""


def _same_start(runs: Sequence[MeasuredRun]) -> tuple[str, str, str] | None:
    """Return two runs that differ in nothing but the order of their data, and what they share beside the weights.

    `prismatic train` draws the weights from the seed. Others may begin with one model on purpose, and draw its
    perturbations anew; one draw is one unit, however often it is trained.
    """
    starts: dict[tuple[object, ...], str] = {}
    for run in (each.run for each in runs if each.run.tier_hashes):
        perturbed = "" if run.reproducible else " and the same perturbation"
        drawn = run.perturbation_seeds if run.of_role("perturbed") and not run.is_sham else ()
        if not (run.reproducible or drawn):
            continue
        start = (perturbed, run.tier_hashes, () if run.reproducible else drawn)
        if start in starts:
            return starts[start], run.id, perturbed
        starts[start] = run.id
    return None


def _limit(distance_SS: Array, limit: float) -> float:
    """Return the distance below which two runs are copies: less where all runs of the group lie close together.

    Among many quiet seeds two come close by chance. Copies are far closer than most pairs, unless all are copies.
    """
    usual = float(np.median(distance_SS[np.isfinite(distance_SS)])) if np.isfinite(distance_SS).any() else 0.0
    return limit if usual < limit else min(limit, OF_USUAL * usual)


def _by_shape(levels: Sequence[Levels]) -> dict[tuple[object, ...], list[int]]:
    """Return the places of runs that hold the same effects of as many experts and layers."""
    found: dict[tuple[object, ...], list[int]] = {}
    for place, each in enumerate(levels):
        found.setdefault((*sorted(each.of), each.of[BOTTOM].shape), []).append(place)
    return found


def _distances(levels: Sequence[Levels]) -> Array:
    """Return the root mean square between the levels of each two runs, [2, S, S]; infinite on the diagonal.

    First that of the levels, then that which one factor on every gradient of a run leaves.
    """
    whole_SS, common_SS, shared_SS = np.zeros((3, len(levels), len(levels)))
    for name in levels[0].of:
        level_SN = np.stack([each.of[name].ravel() for each in levels])
        known_SN = np.isfinite(level_SN).astype(float)
        value_SN = np.nan_to_num(level_SN - np.nan_to_num(level_SN[0]))
        squares_SS, sums_SS = value_SN**2 @ known_SN.T, value_SN @ known_SN.T
        count_SS = known_SN @ known_SN.T
        whole_SS += squares_SS + squares_SS.T - 2 * value_SN @ value_SN.T
        common_SS += 0.0 if name == DIRECTION else (sums_SS - sums_SS.T) ** 2 / np.maximum(count_SS, 1)
        shared_SS += count_SS
    squares = np.stack([whole_SS, whole_SS - common_SS])
    distances = np.sqrt(np.maximum(squares, 0) / np.maximum(shared_SS, 1))
    distances[:, (shared_SS == 0) | np.eye(len(levels), dtype=bool)] = np.inf
    return np.asarray(distances)
