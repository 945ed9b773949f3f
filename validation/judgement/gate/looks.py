"""The plans that runs registered, and the share of alpha that is left for a look at them.

Whoever asks after each new seed, and stops at the first yes, finds an effect too often. So the gate looks at a plan
once, when its last seed is there. A plan for more seeds is another look, at a smaller alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prismatic.contract.study import read_study
from validation.analysis.run import Run


@dataclass(frozen=True)
class Plans:
    """The plans of runs that differ only in the seed."""

    seeds: tuple[int, ...]
    """The planned seeds of all plans together; of runs without a plan their own."""
    missing: tuple[int, ...]
    """The seeds among them without a finished run."""
    unregistered: tuple[str, ...]
    """Ids of the runs that belong to no plan."""
    looks: int
    """The number of plans, at least one."""

    @property
    def share(self) -> float:
        """The share of alpha at which the last of these looks decides."""
        return share_of(self.looks)


def share_of(look: int) -> float:
    """Return the share of alpha of a look: 1 of the first, then 1/2, 1/6, 1/12, which add up to 2 for any number."""
    return 1.0 if look == 1 else 1 / (look * (look - 1))


def plans_of(runs: Sequence[Run], fewest: int) -> Plans:
    """Return the plans of runs that differ only in the seed.

    fewest: seeds of a plan that counts. Of many plans of a few seeds one could show the best and hide the others.
    """
    plan_by_run: dict[str, frozenset[int]] = {}
    for run in runs:
        study = read_study(run.facts)
        if study is not None and run.seed in study.seeds and len(study.seeds) >= fewest:
            plan_by_run[run.id] = frozenset(study.seeds)
    plans = {*plan_by_run.values()}
    seeds = {seed for plan in plans for seed in plan} | {run.seed for run in runs if run.seed is not None}
    finished = {run.seed for run in runs if run.finished}
    return Plans(
        seeds=tuple(sorted(seeds)),
        missing=tuple(sorted(seeds - finished)),
        unregistered=tuple(run.id for run in runs if run.id not in plan_by_run),
        looks=max(1, len(plans)),
    )
