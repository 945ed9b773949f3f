"""The verdict of runs: the claims per expert, per run and over all runs, as written and controlled, and one status.

The controlled reading is the headline. The claims about a run depend only on this run and on its sham runs
(`claims_of_each`), so that many machines can judge at once. `combine_runs` then adds what the runs show together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from prismatic.contract.thresholds import Thresholds
from validation.analysis.controls import Cohort, Spreads
from validation.analysis.interim import interim_look
from validation.analysis.run import Expert, Run
from validation.verdict.as_written import as_written
from validation.verdict.claims import CLAIMS, INVALID, Claim, combine_statuses
from validation.verdict.controlled import controlled
from validation.verdict.dose_response import Dose, doses
from validation.verdict.groups import Group, combine_groups, group_runs
from validation.verdict.premise import Premise, judge_premise

Invalid = Mapping[tuple[str, int | None], str]
"""By run and expert (None: the whole run), the reason why its data carries no verdict."""


@dataclass(frozen=True)
class Reading:
    """A reading, as written or controlled: its overall status, the reason, and every claim."""

    status: str
    because: str
    claims: tuple[Claim, ...]

    @cached_property
    def _by_run(self) -> dict[str | None, list[Claim]]:
        found: dict[str | None, list[Claim]] = {}
        for claim in self.claims:
            found.setdefault(claim.run, []).append(claim)
        return found

    def of(self, run: str | None) -> list[Claim]:
        """Return the claims about a run and its experts; None: over all runs."""
        return self._by_run.get(run, [])

    def whole(self, run: str | None) -> dict[str, Claim]:
        """Return by name the claims about a run as a whole; None: over all runs."""
        return {claim.name: claim for claim in self.of(run) if claim.expert is None}


@dataclass(frozen=True)
class Verdict:
    """The two readings of one or many runs, the premise of each run, and the groups and dose-responses of many."""

    as_written: Reading
    controlled: Reading
    premises: tuple[Premise, ...]
    thresholds: Thresholds
    groups: tuple[Group, ...] = ()
    """Groups of the controlled reading; empty for a single run."""
    doses: tuple[Dose, ...] = ()

    @property
    def status(self) -> str:
        """The overall status, which is that of the controlled reading."""
        return self.controlled.status

    @cached_property
    def premise_of(self) -> dict[str, Premise]:
        """The premise by run id; runs whose data carries no verdict have none."""
        return {premise.run: premise for premise in self.premises}


@dataclass(frozen=True)
class RunClaims:
    """The claims about one run and its experts, and its premise (None where the data carries no verdict)."""

    as_written: tuple[Claim, ...]
    controlled: tuple[Claim, ...]
    premise: Premise | None


def decide(runs: Sequence[Run], invalid: Invalid, thresholds: Thresholds | None = None) -> Verdict:
    """Return the verdict of runs, by the default thresholds if none are given."""
    used = thresholds or Thresholds()
    return combine_runs(runs, claims_of_each(runs, invalid, used), used)


def claims_of_each(
    runs: Sequence[Run],
    invalid: Invalid,
    thresholds: Thresholds,
    *,
    company: Sequence[Run] | None = None,
    spreads: Spreads | None = None,
) -> list[RunClaims]:
    """Return the claims about each of these runs.

    Both options are for runs that are a part of a larger selection. company: these runs and their sham runs, in the
    order of the selection. spreads: those between all sham runs of the selection.
    """
    judged = {run.id: interim_look(run, thresholds) for run in (runs if company is None else company)}
    cohort = Cohort([interim.run for interim in judged.values()], thresholds, spreads)

    def judge_controlled(run: Run, expert: Expert) -> list[Claim]:
        interim = judged[run.id]
        claims = controlled(interim.run, interim.run.experts[expert.index], cohort, interim.thresholds)
        return [replace(claim, look=interim.points) for claim in claims]

    def judge(run: Run) -> RunClaims:
        valid = (run.id, None) not in invalid and 0 in run.experts
        return RunClaims(
            tuple(_claims(run, invalid, lambda run, expert: as_written(run, expert, thresholds))),
            tuple(_claims(run, invalid, judge_controlled)),
            judge_premise(judged[run.id].run, thresholds) if valid else None,
        )

    return [judge(run) for run in runs]


def combine_runs(runs: Sequence[Run], each: Sequence[RunClaims], thresholds: Thresholds) -> Verdict:
    """Return the verdict over runs from the claims about each. The runs need no series here, only their facts."""
    written = [claim for run in each for claim in run.as_written]
    beyond = [claim for run in each for claim in run.controlled]
    several = len(runs) > 1
    written_groups, groups = (group_runs(runs, claims, thresholds) if several else [] for claims in (written, beyond))
    return Verdict(
        _reading(written, written_groups),
        _reading(beyond, groups),
        tuple(run.premise for run in each if run.premise is not None),
        thresholds,
        tuple(groups),
        tuple(doses(groups, runs, thresholds)),
    )


def _claims(run: Run, invalid: Invalid, judge: Callable[[Run, Expert], list[Claim]]) -> list[Claim]:
    """Return the claims of every perturbed expert, followed by the same claims for the whole run."""
    claims: list[Claim] = []
    for expert in run.of_role("perturbed"):
        reason = invalid.get((run.id, None)) or invalid.get((run.id, expert.index))
        claims += [Claim(c, INVALID, reason, expert.index, run.id) for c in CLAIMS] if reason else judge(run, expert)
    reason = invalid.get((run.id, None), "the run has no perturbed expert")
    return [*claims, *(_for_run(run, name, claims, reason) for name in CLAIMS)]


def _for_run(run: Run, name: str, claims: Sequence[Claim], without_experts: str) -> Claim:
    """Return one claim for the whole run, which every perturbed expert must support."""
    experts = [claim for claim in claims if claim.name == name]
    status = combine_statuses([claim.status for claim in experts])
    if not experts:
        return Claim(name, INVALID, without_experts, run=run.id)
    same = [claim for claim in experts if claim.status == status]
    if not same:
        each = ", ".join(f"expert {claim.expert} {claim.status}" for claim in experts)
        return Claim(name, status, f"the experts differ: {each}", run=run.id)
    shown = min(same, key=lambda claim: math.inf if claim.estimate is None else claim.estimate)
    because = shown.because
    if len(experts) > 1:
        because = f"expert {shown.expert} ({len(same)} of {len(experts)} perturbed experts {status}): {because}"
    if run.is_positive_control:
        because += " (positive control: the effect was put in by hand)"
    return replace(shown, status=status, because=because, expert=None)


def _reading(claims: list[Claim], groups: Sequence[Group]) -> Reading:
    """Return the reading of these claims, and of the claims over all runs where there are groups."""
    if groups:
        deciding = [combine_groups(name, groups) for name in CLAIMS]
        claims = [*claims, *deciding]
    else:
        deciding = [claim for claim in claims if claim.expert is None]
    status = combine_statuses([claim.status for claim in deciding])
    shown = next((claim for claim in deciding if claim.status == status), None)
    because = f"{shown.name}: {shown.because}" if shown else "no run could be judged"
    return Reading(status, because, tuple(claims))
