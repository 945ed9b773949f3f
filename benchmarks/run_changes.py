"""Changes to runs in memory: another scale of the loss, fewer or reordered rows, other roles, and no sham run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.run_hash import run_hash
from prismatic.contract.schema import TIERS
from validation.analysis.cohort import MeasuredRun
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array
from validation.verdict.decide import Verdict

Columns = Mapping[str, Array]
ROOTS = ("norm", "top_norm", "bottom_norm", "middle_norm", "divergence", "relative_divergence")
SQUARES = ("half_product", "half_product_clean")


def scaled(run: Run, factor: float) -> Run:
    """Return the run as if the loss had been multiplied by a factor."""

    def change(columns: Columns) -> Columns:
        grown = {name: columns[name] * factor for name in ROOTS if name in columns}
        return {**columns, **grown, **{name: columns[name] * factor**2 for name in SQUARES if name in columns}}

    return with_columns(run, change)


def with_columns(run: Run, change: Callable[[Columns], Columns]) -> Run:
    """Return the run with the columns of every expert changed, also of each layer and of isolated gradients."""

    def changed(experts: Mapping[int, Expert]) -> dict[int, Expert]:
        return {number: Expert(number, each.role, change(each.columns)) for number, each in experts.items()}

    isolated = run.isolated and with_columns(run.isolated, change)
    return replace(run, experts=changed(run.experts), layers=[*map(changed, run.layers)], isolated=isolated)


def with_rows(run: Run, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Run:
    """Return the run with these rows alone, in this order; isolated rows at other steps go, too."""
    steps = run.steps[rows]
    isolated = run.isolated
    if isolated is not None:
        isolated = with_rows(isolated, np.isin(isolated.steps, steps))
    shared = {name: column[rows] for name, column in run.step_columns.items()}
    taken = with_columns(
        replace(run, isolated=None), lambda columns: {name: column[rows] for name, column in columns.items()}
    )
    pairs = [
        {pair: {name: column[rows] for name, column in columns.items()} for pair, columns in layer.items()}
        for layer in run.pairs
    ]
    return replace(taken, steps=steps, step_columns=shared, pairs=pairs, isolated=isolated)


def as_perturbed(run: Run) -> Run:
    """Return a sham run as if its experts had been perturbed, so that the rules do not know the truth."""
    isolated = run.isolated and as_perturbed(run.isolated)
    changed = replace(run, facts={**run.facts, "config.perturbation_scale": 1.0})
    facts = {**changed.facts, "run_hash": run_hash(changed.config, str(run.facts.get("corpus_sha256")))}
    every = {expert: dict.fromkeys(TIERS, 1.0) for expert in run.changed}
    return replace(changed, facts=facts, scales={}, changed=every, isolated=isolated)


def with_roles(each: MeasuredRun, roles: Sequence[str]) -> MeasuredRun:
    """Return a measured run with other roles of its experts."""
    merged, isolated = (levels and replace(levels, roles=tuple(roles)) for levels in (each.merged, each.isolated))
    return replace(each, merged=merged, isolated=isolated)


def statuses(verdict: Verdict) -> dict[tuple[str | None, str], str]:
    """Return the status of every claim of the controlled reading, by run (None: over all) and name."""
    return {(claim.run, claim.name): claim.status for claim in verdict.controlled.claims}
