"""The premise: are the clean expert's bottom weights dormant, so that there is something to awaken?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis import series
from validation.analysis.run import Run
from validation.analysis.statistics import batched, exp, finite
from validation.verdict.reasons import ratio

DORMANT, NOT_DORMANT, UNDECIDED = "dormant", "not_dormant", "undecided"


@dataclass(frozen=True)
class Premise:
    """The gradient of the clean expert's bottom weights relative to a middle weight's, with its status."""

    run: str
    status: str
    estimate: float | None
    low: float | None
    high: float | None
    threshold: float
    because: str


def judge_premise(run: Run, thresholds: Thresholds) -> Premise:
    """Return the premise of one run, from its logged steps after the warm-up."""
    values = series.dormancy(run)[run.after_warmup(thresholds.warmup)]
    effect = batched(values[np.isfinite(values)]).mean(thresholds.alpha)
    margin = math.log(thresholds.dormant_ratio)
    found = f"bottom weights of the clean expert receive {ratio(effect)} a middle weight's gradient"
    if not effect.points:
        status = UNDECIDED
        because = "too few usable rows to say whether the clean expert's bottom weights are dormant"
    elif effect.high < margin:
        status, because = DORMANT, f"{found}: they are dormant"
    elif effect.low > margin:
        status, because = NOT_DORMANT, f"{found}: they are not dormant, so there is nothing to awaken"
    else:
        status, because = UNDECIDED, f"{found}: too uncertain to call them dormant or not"
    low, mid, high = (finite(exp(value)) for value in (effect.low, effect.mid, effect.high))
    return Premise(run.id, status, mid, low, high, thresholds.dormant_ratio, because)
