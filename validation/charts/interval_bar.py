"""The bar of a claim in HTML, for cards and reports: its estimate, confidence interval, threshold and no effect.

The colours are the CSS variables --mark, --band, --ink and --quiet if the page defines them, else theme.GREY.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

from validation.charts import theme
from validation.verdict.claims import Claim
from validation.verdict.words.wording import KEPT, RATIO, digits


def interval_bar(claim: Claim) -> str | None:
    """Return the bar of a claim; None if the claim has no estimate or no threshold."""
    if claim.estimate is None or claim.threshold is None:
        return None
    log = claim.unit == RATIO and min(claim.estimate, claim.threshold) > 0
    nothing = 1.0 if log else 0.0
    position = _positions(claim, nothing, log)
    low = 0.0 if claim.low is None else position(claim.low)
    high = 100.0 if claim.high is None else position(claim.high)
    middle, limit, none = position(claim.estimate), position(claim.threshold), position(nothing)
    parts = [
        _part("none", none, f"top:20px;height:28px;border-left:1px solid var(--quiet,{theme.GREY})"),
        _part("limit", limit, f"top:20px;height:28px;border-left:2px dashed var(--ink,{theme.GREY})"),
        _part("interval", low, f"top:30px;height:8px;min-width:2px;width:{high - low:.1f}%;{_band(low, high)}"),
        _part(
            "point",
            middle,
            f"top:28px;width:12px;height:12px;margin-left:-6px;border-radius:50%;background:var(--mark,{theme.GREY})",
        ),
        _label(limit, 0, f"threshold {digits(claim.threshold, claim)}"),
        _label(none, 50, f"{_no_effect(claim)} {digits(nothing, claim)}"),
    ]
    # Screen readers skip it: the same numbers stand beside it in words.
    style = "position:relative;height:68px;max-width:26rem;margin:0 8px;font-size:12px;line-height:18px"
    style += ";print-color-adjust:exact"
    return f'<div class="bar" aria-hidden="true" style="{style}">{"".join(parts)}</div>'


def _part(name: str, left: float, style: str) -> str:
    return f'<span class="{name}" style="position:absolute;left:{left:.1f}%;{style}"></span>'


def _band(low: float, high: float) -> str:
    """Return the colour of the interval, which fades at an end that is unbounded or beyond the picture."""
    color = f"var(--band,color-mix(in srgb,{theme.GREY} 50%,transparent))"
    ends = ("transparent" if low <= 0 else color, "transparent" if high >= 100 else color)
    return f"background:linear-gradient(90deg,{ends[0]},{color} 20%,{color} 80%,{ends[1]})"


def _label(left: float, top: int, text: str) -> str:
    """Return text at a position, on the side that has room for it."""
    where = f"left:{left:.1f}%;transform:translateX(-50%)"
    if left < 30:
        where = f"left:{left:.1f}%"
    elif left > 70:
        where = f"right:{100 - left:.1f}%"
    return f'<span style="position:absolute;top:{top}px;white-space:nowrap;{where}">{text}</span>'


def _no_effect(claim: Claim) -> str:
    """Return the label of no effect."""
    return "nothing left" if claim.unit == KEPT else "no effect"


def _positions(claim: Claim, nothing: float, log: bool) -> Callable[[float], float]:
    """Return a function from a value to its position, in per cent of the width.

    A bound far from the other values lies at the edge, so that those keep apart.
    """
    centre = [cast(float, claim.estimate), cast(float, claim.threshold), nothing]
    spread = 3 * (max(centre) - min(centre))
    reach = (min(centre) / 4, max(centre) * 4) if log else (min(centre) - spread, max(centre) + spread)
    bounds = [bound for bound in (claim.low, claim.high) if bound is not None and reach[0] < bound < reach[1]]
    marks = [math.log(mark) for mark in centre + bounds] if log else centre + bounds
    pad = 0.1 * max(max(marks) - min(marks), 1e-9)
    first, last = min(marks) - pad, max(marks) + pad

    def position(value: float) -> float:
        if log and value <= 0:
            return 0.0
        share = ((math.log(value) if log else value) - first) / (last - first)
        return 100 * min(1.0, max(0.0, share))

    return position
