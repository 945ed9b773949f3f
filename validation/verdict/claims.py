"""Claims and their statuses: supported, refuted, inconclusive, confounded, invalid, and how several combine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
CONFOUNDED, INVALID = "confounded", "invalid"
CLAIMS = ("awakening", "divergence", "sustainment")


@dataclass(frozen=True)
class Claim:
    """The status, numbers and reason of one claim, about one expert, one run (expert None) or all runs (run None)."""

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
    """Logged steps of one run, or the number of runs."""
    effective: float | None = None
    """Independent batches that the estimate is worth."""
    detectable: float | None = None
    """Smallest effect that would be found with 80 % probability."""
    information: float | None = None
    """Independent steps that the correlated ones are worth, or the number of runs."""
    source: str = "merged"
    """Source of the gradients: merged, or isolated where the probe measured enough steps."""
    control: str | None = None
    """Kind of the control: control_expert, frozen_routing, sham_run or middle_tier; None without one."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Signed estimates that several runs pool: log ratios by tier, or {"direction": 1 - cosine}."""
    above_noise: float | None = None
    """Mean direction beyond the difference between two halves of one batch; None if not measured."""
    path: tuple[str, ...] = ()
    """Decisions that led to the status, in order."""
    look: int | None = None
    """Logged steps after the warm-up at the interim look that decided an unfinished run."""


def combine_statuses(statuses: Sequence[str]) -> str:
    """Return one status for several: supported only if all are; confounded, then refuted, override the others."""
    if not statuses or all(status == INVALID for status in statuses):
        return INVALID
    for status in (CONFOUNDED, REFUTED):
        if status in statuses:
            return status
    return SUPPORTED if all(status == SUPPORTED for status in statuses) else INCONCLUSIVE
