"""The vocabulary of the verdict: statuses, thresholds, and what a claim says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from validation.statistics import Estimate

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
CONFOUNDED, INVALID = "confounded", "invalid"
CLAIMS = ("awakening", "divergence", "sustainment")


@dataclass(frozen=True)
class Thresholds:
    """Every number that a decision depends on. Change one with `check --set name=value`; the report shows them all."""

    divergence_supported: float = 0.05
    """As written: the mean score above which the documentation calls experts divergent."""
    divergence_refuted: float = 0.01
    """As written: the mean score below which it calls them the same."""
    awakening_ratio: float = 1.10
    """Controlled: by which factor the bottom tier must gain beyond the middle tier."""
    divergence_ratio: float = 1.10
    """Controlled: by which factor a tier's norm must differ beyond routing and control."""
    divergence_direction: float = 0.05
    """Controlled: by how much 1 - cosine must exceed the control's."""
    sustained_share: float = 0.5
    """Controlled: what share of the first third's divergence must be left in the last third."""
    dormant_ratio: float = 0.5
    """Premise: a bottom weight is dormant if it receives less than this share of a middle weight's gradient."""
    alpha: float = 0.05
    warmup: float = 0.10
    """Share of the planned run that is dropped at the beginning."""
    min_points: float = 100
    """Logged steps after the warm-up below which nothing is decided."""
    min_runs: float = 3


@dataclass(frozen=True)
class Claim:
    """What is said of one claim, for one expert of one run, for a run, or for all runs, and why."""

    claim: str
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
    source: str = "merged"
    """Which gradients it was decided from: merged, or isolated where the probe has measured enough."""


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


def combine(statuses: Sequence[str]) -> str:
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


def counted(count: int, thing: str) -> str:
    """A number with its noun: 1 run, 2 runs."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")
