"""The vocabulary of the verdict: statuses, thresholds, and what a claim says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from validation.analysis.statistics import Estimate

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
CONFOUNDED, INVALID = "confounded", "invalid"
CLAIMS = ("awakening", "divergence", "sustainment")
BY_CHANCE = "that is how much experts differ by chance"
"""Why a claim is undecided that no further steps would decide."""


@dataclass(frozen=True)
class Claim:
    """What is said of one claim, for one expert of one run, for a run, or for all runs, and why."""

    name: str
    status: str
    because: str
    expert: int | None = None
    run: str | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = "ratio"
    threshold: float | None = None
    points: int | None = None
    effective: float | None = None
    detectable: float | None = None
    information: float | None = None
    """How many independent steps the dependent ones are worth; of several runs, their number."""
    source: str = "merged"
    """Which gradients it was decided from: merged, or isolated where the probe has measured enough."""
    control: str | None = None
    """What it was compared to: control_expert, frozen_routing, sham_run, or the middle tier; None for nothing."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Signed estimates that it is made of: log ratios by tier, or {"direction": ...}; what several runs pool."""
    above_noise: float | None = None
    """Of a direction: its mean beyond what two halves of one batch differ by; None where that was not measured."""
    path: tuple[str, ...] = ()
    """The decisions on the way to the status, in their order."""
    look: int | None = None
    """Of an unfinished run: at how many logged steps after the warm-up this was decided; stands until the next look."""


@dataclass(frozen=True)
class Premise:
    """Whether the clean expert's bottom weights are dormant at all: if not, there is nothing to awaken."""

    run: str
    status: str
    estimate: float | None
    low: float | None
    high: float | None
    threshold: float
    because: str


def combine_statuses(statuses: Sequence[str]) -> str:
    """One status for all of several: all of them must support it, and nothing may hide behind another's yes."""
    if not statuses or all(status == INVALID for status in statuses):
        return INVALID
    for status in (CONFOUNDED, REFUTED):
        if status in statuses:
            return status
    return SUPPORTED if all(status == SUPPORTED for status in statuses) else INCONCLUSIVE


def finite(value: float) -> float | None:
    """None, which JSON knows, for what is not finite, which it does not."""
    return float(value) if math.isfinite(value) else None


def exp(value: float) -> float:
    """e to the value, without overflow: an interval without bound stays one."""
    return math.inf if value >= 700 else math.exp(value)


def interval(effect: Estimate, scale: Callable[[float], float] = float) -> str:
    """The interval as a researcher writes it, on the given scale."""
    low, high = scale(effect.low), scale(effect.high)
    return f"[{low:.2f}, {high:.2f}]".replace("inf", "∞")
