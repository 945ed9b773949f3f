"""A finding: the severity, symptom, evidence, cause and fix of one problem of a run, and helpers of the checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from validation.analysis.run import Run
from validation.analysis.statistics import Array

ERROR, WARNING, INFO = "error", "warning", "info"


@dataclass(frozen=True)
class Finding:
    """A problem of a run, or of one of its experts. An error means that its data carries no verdict."""

    id: str
    severity: str
    symptom: str
    evidence: str
    cause: str
    fix: str
    run: str | None = None
    expert: int | None = None


def group_same(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Return the findings grouped by all but their evidence, run and expert, in order of appearance."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.id, finding.severity, finding.symptom, finding.cause, finding.fix)
        groups.setdefault(key, []).append(finding)
    return list(groups.values())


def graver(run: Run) -> str:
    """Return the severity of a fault of one expert's merged gradients: no claim about peers rests on these."""
    return WARNING if run.peers and run.source == "merged" else ERROR


def sources(run: Run) -> list[Run]:
    """Return the run by its merged gradients and, if they were measured, by its isolated ones."""
    return [run] if run.isolated is None else [run, run.isolated]


def logged_norms(run: Run, expert: int) -> Array:
    """Return the tier norms of one expert, [3, T], or the norm of its whole gradient, [1, T], if it has no tiers."""
    tiers = tier_norms(run, expert)
    return tiers if np.isfinite(tiers).any() else run.experts[expert]["norm"][None]


def any_above_zero(norms: Array) -> bool:
    """Return True if any norm is there and not zero; infinity counts."""
    return bool((np.abs(norms) > 0).any())  # NaN is not above zero


def tier_norms(run: Run, expert: int) -> Array:
    """Return the tier norms of one expert, [3, T]."""
    return run.experts[expert].tiers
