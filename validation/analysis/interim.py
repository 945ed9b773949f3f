"""An unfinished run is judged at looks: at doubling numbers of points, each with a share of the error that is allowed.

Whoever looks again and again at a growing run and stops at the first yes is wrong far more often than each look is. So
the verdict is taken when the logged steps after the warm-up reach min_points, twice that, four times ..., the k-th look
at alpha / ((k + 1)(k + 2)), which together is alpha however long it goes on. Between looks the last verdict stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Run


@dataclass(frozen=True)
class InterimLook:
    """A run as far as it counts, and the thresholds that go with it. points: None for a finished run."""

    run: Run
    thresholds: Thresholds
    points: int | None = None


def interim_look(run: Run, thresholds: Thresholds) -> InterimLook:
    """The whole run with all of alpha if it has reached its planned end; else what the last look saw of it.

    A run that was stopped early counts as unfinished: when it stopped may have depended on what was seen.
    """
    if run.finished:
        return InterimLook(run, thresholds)
    after = run.steps[run.after_warmup(thresholds.warmup)]
    first = max(1, int(thresholds.min_points))
    number = int(np.log2(len(after) / first)) if len(after) >= first else -1
    thresholds_now = replace(thresholds, alpha=thresholds.alpha / ((max(number, 0) + 1) * (max(number, 0) + 2)))
    if number < 0:  # nothing can be decided before the first look; the run itself says how many points are missing
        return InterimLook(run, thresholds_now, len(after))
    points = first * 2**number
    return InterimLook(run.until(int(after[points - 1])), thresholds_now, points)
