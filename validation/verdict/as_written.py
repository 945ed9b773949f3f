"""The reading as written: the documented rules to the letter, without interval, warm-up or control."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array, finite
from validation.verdict.claims import INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim


def as_written(run: Run, expert: Expert, thresholds: Thresholds) -> list[Claim]:
    """Return the three claims about one perturbed expert."""
    score_T = expert["divergence"][np.isfinite(expert["divergence"])]
    claims = [_awakening(run, expert), _divergence(score_T, thresholds), _sustainment(score_T)]
    return [replace(claim, run=run.id, expert=expert.index) for claim in claims]


def _awakening(run: Run, expert: Expert) -> Claim:
    """Judge whether the mean bottom norm is higher in the perturbed expert than in the clean one."""
    both = [e["bottom_norm"][np.isfinite(e["bottom_norm"])] for e in (expert, run.experts[0])]
    if not all(map(len, both)):
        return Claim("awakening", INVALID, "the file lacks a bottom norm to compare")
    perturbed, clean = (float(norms.mean()) for norms in both)
    ratio, status = perturbed / clean if clean else math.inf, SUPPORTED if perturbed > clean else REFUTED
    because = f"the mean bottom norm is {ratio:.2f}x the clean expert's" if clean else "the clean bottom norm is zero"
    return Claim("awakening", status, because, estimate=finite(ratio), threshold=1.0)


def _divergence(score_T: Array, thresholds: Thresholds) -> Claim:
    """Compare the mean score with the two documented thresholds."""
    upper, lower = thresholds.divergence_supported, thresholds.divergence_refuted
    if not len(score_T):
        return Claim("divergence", INVALID, "the file has no divergence score", unit="score", threshold=upper)
    score = float(score_T.mean())
    status = SUPPORTED if score > upper else REFUTED if score < lower else INCONCLUSIVE
    because = f"the mean divergence score is {score:.3g}; above {upper:g} is divergence, below {lower:g} is not"
    return Claim("divergence", status, because, estimate=score, unit="score", threshold=upper)


def _sustainment(score_T: Array) -> Claim:
    """Judge whether the score falls over training."""
    if not len(score_T):
        return Claim("sustainment", INVALID, "the file has no divergence score")
    third = max(1, len(score_T) // 3)
    first, last = float(score_T[:third].mean()), float(score_T[-third:].mean())
    because = f"the mean score is {first:.3g} in the first third and {last:.3g} in the last"
    ratio = finite(last / first) if first else None
    return Claim("sustainment", SUPPORTED if last >= first else REFUTED, because, estimate=ratio, threshold=1.0)
