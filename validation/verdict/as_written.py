"""The reading as written: the documented rules to the letter, without interval, warm-up or control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Expert, Run, is_measured
from validation.analysis.statistics import Array, finite
from validation.verdict.claims import (
    CLAIMS,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SUPPORTED,
    Claim,
    Reason,
    combine_statuses,
)
from validation.verdict.words.distinctness import no_perturbation


def as_written(run: Run, thresholds: Thresholds, invalid: str | None = None) -> tuple[Claim, ...]:
    """Return the claims about every perturbed expert, followed by the same claims for the whole run.

    invalid: the reason why the data carries no verdict.
    """
    if run.peers:
        because, _ = no_perturbation()
        return tuple(Claim(name, INCONCLUSIVE, because, Reason.NO_PERTURBATION, run=run.id) for name in CLAIMS)
    experts = run.of_role("perturbed") if 0 in run.experts else []
    why = invalid or (None if experts else "the run has no perturbed expert to compare with a clean one")
    if why is not None:
        return tuple(Claim(name, INVALID, why, run=run.id) for name in CLAIMS)
    claims = [claim for expert in experts for claim in _of_expert(run, expert, thresholds)]
    return (*claims, *(_of_run([claim for claim in claims if claim.name == name]) for name in CLAIMS))


def _of_expert(run: Run, expert: Expert, thresholds: Thresholds) -> list[Claim]:
    score_T = expert["divergence"][is_measured(expert["divergence"])]
    claims = [_awakening(run, expert), _divergence(score_T, thresholds), _sustainment(score_T)]
    return [replace(claim, run=run.id, expert=expert.index) for claim in claims]


def _of_run(claims: Sequence[Claim]) -> Claim:
    """Return one claim for the whole run, which every perturbed expert must support."""
    status = combine_statuses([claim.status for claim in claims])
    same = [claim for claim in claims if claim.status == status] or claims
    shown = min(same, key=lambda claim: math.inf if claim.estimate is None else claim.estimate)
    because = shown.because
    if len(claims) > 1:
        because = f"{len(same)} of {len(claims)} perturbed experts {status}; expert {shown.expert}: {because}"
    return replace(shown, status=status, because=because, expert=None)


def _awakening(run: Run, expert: Expert) -> Claim:
    """Judge whether the mean bottom norm is higher in the perturbed expert than in the clean one."""
    both = [e["bottom_norm"][is_measured(e["bottom_norm"])] for e in (expert, run.experts[0])]
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
