"""What a check yields, and how grave it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prismatic.contract.schema import TIERS
from validation.analysis.run import Run
from validation.analysis.statistics import Array

ERROR, WARNING, INFO = "error", "warning", "info"


@dataclass(frozen=True)
class Finding:
    """Something a reader of this run must know."""

    id: str
    severity: str
    symptom: str
    evidence: str
    cause: str
    fix: str
    run: str | None = None
    expert: int | None = None


def group_same(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Return findings grouped by what they say; the findings of a group differ in run, expert and evidence."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.id, finding.severity, finding.symptom, finding.cause, finding.fix)
        groups.setdefault(key, []).append(finding)
    return list(groups.values())


def logged_norms(run: Run, expert: int) -> Array:
    """Tier norms of one expert, [3, T]; of a file without them the norm of the whole gradient, [1, T]."""
    tiers = tier_norms(run, expert)
    return tiers if np.isfinite(tiers).any() else run.experts[expert]["norm"][None]


def tier_norms(run: Run, expert: int) -> Array:
    """Tier norms of one expert, [3, T]."""
    return np.stack([run.experts[expert][f"{tier}_norm"] for tier in TIERS])
