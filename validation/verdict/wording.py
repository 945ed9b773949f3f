"""The format of a claim's numbers (digits, unit, interval) in every output, and the question of each claim."""

from __future__ import annotations

from validation.analysis.effects import BOTTOM, DIRECTION, SIZE
from validation.analysis.intervals import Interval
from validation.analysis.statistics import exp
from validation.verdict.claims import Claim

RATIO, COSINE, KEPT = "ratio", "1 - cosine", "kept"
UNITS = {DIRECTION: COSINE}
QUANTITIES = {
    BOTTOM: "the bottom tier's gain over the middle tier",
    SIZE: "the size of the gradients",
    DIRECTION: "the direction of the gradients",
    "top_size": "the top tier's gradient",
    "bottom_size": "the bottom tier's gradient",
    "middle_size": "the middle tier's gradient",
}


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
    if claim.unit == KEPT:
        return f"{value:.0%}"
    return f"{value:.2f}" if claim.unit == RATIO else f"{value:.3g}"


def measured(name: str, interval: Interval) -> str:
    """Return an effect with its interval, if it has one: "1.53x [1.50, 1.56]" or "0.12 [0.10, 0.14]"."""
    low, mid, high = (shown(name, value) for value in (interval.low, interval.mid, interval.high))
    mark = "" if name == DIRECTION else "x"
    text = f"{mid:.2f}{mark} [{low:.2f}, {high:.2f}]" if interval.bounded else f"{mid:.2f}{mark}"
    return text.replace("-0.00", "0.00").replace("inf", "∞")


def shown(name: str, value: float) -> float:
    """Return a value of an effect in the unit in which people read it: a factor, or 1 - cosine."""
    return value if name == DIRECTION else exp(value)


def has_interval(claim: Claim) -> bool:
    """Return True if the estimate has an interval, which may be unbounded; the reading as written has none."""
    return claim.estimate is not None and (claim.units is not None or claim.low is not None or claim.high is not None)


def _mark(claim: Claim) -> str:
    return "x" if claim.unit == RATIO else ""


def _unit(claim: Claim) -> str:
    if claim.unit == KEPT:
        return " kept"
    return "" if claim.unit == RATIO else f" ({claim.unit})"


QUESTIONS = {
    "awakening": "Do the bottom weights receive larger gradients?",
    "divergence": "Do the experts follow different gradients?",
    "sustainment": "Does the effect last?",
}
MEANING = {
    "supported": "The data shows all three claims, beyond routing and control.",
    "refuted": "The data speaks against the hypothesis.",
    "inconclusive": "The data does not decide.",
    "confounded": "The design of the experiment cannot show the effect, however much data there is.",
    "invalid": "The data cannot carry a verdict.",
}
