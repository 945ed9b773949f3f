"""The reasons of the controlled verdict: sentences on awakening, divergence and sustainment for `Claim.because`."""

from __future__ import annotations

import math

from validation.analysis.mixtures import beyond, common_factor, missing_control, other_cause, parallel
from validation.analysis.run import Run
from validation.analysis.statistics import Estimate, exp, more_points
from validation.verdict.wording import interval

BY_CHANCE = "experts differ by this much by chance"
"""The part of a reason that rules out more steps as a remedy; `judgement.advice` looks for it."""


def ratio(effect: Estimate) -> str:
    """Return a log ratio as a factor with its interval: "1.53x [1.50, 1.56]"."""
    return f"{exp(effect.mid):.2f}x {interval(effect, exp)}"


def difference(effect: Estimate) -> str:
    """Return 1 - cosine with its interval: "0.12 [0.10, 0.14]"."""
    return f"{effect.mid:.2f} {interval(effect)}"


# Any claim


def too_short(points: int, needed: int) -> str:
    """Return the reason for a run with too few usable steps."""
    return f"{points} usable logged steps after the warm-up; {needed - points} more are needed to decide"


def undecided(effect: Estimate, size: str, margin: float, threshold: float) -> str:
    """Return the reason for an interval that includes the threshold, and how many more steps would decide.

    margin: the threshold on the scale of the effect.
    """
    found = f"the interval of {size} includes the threshold {threshold:.3g}"
    if effect.spread > abs(effect.mid - margin):
        return f"{found}: {BY_CHANCE}, so other seeds or more experts would decide, not more steps"
    if effect.effective < 2:
        return f"{found}; neighbouring steps are so correlated that only a very large effect could be seen"
    more = more_points(effect, margin)
    return found if more is None else f"{found}; about {more:,} more logged steps would decide"


def from_isolated_gradients(reason: str) -> str:
    """Return the reason, marked as decided from isolated gradients."""
    return f"by isolated gradients, {reason}"


def nothing_perturbed(reason: str, run: Run) -> str:
    """Return the reason for a sham run that would otherwise support a claim."""
    return f"{reason}; but nothing was perturbed in this sham run, so the cause is {other_cause(run)}"


# Awakening


def parallel_bottom_norms(run: Run, bottom_ratio: float, left: str | None) -> str:
    """Return the reason where all tiers differ by one common factor.

    bottom_ratio: NaN before the end of the warm-up. left: the gain beyond the factor, None with too few steps.
    """
    size = "" if math.isnan(bottom_ratio) else f" ({bottom_ratio:.2f}x)"
    found = f"the bottom norms differ{size} only {common_factor(run)}: {parallel(run)}"
    return found if left is None else f"{found}; beyond that factor, bottom weights receive {left} the gradient"


def bottom_gained(left: str) -> str:
    """Return the reason for a supported awakening."""
    return f"bottom weights receive {left} the gradient, beyond the middle tier's gain"


def bottom_norm_explained(bottom_ratio: float, left: str) -> str:
    """Return the reason for a higher bottom norm that the middle tier, or the spread of sham runs, explains."""
    return (
        f"the bottom norm is {bottom_ratio:.2f}x expert 0's, but beyond the middle tier's gain "
        f"bottom weights receive only {left} the gradient"
    )


def bottom_gained_no_more(left: str) -> str:
    """Return the reason for a refuted awakening."""
    return f"bottom weights receive {left} the gradient, no more than the middle tier"


def raised_by_shams(threshold: float) -> str:
    """Return the remark on a threshold that the spread between sham runs raised."""
    return f" (threshold {threshold:.2f}: the spread between sham runs)"


# Divergence


def diverged(run: Run, quantity: str, size: str, control: str | None) -> str:
    """Return the reason for a supported divergence. quantity: the direction, or the norm of a tier."""
    return f"the {quantity} differs by {size}{beyond(run, control)}"


def batch_noise(quantity: str, size: str) -> str:
    """Return the reason for a direction that differs no more than between two halves of one batch."""
    return f"the {quantity} differs by {size}, no more than between two halves of one batch: this may be noise"


def no_control(run: Run, quantity: str, size: str) -> str:
    """Return the reason for a divergence of unknown cause, and the control that would show the cause."""
    return (
        f"the {quantity} differs by {size}{beyond(run, None)}, but no control shows that the perturbation caused it; "
        f"{missing_control(run)}"
    )


def below_threshold(run: Run, quantity: str, size: str, threshold: float, control: str | None) -> str:
    """Return the reason for gradients that differ by less than the threshold."""
    return f"the gradients differ by less than {threshold:.3g}{beyond(run, control)} ({quantity} {size})"


# Sustainment


NO_DIVERGENCE_VISIBLE = "nothing to sustain: parallel gradients cannot show a divergence"
LESS_THAN_HALF = "less than half of the planned steps are logged"


def nothing_to_sustain(status: str) -> str:
    """Return the reason where divergence itself has this status."""
    return f"nothing to sustain: divergence is {status}"


def kept(share: float) -> str:
    """Return how much of the divergence the last third keeps, to which the other reasons of sustainment add."""
    return f"the last third keeps {share:.0%} of the first third's divergence"


def kept_but_undecided(share: float, status: str) -> str:
    """Return the reason where divergence lasts, but is not supported."""
    return f"{kept(share)}, but divergence itself is {status}"


def kept_and_declining(share: float) -> str:
    """Return the reason for a divergence that lasts and declines."""
    return f"{kept(share)}, although it declines"


def collapsed(share: float) -> str:
    """Return the reason for a divergence that does not last."""
    return f"{kept(share)}: the divergence collapses"


def kept_uncertain(share: float, needed: float) -> str:
    """Return the reason for a share that the interval leaves open."""
    return f"{kept(share)}, too uncertain to say that more than {needed:.0%} is kept"
