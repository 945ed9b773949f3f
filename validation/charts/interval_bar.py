"""The bar of a claim in HTML, for pages and reports: its estimate, confidence interval, threshold and no effect.

Each unit has one axis, so that bars of different claims and runs can be compared by eye. A value beyond the axis is an
arrow at its end. The colours are the CSS variables --mark, --band, --ink and --quiet if the page defines them.
"""

from __future__ import annotations

import math

from validation.analysis.effects import TWO_SIDED
from validation.charts import theme
from validation.verdict.claims import Claim
from validation.verdict.words.wording import COSINE, KEPT, RATIO, digits, is_signed, needed

REACH = {RATIO: math.log(2), COSINE: 0.2}  # of the axis on both sides of no effect
MOST_KEPT = 1.5
MOST_APART = 1.2  # 1 - cosine of experts at right angles is 1
_LIMIT = f"top:16px;height:26px;border-left:2px dashed var(--ink,{theme.GREY})"
_BOX = "position:relative;height:60px;print-color-adjust:exact"
ROOM = 1.6  # times the threshold that an axis reaches at least


def interval_bar(claim: Claim, color: str = f"var(--mark,{theme.GREY})") -> str | None:
    """Return the bar of a claim; None if the claim has no estimate or no threshold. color: of the estimate, in CSS."""
    marks = _marks(claim, color)
    if not marks or claim.threshold is None:
        return None
    none, limit = _position(claim, _no_effect(claim)), _position(claim, claim.threshold)
    first, last = (_tick(value, claim) for value in _ends(claim))
    labels = [
        _label(limit, 0, f"needed: {needed(claim)}"),
        _label(none, 42, _nothing(claim)),
        "" if none < 25 else _label(0, 42, first),
        _label(100, 42, last),
    ]
    # Screen readers skip it: the same numbers stand beside it in words.
    style = f"{_BOX};max-width:26rem;margin:2px 8px 0;font-size:12px;line-height:16px"
    return f'<div class="bar" aria-hidden="true" style="{style}">{marks}{"".join(labels)}</div>'


def slim_bar(claim: Claim, color: str) -> str:
    """Return the bar without its labels, for several of one kind below each other; empty if there is none."""
    marks = _marks(claim, color)
    window = "position:relative;height:28px;overflow:hidden;max-width:26rem"
    box = f"{_BOX};margin:-16px 8px 0;--dot:8px"
    return (
        f'<div aria-hidden="true" style="{window}"><div class="bar" style="{box}">{marks}</div></div>' if marks else ""
    )


def _marks(claim: Claim, color: str) -> str:
    """Return axis, no effect, threshold, interval and estimate; empty if the claim has no estimate or threshold."""
    if claim.estimate is None or claim.threshold is None:
        return ""
    low = 0.0 if claim.low is None else _position(claim, claim.low)
    high = 100.0 if claim.high is None else _position(claim, claim.high)
    none, limit = _position(claim, _no_effect(claim)), _position(claim, claim.threshold)
    other = _position(claim, 1 / claim.threshold) if claim.effect in TWO_SIDED else None
    parts = [
        _part("axis", 0, f"top:29px;width:100%;border-top:1px solid var(--quiet,{theme.GREY});opacity:.6"),
        _part("none", none, f"top:18px;height:22px;border-left:1px solid var(--quiet,{theme.GREY})"),
        _part("limit", limit, _LIMIT),
        _part("other", other, _LIMIT) if other is not None else "",
        _part(
            "interval",
            low,
            f"top:25px;height:9px;border-radius:4px;min-width:2px;width:{high - low:.1f}%;{_band(low, high, color)}",
        ),
        _estimate(_position(claim, claim.estimate), color),
    ]
    return "".join(parts)


def _estimate(middle: float, color: str) -> str:
    """Return the estimate as a dot, or as an arrow at an end of the axis that it lies beyond."""
    if 0 < middle < 100:
        size = "calc(29.5px - var(--dot,13px)/2);width:var(--dot,13px);height:var(--dot,13px)"
        style = f"top:{size};margin-left:calc(.5px - var(--dot,13px)/2);border-radius:50%"
        return _part("point", middle, f"{style};background:{color}")
    side = "border-left" if middle >= 100 else "border-right"
    shift = "-3px" if middle >= 100 else "-8px"
    style = f"top:22px;margin-left:{shift};border:7px solid transparent;{side}:11px solid {color}"
    return _part("beyond", middle, style)


def _part(name: str, left: float, style: str) -> str:
    return f'<span class="{name}" style="position:absolute;left:{left:.1f}%;{style}"></span>'


def _band(low: float, high: float, color: str) -> str:
    """Return the colour of the interval, which fades at an end that is unbounded or beyond the picture."""
    band = f"var(--band,color-mix(in srgb,{color} 45%,transparent))"
    ends = ("transparent" if low <= 0 else band, "transparent" if high >= 100 else band)
    return f"background:linear-gradient(90deg,{ends[0]},{band} 20%,{band} 80%,{ends[1]})"


def _label(left: float, top: int, text: str) -> str:
    """Return text at a position, on the side that has room for it."""
    where = f"left:{left:.1f}%;transform:translateX(-50%)"
    if left < 30:
        where = f"left:{left:.1f}%"
    elif left > 70:
        where = f"right:{100 - left:.1f}%"
    return f'<span style="position:absolute;top:{top}px;white-space:nowrap;{where}">{text}</span>'


def _tick(value: float, claim: Claim) -> str:
    """Return the value at an end of the axis."""
    if claim.unit == COSINE:
        return f"{value:+.2g}" if is_signed(claim) else f"{value:.2g}"
    return f"{value:.2g}x" if claim.unit == RATIO else digits(value, claim)


def _nothing(claim: Claim) -> str:
    """Return the words at no effect."""
    if claim.unit == KEPT:
        return "nothing left"
    return "no difference" if claim.unit == COSINE and not is_signed(claim) else "no effect"


def _no_effect(claim: Claim) -> float:
    return 1.0 if claim.unit == RATIO else 0.0


def _ends(claim: Claim) -> tuple[float, float]:
    """Return the values at the ends of the axis: the same for all claims of a unit, unless the threshold is far out."""
    limit = claim.threshold or 0.0
    if claim.unit == KEPT:
        return 0.0, max(MOST_KEPT, ROOM * limit)
    if claim.unit == RATIO:
        reach = max(REACH[RATIO], ROOM * abs(math.log(limit)) if limit > 0 else 0.0)
        return math.exp(-reach), math.exp(reach)
    if claim.unit == COSINE and not is_signed(claim):
        return 0.0, max(MOST_APART, ROOM * limit)
    reach = max(REACH[COSINE], ROOM * abs(limit))
    return -reach, reach


def _position(claim: Claim, value: float) -> float:
    """Return the position of a value, in per cent of the width; at an end if it lies beyond."""
    first, last = _ends(claim)
    if claim.unit == RATIO:
        if value <= 0:
            return 0.0
        first, last, value = math.log(first), math.log(last), math.log(value)
    return 100 * min(1.0, max(0.0, (value - first) / (last - first)))
