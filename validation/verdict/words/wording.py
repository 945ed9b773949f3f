"""The format of a claim's numbers (digits, unit, interval) in every output, and the question of each claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

from prismatic.contract.thresholds import Thresholds
from validation.analysis.effects import BOTTOM, DIRECTION, SIZE, TWO_SIDED
from validation.analysis.experiment import CONTROL_EXPERT, FROZEN_ROUTING, SHAM_RUN
from validation.analysis.intervals import Interval
from validation.analysis.statistics import exp
from validation.text import pluralize
from validation.verdict.claims import EXPERT, Claim, Reason
from validation.verdict.groups import FAILS, FOUND, NOT_FOUND, PASSES, UNDECIDED

RATIO, COSINE, KEPT = "ratio", "1 - cosine", "kept"
PAIRS = "pairs"
"""The effect of the claim `distinct`: 1 - cosine between two experts, which no control is subtracted from."""
NAMED_THRESHOLDS = 3
UNITS = {DIRECTION: COSINE}
QUANTITIES = {
    BOTTOM: "gradient gain of the bottom tier",
    SIZE: "size of the gradients",
    DIRECTION: "direction difference from the control",
    "top_size": "size of the top tier's gradients",
    "bottom_size": "size of the bottom tier's gradients",
    "middle_size": "size of the middle tier's gradients",
    PAIRS: "difference in direction between two experts",
}
"""By effect, what its estimate is: of perturbed experts compared with the control, or of two experts."""
CONTROLS = {
    CONTROL_EXPERT: "the control experts",
    FROZEN_ROUTING: "the clean expert",
    SHAM_RUN: "the same experts in the sham runs",
}
"""By kind of control, what perturbed experts are compared with; without any it is the clean expert."""
LESS_SHAMS = ", beyond what the sham runs show"


def control_of(control: str | None) -> str:
    """Return what perturbed experts are compared with, in words."""
    return CONTROLS.get(control or "", CONTROLS[FROZEN_ROUTING])


def compared_with(control: str | None, *, twins: bool) -> str:
    """Return what perturbed experts are compared with, and if the difference in the sham runs is subtracted."""
    return control_of(control) + (LESS_SHAMS if twins and control != SHAM_RUN else "")


def estimated(claim: Claim, *, bare: bool = False, unit: bool = True) -> str:
    """Return the estimate with its interval, such as "1.50x [1.47, 1.53]"; empty without an estimate.

    bare: without the interval. unit: False beside a threshold that shows the unit.
    """
    if claim.estimate is None:
        return ""
    shown = f"{digits(claim.estimate, claim)}{_mark(claim)}"
    if not bare and (interval := ends(claim)):
        shown += f" {interval}"
    return shown + _unit(claim) if unit else shown


def ends(claim: Claim) -> str:
    """Return the interval as "[1.47, 1.53]"; empty without an interval."""
    if not has_interval(claim):
        return ""
    low = "-∞" if claim.low is None else digits(claim.low, claim)
    high = "∞" if claim.high is None else digits(claim.high, claim)
    return f"[{low}, {high}]"


def placed(claim: Claim) -> str:
    """Return the estimate without its interval, and on which side of the control a direction lies."""
    if claim.estimate is None or claim.control is None or not is_signed(claim):
        return estimated(claim, bare=True)
    return f"{abs(claim.estimate):.3f} {'below' if claim.estimate < 0 else 'above'} the control"


def needed(claim: Claim) -> str:
    """Return what the estimate must exceed, such as "more than 1.10x"; empty without a threshold."""
    if claim.threshold is None:
        return ""
    value = _limit(claim)
    if claim.effect in TWO_SIDED and claim.unit != KEPT:
        low, high = sorted([claim.threshold, 1 / claim.threshold])
        return f"below {low:.2f}x or above {high:.2f}x"
    return f"more than {value}{_mark(claim)}"


def quantity(claim: Claim) -> str:
    """Return what the estimate of a claim is; empty without an estimate."""
    name = quantity_of(claim.effect or "", claim.control)
    if claim.estimate is None or not name:
        return ""
    return f"of the first {name}" if claim.unit == KEPT else name


def quantity_of(effect: str, control: str | None) -> str:
    """Return what an effect is, compared with the control or, without one, with the clean expert; empty if unknown."""
    name = QUANTITIES.get(effect, "")
    return name if control is not None else name.replace("from the control", f"from {control_of(None)}")


def over_experiments(claims: Sequence[Claim]) -> str:
    """Return the range of the estimates of one claim in several experiments, and what all their intervals show.

    Empty unless all measure the same and are decided by their margin for the same reason.
    """
    alike = {(claim.effect, claim.unit, claim.threshold, claim.reason) for claim in claims}
    if len(alike) != 1 or not all(has_interval(claim) for claim in claims):
        return ""
    first = claims[0]
    said = {
        Reason.ABOVE_MARGIN: f"every interval lies beyond {threshold(first)}",
        Reason.INSIDE_MARGIN: f"{threshold(first)} is ruled out in each",
    }.get(first.reason)
    low, *_, high = (estimated(each, bare=True) for each in sorted(claims, key=lambda each: each.estimate or 0.0))
    size = low if low == high else f"{low} to {high}"
    return f"the {quantity(first)} is {size}, and {said}" if said else ""


def threshold(claim: Claim) -> str:
    """Return the threshold in the unit of the estimate; empty without a threshold."""
    if claim.threshold is None:
        return ""
    return f"{_limit(claim)}{_mark(claim)}{_unit(claim)}"


def _limit(claim: Claim) -> str:
    """Return the threshold without unit."""
    value = claim.threshold or 0.0
    if claim.unit == COSINE:
        return f"+{value:g}" if is_signed(claim) else f"{value:g}"
    return digits(value, claim)


def is_signed(claim: Claim) -> bool:
    """Return True if the numbers of a claim are differences of directions, which lie above or below the control's."""
    return claim.unit == COSINE and claim.effect != PAIRS


def digits(value: float, claim: Claim) -> str:
    """Return a number of the claim without unit: a share in per cent, a ratio with two decimals, else three."""
    if claim.unit == KEPT:
        return f"{value:.0%}"
    if claim.unit == COSINE:
        return _signed(value) if is_signed(claim) else _fixed(value, 3)
    return _factor(value, claim.threshold or 1.0) if claim.unit == RATIO else f"{value:.3g}"


def measured(name: str, interval: Interval, margin: float = 0.0, *, signed: bool = False) -> str:
    """Return an effect with its interval, if it has one: "1.53x [1.50, 1.56]"; see `measured_parts`."""
    return " ".join(filter(None, measured_parts(name, interval, margin, signed=signed)))


def measured_parts(name: str, interval: Interval, margin: float = 0.0, *, signed: bool = False) -> tuple[str, str]:
    """Return an effect and its interval, "1.53x" and "[1.50, 1.56]"; the second is empty where it is unbounded.

    A direction is "0.123" and "[+0.104, +0.142]": the words around it say if it lies above or below the control.
    signed: it stands without such words.
    """
    if name == PAIRS:
        mid, low, high = (_fixed(value, 3) for value in (interval.mid, interval.low, interval.high))
    elif name == DIRECTION:
        mid = _signed(interval.mid) if signed else _fixed(abs(interval.mid), 3)
        low, high = _signed(interval.low), _signed(interval.high)
    else:
        ends = (interval.mid, interval.low, interval.high)
        sides = [math.copysign(margin, value) if name in TWO_SIDED else margin for value in ends]
        mid, low, high = (_factor(shown(name, v), exp(side)) for v, side in zip(ends, sides, strict=True))
        mid += "x"
    return mid, f"[{low}, {high}]" if interval.bounded else ""


def _factor(value: float, limit: float) -> str:
    """Return a factor with two decimals, or three where two would show it as equal to its limit."""
    same = value != limit != 1 and f"{value:.2f}" == f"{limit:.2f}"
    return _fixed(value, 3 if same else 2)


def _signed(value: float) -> str:
    """Return a difference of directions with its sign."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _fixed(value: float, decimals: int) -> str:
    """Return a number with a fixed number of decimals, without the sign of a zero."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("inf", "∞")


def shown(name: str, value: float) -> float:
    """Return a value of an effect in the unit in which people read it: a factor, or 1 - cosine."""
    return value if name in (DIRECTION, PAIRS) else exp(value)


def has_interval(claim: Claim) -> bool:
    """Return True if the estimate has an interval, which may be unbounded; one or two units have none."""
    several = claim.units is not None and claim.units > 2
    return claim.estimate is not None and (several or claim.low is not None or claim.high is not None)


def parts_of(claim: Claim) -> list[Claim]:
    """Return the components of a claim, each as a claim with its numbers; none where they are the claim's own."""
    parts = [replace(claim, **asdict(component)) for component in claim.components]
    return parts if len(parts) > 1 else []


def replication(claim: Claim) -> str:
    """Return the units that a claim's numbers are over: "over 6 seeds" or "in this run"; empty without units."""
    if claim.units is None:
        return ""
    return "in this run" if claim.replicate == EXPERT else f"over {pluralize(claim.units, 'seed')}"


def changed_thresholds(used: Thresholds) -> str:
    """Return the thresholds that differ from the defaults, such as "judged with awakening_ratio 1.05 instead of 1.10".

    Empty if none differs.
    """
    values, defaults = asdict(used), asdict(Thresholds())
    changed = [f"{n} {_short(v)} instead of {_short(defaults[n])}" for n, v in values.items() if v != defaults[n]]
    more = [f"{len(changed) - NAMED_THRESHOLDS} more changed"] if len(changed) > NAMED_THRESHOLDS else []
    return f"judged with {', '.join(changed[:NAMED_THRESHOLDS] + more)}" if changed else ""


def _short(value: float) -> str:
    """Return a threshold with at least two decimals, unless it is a whole number."""
    return f"{value:g}" if value == int(value) or round(value, 2) != value else f"{value:.2f}"


def _mark(claim: Claim) -> str:
    return "x" if claim.unit == RATIO else ""


def _unit(claim: Claim) -> str:
    if claim.unit == KEPT:
        return " kept"
    return "" if claim.unit in (RATIO, COSINE) else f" ({claim.unit})"


CHECKS = {
    PASSES: "the A/A check passes",
    FAILS: "the A/A check fails",
    UNDECIDED: "the A/A check is undecided",
    FOUND: "the positive control is found",
    NOT_FOUND: "the positive control is not found",
}
QUESTIONS = {
    "awakening": "Do the bottom weights receive larger gradients?",
    "divergence": "Do the experts follow different gradients?",
    "sustainment": "Does the effect last?",
    "distinct": "Do the experts differ from each other?",
}
