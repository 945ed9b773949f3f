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

SAME_RUN = 0.03  # root mean square between levels of two runs; honest seeds differ by 0.05 and more
SAME_TWIN = 0.01  # the same for a run of scale 1 and its sham run


def no_replicas(runs: Sequence[MeasuredRun], levels: Sequence[Levels]) -> str:
    """Return the reason why these runs do not count as independent, or an empty string."""
    seeds = Counter(each.run.seed for each in runs)
    if len(runs) > 1 and None in seeds:
        return "some runs have no known seed"
    repeated = [seed for seed, count in seeds.items() if count > 1]
    if repeated:
        return f"seed {repeated[0]} is there twice"
    for places in _by_shape(levels).values():
        distance_SS = _distances([levels[place] for place in places])
        first, second = np.unravel_index(np.argmin(distance_SS), distance_SS.shape)
        if distance_SS[first, second] < SAME_RUN:
            names = [runs[places[place]].run.id for place in (first, second)]
            return f"runs {names[0]} and {names[1]} are copies under two seeds"
    return ""


def false_twin(run: MeasuredRun, own: Levels, twin: Levels) -> bool:
    """Return True if the sham run is the run itself: a perturbation changes levels in proportion to its scale."""
    scale = run.run.number(f"config.{SCALE}")
    return bool(_distances([own, twin])[0, 1] < SAME_TWIN * min(1.0, 1.0 if scale is None else scale))


def _by_shape(levels: Sequence[Levels]) -> dict[tuple[object, ...], list[int]]:
    """Return the places of runs that hold the same effects of as many experts and layers."""
    found: dict[tuple[object, ...], list[int]] = {}
    for place, each in enumerate(levels):
        found.setdefault((*sorted(each.of), each.of[BOTTOM].shape), []).append(place)
    return found


def _distances(levels: Sequence[Levels]) -> Array:
    """Return the root mean square between the levels of each two runs, [S, S]; infinite on the diagonal.

    One factor on every gradient of a run makes no difference.
    """
    total_SS, shared_SS = np.zeros((2, len(levels), len(levels)))
    for name in levels[0].of:
        level_SN = np.stack([each.of[name].ravel() for each in levels])
        known_SN = np.isfinite(level_SN).astype(float)
        value_SN = np.nan_to_num(level_SN - np.nan_to_num(level_SN[0]))
        squares_SS, sums_SS = value_SN**2 @ known_SN.T, value_SN @ known_SN.T
        count_SS = known_SN @ known_SN.T
        total_SS += squares_SS + squares_SS.T - 2 * value_SN @ value_SN.T
        total_SS -= 0.0 if name == DIRECTION else (sums_SS - sums_SS.T) ** 2 / np.maximum(count_SS, 1)
        shared_SS += count_SS
    distance_SS = np.sqrt(np.maximum(total_SS, 0) / np.maximum(shared_SS, 1))
    distance_SS[shared_SS == 0] = np.inf
    np.fill_diagonal(distance_SS, np.inf)
    return np.asarray(distance_SS)
