"""The format of a claim's numbers (digits, unit, interval) in every output, and the question of each claim."""

from __future__ import annotations

from collections.abc import Callable

from validation.analysis.statistics import Estimate
from validation.verdict.claims import Claim

RATIO = "ratio"


def estimated(claim: Claim, *, bare: bool = False) -> str:
    """Return the estimate with its interval, such as "1.50x [1.47, 1.53]"; empty without an estimate.

    bare: without the interval.
    """
    if claim.estimate is None:
        return ""
    shown = f"{digits(claim.estimate, claim)}{_mark(claim)}"
    if has_interval(claim) and not bare:
        low = "-∞" if claim.low is None else digits(claim.low, claim)
        high = "∞" if claim.high is None else digits(claim.high, claim)
        shown += f" [{low}, {high}]"
    return shown + _unit(claim)


def threshold(claim: Claim) -> str:
    """Return the threshold in the unit of the estimate; empty without a threshold."""
    return "" if claim.threshold is None else f"{digits(claim.threshold, claim)}{_mark(claim)}{_unit(claim)}"


def digits(value: float, claim: Claim) -> str:
    """Return a number of the claim without unit: a share in per cent, a ratio with two decimals, else three digits."""
    if claim.name == "sustainment":
        return f"{value:.0%}"
    return f"{value:.2f}" if claim.unit == RATIO else f"{value:.3g}"


def interval(effect: Estimate, scale: Callable[[float], float] = float) -> str:
    """Return the interval of an estimate on the given scale, such as "[1.47, 1.53]"."""
    low, high = scale(effect.low), scale(effect.high)
    return f"[{low:.2f}, {high:.2f}]".replace("inf", "∞")


def has_interval(claim: Claim) -> bool:
    """Return True if the estimate has an interval, which may be unbounded; the reading as written has none."""
    bounds = (claim.points, claim.low, claim.high)  # over several runs there are no points, but a bound or two
    return claim.estimate is not None and any(bound is not None for bound in bounds)


def _mark(claim: Claim) -> str:
    return "x" if claim.unit == RATIO and claim.name != "sustainment" else ""


def _unit(claim: Claim) -> str:
    if claim.name == "sustainment":
        return " kept"
    return "" if claim.unit == RATIO else f" ({claim.unit})"


QUESTIONS = {
    "awakening": "Do the bottom weights receive larger gradients?",
    "divergence": "Do the experts follow different gradients?",
    "sustainment": "Does the divergence last?",
}
MEANING = {
    "supported": "The data shows all three claims, beyond routing and control.",
    "refuted": "The data speaks against the hypothesis.",
    "inconclusive": "The data does not decide.",
    "confounded": "Something other than the perturbation explains the effect, so the data cannot answer.",
    "invalid": "The data cannot carry a verdict.",
}
