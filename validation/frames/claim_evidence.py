"""Evidence of a claim as rows to draw: its series, the rows used, batch means, confidence interval and margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.thresholds import Thresholds
from validation.analysis.controls import Cohort
from validation.analysis.evidence import Evidence, evidence_of
from validation.analysis.interim import interim_look
from validation.analysis.mixtures import beyond
from validation.analysis.run import Run
from validation.analysis.statistics import BATCHES, Array, Estimate, batch_means
from validation.frames.downsample import EVIDENCE_POINTS, min_max_indices


@dataclass(frozen=True, eq=False)
class ClaimEvidence:
    """The series that a claim was judged by, on the scale of its estimate, downsampled. Axis letter: B batches."""

    claim: str
    title: str
    ratio: bool
    """True for factors (logarithmic axis around 1), False for differences (around 0)."""
    steps: NDArray[np.int64]
    values: Array
    used: NDArray[np.bool_]
    """False for rows of the warm-up and unusable rows."""
    batch_steps_B: Array
    batch_means_B: Array
    interval: tuple[float, float, float] | None
    """Lower bound, estimate and upper bound of the mean; None for a claim about a change."""
    margins: tuple[float, ...] = ()
    """Value that the interval must pass; two values, one per side, if the sign does not matter."""
    thirds: tuple[tuple[float, float, float], ...] = ()
    """First step, last step and mean of the first and of the last third; for sustainment only."""


def claim_evidence(run: Run, expert: int, runs: Sequence[Run], thresholds: Thresholds) -> dict[str, ClaimEvidence]:
    """Return the evidence of one perturbed expert by claim; empty if the file lacks what the claims compare."""
    judged = [interim_look(each, thresholds) for each in runs]
    own = next(interim for interim in judged if interim.run.id == run.id)
    if not {0, expert} <= own.run.experts.keys() or not len(own.run.steps):
        return {}
    cohort = Cohort([interim.run for interim in judged], thresholds)
    e = evidence_of(own.run, own.run.experts[expert], cohort, own.thresholds)
    past = beyond(e.run, e.control.label if e.control else None)
    found = {
        "awakening": _awakening(e, thresholds),
        "divergence": _divergence(e, past),
        "sustainment": _sustainment(e, f"Divergence{past}"),
    }
    return {claim: each for claim, each in found.items() if np.isfinite(each.values).any()}


def _awakening(e: Evidence, thresholds: Thresholds) -> ClaimEvidence:
    shown = _mean_level(
        e, "awakening", e.bottom_gain, "Bottom tier's gain beyond the middle tier", e.gain_estimate, True
    )
    return _with_margins(shown, max(math.log(thresholds.awakening_ratio), e.spread("bottom_gain")))


def _divergence(e: Evidence, past: str) -> ClaimEvidence:
    """Return the evidence of the tier, or the direction, whose interval lies farthest from no difference."""
    name = max(e.divergence, key=lambda each: _compared(e, each).low)
    title = f"Direction (1 - cosine){past}" if e.directional else f"{name.capitalize()} norm{past}"
    shown = _mean_level(e, "divergence", e.divergence[name], title, e.divergence_estimate(name), not e.directional)
    sides = (e.margin,) if e.directional else (e.margin, -e.margin)  # a norm may differ either way
    return _with_margins(shown, *sides)


def _compared(e: Evidence, name: str) -> Estimate:
    level = e.divergence_estimate(name)
    return level if e.directional else level.absolute()


def _mean_level(e: Evidence, claim: str, series_T: Array, title: str, effect: Estimate, ratio: bool) -> ClaimEvidence:
    scale = np.exp if ratio else np.asarray
    at = min_max_indices(series_T, EVIDENCE_POINTS)
    steps_B, means_B = _batches(e, series_T)
    with np.errstate(over="ignore"):
        low, middle, high = (float(scale(value)) for value in (effect.low, effect.mid, effect.high))
        return ClaimEvidence(
            claim,
            title,
            ratio,
            e.run.steps[at],
            scale(series_T[at]),
            e.rows[at],
            steps_B,
            scale(means_B),
            (low, middle, high) if effect.points else None,
        )


def _with_margins(shown: ClaimEvidence, *margins: float) -> ClaimEvidence:
    return replace(shown, margins=tuple(math.exp(margin) if shown.ratio else margin for margin in margins))


def _sustainment(e: Evidence, title: str) -> ClaimEvidence:
    """Return the divergence, oriented to be positive, with its first and last third and the share to be kept."""
    series_T = e.oriented
    shown = _mean_level(e, "sustainment", series_T, title, e.estimate(series_T), not e.directional)
    third = round(BATCHES / 3)
    if len(shown.batch_means_B) < BATCHES:
        return replace(shown, interval=None)
    means_B = _batches(e, series_T)[1]
    spans = ((0, third), (BATCHES - third, BATCHES))
    scale = np.exp if shown.ratio else np.asarray
    thirds = tuple(
        (float(shown.batch_steps_B[a]), float(shown.batch_steps_B[b - 1]), float(scale(means_B[a:b].mean())))
        for a, b in spans
    )
    floor = float(scale(e.thresholds.sustained_share * means_B[:third].mean()))
    return replace(shown, interval=None, margins=(floor,), thirds=thirds)


def _batches(e: Evidence, series_T: Array) -> tuple[Array, Array]:
    """Return the middle step and the mean of each batch; empty with fewer points than batches."""
    kept = e.rows & np.isfinite(series_T)
    if kept.sum() < BATCHES:
        return np.empty(0), np.empty(0)
    return batch_means(e.run.steps[kept].astype(float)), batch_means(series_T[kept])
