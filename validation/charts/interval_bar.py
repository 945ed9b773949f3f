"""An estimate with its interval as a bar against its threshold: HTML that a browser shows without any script.

A report and a page of the app show the same one: in the colours --mark, --band, --ink and --quiet where those are
defined, else in a grey that can be seen on a light and on a dark ground.
"""

from __future__ import annotations

import math
from typing import Any, cast

from validation.charts import theme
from validation.verdict.claims import Claim
from validation.verdict.wording import RATIO, digits


def bar(claim: Claim) -> str | None:
    """An estimate with its interval as a bar against its threshold and no effect; None without an estimate."""
    if claim.estimate is None or claim.threshold is None:
        return None
    log = claim.unit == RATIO and min(claim.estimate, claim.threshold) > 0
    nothing = 1.0 if log else 0.0
    place = _places(claim, nothing, log)
    low = 0.0 if claim.low is None else place(claim.low)
    high = 100.0 if claim.high is None else place(claim.high)
    middle, limit, none = place(claim.estimate), place(claim.threshold), place(nothing)
    parts = [
        _part("none", none, f"top:20px;height:28px;border-left:1px solid var(--quiet,{theme.GREY})"),
        _part("limit", limit, f"top:20px;height:28px;border-left:2px dashed var(--ink,{theme.GREY})"),
        _part("interval", low, f"top:30px;height:8px;min-width:2px;{_inside(high - low)}"),
        _part(
            "point",
            middle,
            f"top:28px;width:12px;height:12px;margin-left:-6px;border-radius:50%;background:var(--mark,{theme.GREY})",
        ),
        _label(limit, 0, f"threshold {digits(claim.threshold, claim)}"),
        _label(none, 50, f"{_nothing(claim, log)} {digits(nothing, claim)}"),
    ]
    # Hidden from screen readers: the same numbers stand beside it in words.
    style = "position:relative;height:68px;max-width:26rem;margin:0 8px;font-size:12px;line-height:18px"
    style += ";print-color-adjust:exact"
    return f'<div class="bar" aria-hidden="true" style="{style}">{"".join(parts)}</div>'


def _part(name: str, place: float, style: str) -> str:
    return f'<span class="{name}" style="position:absolute;left:{place:.1f}%;{style}"></span>'


def _inside(width: float) -> str:
    """Of the interval: how wide, and in which colour."""
    return f"width:{width:.1f}%;background:var(--band,color-mix(in srgb,{theme.GREY} 50%,transparent))"


def _label(place: float, top: int, text: str) -> str:
    """Words at a place, on that side of it where there is room."""
    where = f"left:{place:.1f}%;transform:translateX(-50%)"
    if place < 30:
        where = f"left:{place:.1f}%"
    elif place > 70:
        where = f"right:{100 - place:.1f}%"
    return f'<span style="position:absolute;top:{top}px;white-space:nowrap;{where}">{text}</span>'


def _nothing(claim: Claim, log: bool) -> str:
    """What no effect means for this claim."""
    if claim.name != "sustainment":
        return "no effect"
    return "all kept" if log else "nothing left"


def _places(claim: Claim, nothing: float, log: bool) -> Any:
    """Where a value is, in per cent of the width; bounds that would squeeze all else are at its edge."""
    centre = [cast(float, claim.estimate), cast(float, claim.threshold), nothing]
    reach = (min(centre) / 4, max(centre) * 4) if log else (-math.inf, math.inf)
    bounds = [bound for bound in (claim.low, claim.high) if bound is not None and reach[0] < bound < reach[1]]
    marks = [math.log(mark) for mark in centre + bounds] if log else centre + bounds
    pad = 0.1 * max(max(marks) - min(marks), 1e-9)
    first, last = min(marks) - pad, max(marks) + pad

    def place(value: float) -> float:
        if log and value <= 0:
            return 0.0
        share = ((math.log(value) if log else value) - first) / (last - first)
        return 100 * min(1.0, max(0.0, share))

    return place
