"""Diagnostics of a run: the list of all checks (CHECKS), and their findings with symptom, evidence, cause and fix.

A check takes a run and yields findings. To add one, write it in the file of its theme, add it to CHECKS, and describe
it in checklist.py. A finding of severity "error" means that the data of the run (or expert) carries no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Run
from validation.diagnostics.consistency import constant_shares, tiers_disagree
from validation.diagnostics.experiment import (
    COLLAPSED_SHARE,
    collinear_gradients,
    identical_experts,
    not_a_control,
    positive_control,
    router_collapse,
    scale_dependent_threshold,
)
from validation.diagnostics.facts import facts_disagree
from validation.diagnostics.finding import ERROR, INFO, WARNING, Finding
from validation.diagnostics.gradients import (
    constant_rows,
    logging_order,
    missing_gradients,
    nonfinite,
    rows_lost,
    zero_norms,
    zero_tier,
)
from validation.diagnostics.layers import incomplete_layers, missing_values
from validation.diagnostics.plan import (
    means_only,
    missing_layers,
    missing_probe,
    no_plan,
    off_grid,
    too_short,
    unfinished,
    wall_time_falls,
)
from validation.diagnostics.rows import (
    damaged,
    duplicate_steps,
    missing_columns,
    missing_experts,
    no_data,
    step_gaps,
    wal_missing,
)
from validation.files.run_file import Rejected

__all__ = [
    "CHECKS",
    "COLLAPSED_SHARE",
    "ERROR",
    "INFO",
    "WARNING",
    "Finding",
    "diagnose",
    "invalidating",
    "of_rejected",
]

CHECKS: Sequence[Callable[[Run, Thresholds], Iterator[Finding]]] = (
    no_data,
    wal_missing,
    damaged,
    missing_experts,
    zero_norms,
    zero_tier,
    missing_columns,
    constant_rows,
    nonfinite,
    missing_gradients,
    rows_lost,
    logging_order,
    step_gaps,
    off_grid,
    wall_time_falls,
    duplicate_steps,
    missing_probe,
    missing_layers,
    incomplete_layers,
    missing_values,
    facts_disagree,
    tiers_disagree,
    constant_shares,
    not_a_control,
    identical_experts,
    positive_control,
    too_short,
    means_only,
    no_plan,
    collinear_gradients,
    router_collapse,
    scale_dependent_threshold,
    unfinished,
)


def of_rejected(rejected: Rejected) -> Finding:
    """Return the finding for a file that could not be read as a run."""
    error = rejected.error
    return Finding(
        error.id, ERROR, f"the file {rejected.name} cannot be read as a run", error.evidence, error.cause, error.fix
    )


def diagnose(run: Run, thresholds: Thresholds | None = None) -> list[Finding]:
    """Return the findings of all checks of a run, errors first."""
    with np.errstate(over="ignore"):  # sums of a damaged file's numbers
        return errors_first(finding for check in CHECKS for finding in check(run, thresholds or Thresholds()))


def errors_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings by severity."""
    order = (ERROR, WARNING, INFO)
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def invalidating(findings: Iterable[Finding]) -> dict[str, str]:
    """Return by run the reason why its data carries no verdict."""
    reasons: dict[str, str] = {}
    for finding in findings:
        if finding.severity == ERROR and finding.run is not None:
            reasons.setdefault(finding.run, finding.symptom)
    return reasons
