"""The reading as written: the documented rules to the letter, with no interval, no warm-up and no control."""

from __future__ import annotations

import math

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array, finite
from validation.verdict.claims import INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim


def as_written(run: Run, expert: Expert, thresholds: Thresholds) -> list[Claim]:
    """The three claims about one perturbed expert."""
    score_T = expert["divergence"][np.isfinite(expert["divergence"])]
    claims = [_awakening(run, expert), _divergence(score_T, thresholds), _sustainment(score_T)]
    return [_about(claim, run, expert) for claim in claims]


def _about(claim: Claim, run: Run, expert: Expert) -> Claim:
    return Claim(**{**vars(claim), "run": run.id, "expert": expert.index})


def _awakening(run: Run, expert: Expert) -> Claim:
    """Higher bottom norms in the perturbed expert than in the clean one."""
    both = [e["bottom_norm"][np.isfinite(e["bottom_norm"])] for e in (expert, run.experts[0])]
    if not all(map(len, both)):
        return Claim("awakening", INVALID, "the bottom norms are not there to compare")
    own, clean = (float(norms.mean()) for norms in both)
    ratio = own / clean if clean else math.inf
    told = f"the mean bottom norm is {ratio:.2f}x the clean expert's" if clean else "the clean bottom norm is zero"
    return Claim("awakening", SUPPORTED if own > clean else REFUTED, told, estimate=finite(ratio), threshold=1.0)


def _divergence(score_T: Array, thresholds: Thresholds) -> Claim:
    """The mean score against the two documented thresholds."""
    upper, lower = thresholds.divergence_supported, thresholds.divergence_refuted
    if not len(score_T):
        return Claim("divergence", INVALID, "there is no divergence score", unit="score", threshold=upper)
    score = float(score_T.mean())
    status = SUPPORTED if score > upper else REFUTED if score < lower else INCONCLUSIVE
    because = f"the mean divergence score is {score:.3g}; above {upper:g} counts as divergence, below {lower:g} as none"
    return Claim("divergence", status, because, estimate=score, unit="score", threshold=upper)


def _sustainment(score_T: Array) -> Claim:
    """The score does not fall over training."""
    if not len(score_T):
        return Claim("sustainment", INVALID, "there is no divergence score")
    third = max(1, len(score_T) // 3)
    first, last = float(score_T[:third].mean()), float(score_T[-third:].mean())
    because = f"the score's mean goes from {first:.3g} in the first third to {last:.3g} in the last"
    ratio = finite(last / first) if first else None
    return Claim("sustainment", SUPPORTED if last >= first else REFUTED, because, estimate=ratio, threshold=1.0)
