"""The premise: are the clean expert's bottom weights dormant, so that there is something to awaken? A description.

Axis letters: S seeds, K bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.bins import BINS
from validation.analysis.cohort import MeasuredRun
from validation.analysis.intervals import Interval, student
from validation.analysis.statistics import exp, finite
from validation.text import pluralize

DORMANT, NOT_DORMANT, MIXED, UNDECIDED = "dormant", "not_dormant", "mixed", "undecided"
FOUND = {
    DORMANT: "they are dormant",
    NOT_DORMANT: "they are not dormant",
    MIXED: "they are dormant in a part of the training only",
}


@dataclass(frozen=True)
class Premise:
    """The gradient of the clean expert's bottom weights relative to a middle weight's, with its status."""

    run: str | None
    """The run; None for the seeds of a group."""
    status: str
    estimate: float | None
    low: float | None
    high: float | None
    threshold: float
    because: str


def judge_premise(runs: Sequence[MeasuredRun], thresholds: Thresholds) -> Premise:
    """Return the premise of one run, or of a group with Student's interval over its seeds.

    Bottom weights are dormant if they receive less than the threshold in each third of the training, not dormant if
    they receive more in each.
    """
    run = runs[0].run.id if len(runs) == 1 else None
    known = [each.dormancy_K for each in runs if np.isfinite(each.dormancy_K).any()]
    dormancy_SK = np.stack(known) if known else np.full((1, BINS), np.nan)
    thirds = [part[np.isfinite(part)] for part in np.split(dormancy_SK, BINS // 2, axis=1)]
    if not all(map(len, thirds)):
        because = (
            "too few usable rows in a third of the training to say if the clean expert's bottom weights are dormant"
        )
        return Premise(run, UNDECIDED, None, None, None, thresholds.dormant_ratio, because)
    over = student(np.nanmean(dormancy_SK, axis=1), thresholds.alpha)
    below = [float(third.mean()) < math.log(thresholds.dormant_ratio) for third in thirds]
    status = DORMANT if all(below) else MIXED if any(below) else NOT_DORMANT
    shown = f"{exp(over.mid):.2f}x{_interval(over)}"
    because = f"bottom weights of the clean expert receive {shown} a middle weight's gradient: {FOUND[status]}"
    low, high = (finite(exp(end)) if over.bounded else None for end in (over.low, over.high))
    return Premise(run, status, finite(exp(over.mid)), low, high, thresholds.dormant_ratio, because)


def _interval(over: Interval) -> str:
    """Return the interval over seeds; empty for one run, which has none."""
    seeds = pluralize(over.units, "seed")
    return f" [{exp(over.low):.2f}, {exp(over.high):.2f}] over {seeds}" if over.bounded else ""
