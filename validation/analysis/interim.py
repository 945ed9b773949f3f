"""Interim looks: an unfinished run is judged at doubling numbers of logged steps, each with a share of alpha.

Checking a growing run again and again, and stopping at the first supported claim, errs far more often than alpha. So
interim look k comes after min_points x 2^k logged steps beyond the warm-up, at level alpha / ((k + 1)(k + 2)); these
levels sum to alpha. Between two interim looks the last verdict stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Run


@dataclass(frozen=True)
class InterimLook:
    """The part of a run that is judged, and its thresholds. points: logged steps used; None for a finished run."""

    run: Run
    thresholds: Thresholds
    points: int | None = None


def interim_look(run: Run, thresholds: Thresholds) -> InterimLook:
    """Return a finished run whole, at the whole alpha, and an unfinished run as of its last interim look.

    A run that was stopped early is unfinished, because the decision to stop may have depended on its results.
    """
    if run.finished:
        return InterimLook(run, thresholds)
    after = run.steps[run.after_warmup(thresholds.warmup)]
    first = max(1, int(thresholds.min_points))
    number = int(np.log2(len(after) / first)) if len(after) >= first else -1
    interim_thresholds = replace(thresholds, alpha=thresholds.alpha / ((max(number, 0) + 1) * (max(number, 0) + 2)))
    if number < 0:  # nothing is decided before the first interim look, and the reason counts the missing steps
        return InterimLook(run, interim_thresholds, len(after))
    points = first * 2**number
    return InterimLook(run.until(int(after[points - 1])), interim_thresholds, points)
