"""Interim looks as rows to draw: the interval of the effect that decides a claim, at each look of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from validation.analysis.bins import BINS
from validation.analysis.experiment import LOOKS
from validation.judgement.interim import InterimLook
from validation.verdict.words.wording import COSINE, QUANTITIES

PLACES = (*(f"{bins} of {BINS}" for bins in LOOKS), "end")


@dataclass(frozen=True, eq=False)
class LookIntervals:
    """The intervals of one effect over the looks."""

    title: str
    ratio: bool
    """True for a factor, False for a difference of directions."""
    rows: pd.DataFrame
    """A row for each look: look, estimate, low and high; NaN where an end is unbounded."""
    margin: float


def look_intervals(looks: Sequence[InterimLook], name: str) -> LookIntervals | None:
    """Return the effect that decides a claim at the last look, at every look; None without an estimate."""
    if not looks:
        return None
    last = next(claim for claim in looks[-1].claims if claim.name == name)
    rows = [
        {"look": f"{look.bins} of {BINS}", "estimate": part.estimate, "low": part.low, "high": part.high}
        for look in looks
        for claim in look.claims
        if claim.name == name
        for part in claim.components
        if part.name == last.effect
    ]
    if last.effect is None or last.threshold is None or not rows:
        return None
    title = QUANTITIES[last.effect]
    columns = {"look": "object", "estimate": "float64", "low": "float64", "high": "float64"}
    return LookIntervals(title, last.unit != COSINE, pd.DataFrame(rows).astype(columns), last.threshold)
