"""The reading as written: the documented rules to the letter, with no interval, no warm-up and no control."""

from __future__ import annotations

import math

import numpy as np

from validation.claims import INCONCLUSIVE, REFUTED, SUPPORTED, Claim, Thresholds, finite
from validation.series import Expert, Run


def as_written(run: Run, expert: Expert, limits: Thresholds) -> list[Claim]:
    """The documented rules, literally: no interval, no warm-up, no control."""
    clean = run.experts[0]
    bottom, clean_bottom = np.nanmean(expert["bottom_norm"]), np.nanmean(clean["bottom_norm"])
    ratio = float(bottom / clean_bottom) if clean_bottom > 0 else math.nan
    awake = Claim(
        "awakening",
        SUPPORTED if bottom > clean_bottom else REFUTED,
        f"the mean bottom norm is {ratio:.2f}x the clean expert's",
        estimate=finite(ratio),
        threshold=1.0,
        expert=expert.expert,
        run=run.run,
    )
    score_T = expert["divergence"][np.isfinite(expert["divergence"])]
    score = float(score_T.mean())
    fires, fails = score > limits.divergence_supported, score < limits.divergence_refuted
    diverged = Claim(
        "divergence",
        SUPPORTED if fires else REFUTED if fails else INCONCLUSIVE,
        f"the mean divergence score is {score:.3g}; above {limits.divergence_supported:g} counts as divergence, "
        f"below {limits.divergence_refuted:g} as none",
        estimate=score,
        unit="score",
        threshold=limits.divergence_supported,
        expert=expert.expert,
        run=run.run,
    )
    third = max(1, len(score_T) // 3)
    first, last = float(score_T[:third].mean()), float(score_T[-third:].mean())
    sustained = Claim(
        "sustainment",
        SUPPORTED if last >= first else REFUTED,
        f"the score's mean goes from {first:.3g} in the first third to {last:.3g} in the last",
        estimate=finite(last / first if first else math.nan),
        threshold=1.0,
        expert=expert.expert,
        run=run.run,
    )
    return [awake, diverged, sustained]
