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
from validation.verdict.claims import CLAIMS, INVALID, Claim, Premise, combine_statuses
from validation.verdict.controlled import controlled, premise
from validation.verdict.groups import Dose, Group, across, doses, grouped


@dataclass(frozen=True)
class Reading:
    """One way to read the data: its overall status, the reason, and every claim."""

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
        """The claims about a run and its experts; with None those over all runs."""
        return self._by_run.get(run, [])

    def whole(self, run: str | None) -> dict[str, Claim]:
        """By name, the claims about a run as a whole, or over all runs."""
        return {claim.name: claim for claim in self.of(run) if claim.expert is None}


@dataclass(frozen=True)
class Verdict:
    """Both readings of one or many runs, the premise of each run, and what the runs say together."""

    as_written: Reading
    controlled: Reading
    premises: tuple[Premise, ...]
    thresholds: Thresholds
    groups: tuple[Group, ...] = ()
    """Of the controlled reading, where there are several runs."""
    doses: tuple[Dose, ...] = ()

    @property
    def status(self) -> str:
        """The headline: the controlled reading's."""
        return self.controlled.status

    @cached_property
    def premise_of(self) -> dict[str, Premise]:
        """The premise by run; runs whose data carries no verdict have none."""
        return {premise.run: premise for premise in self.premises}


@dataclass(frozen=True)
class RunClaims:
    """What is said of one run by itself, beside its sham runs. premise: None where the data carries no verdict."""

    as_written: tuple[Claim, ...]
    controlled: tuple[Claim, ...]
    premise: Premise | None


def decide(
    runs: Sequence[Run], invalid: Mapping[tuple[str, int | None], str], thresholds: Thresholds | None = None
) -> Verdict:
    """Judge runs. `invalid` says why the data of (run, expert) carries no verdict; expert None stands for all."""
    used = thresholds or Thresholds()
    return combine_runs(runs, claims_of_each(runs, invalid, used), used)


def claims_of_each(
    runs: Sequence[Run],
    invalid: Mapping[tuple[str, int | None], str],
    thresholds: Thresholds,
    *,
    company: Sequence[Run] | None = None,
    spreads: Spreads | None = None,
) -> list[RunClaims]:
    """What is said of each of these runs.

    Where they are only some of a selection, company: these and the sham runs that they are compared to, in its order;
    spreads: between all of its sham runs.
    """
    looks = {run.id: interim_look(run, thresholds) for run in (runs if company is None else company)}
    selection = Cohort([look.run for look in looks.values()], thresholds, spreads)

    def beyond(run: Run, expert: Expert) -> list[Claim]:
        look = looks[run.id]
        claims = controlled(look.run, look.run.experts[expert.index], selection, look.thresholds)
        return [replace(claim, look=look.points) for claim in claims]

    def own(run: Run) -> RunClaims:
        judgeable = (run.id, None) not in invalid and 0 in run.experts
        return RunClaims(
            tuple(_claims(run, invalid, lambda run, expert: as_written(run, expert, thresholds))),
            tuple(_claims(run, invalid, beyond)),
            premise(looks[run.id].run, thresholds) if judgeable else None,
        )

    return [own(run) for run in runs]


def combine_runs(runs: Sequence[Run], each: Sequence[RunClaims], thresholds: Thresholds) -> Verdict:
    """What the runs say together, from what is said of each. Of the runs only what they say of themselves is needed."""
    written, beyond = ([claim for own in each for claim in getattr(own, name)] for name in ("as_written", "controlled"))
    several = len(runs) > 1
    written_groups, groups = (grouped(runs, claims, thresholds) if several else [] for claims in (written, beyond))
    return Verdict(
        _reading(written, written_groups),
        _reading(beyond, groups),
        tuple(own.premise for own in each if own.premise is not None),
        thresholds,
        tuple(groups),
        tuple(doses(groups, runs, thresholds)),
    )


def _claims(
    run: Run, invalid: Mapping[tuple[str, int | None], str], judge: Callable[[Run, Expert], list[Claim]]
) -> list[Claim]:
    """Every claim of every perturbed expert, followed by the same claims for the whole run."""
    own: list[Claim] = []
    for expert in run.of_role("perturbed"):
        reason = invalid.get((run.id, None)) or invalid.get((run.id, expert.index))
        own += [Claim(c, INVALID, reason, expert.index, run.id) for c in CLAIMS] if reason else judge(run, expert)
    reason = invalid.get((run.id, None), "it has no perturbed expert")
    return [*own, *(_for_run(run, name, own, reason) for name in CLAIMS)]


def _for_run(run: Run, name: str, claims: Sequence[Claim], otherwise: str) -> Claim:
    """One claim for the whole run: every perturbed expert must support it."""
    own = [claim for claim in claims if claim.name == name]
    status = combine_statuses([claim.status for claim in own])
    if not own:
        return Claim(name, INVALID, otherwise, run=run.id)
    alike = [claim for claim in own if claim.status == status]
    if not alike:
        each = ", ".join(f"expert {claim.expert} {claim.status}" for claim in own)
        return Claim(name, status, f"the experts differ: {each}", run=run.id)
    shown = min(alike, key=lambda claim: math.inf if claim.estimate is None else claim.estimate)
    because = shown.because
    if len(own) > 1:
        because = f"expert {shown.expert} ({len(alike)} of {len(own)} perturbed experts alike): {because}"
    if run.is_positive_control:
        because += " (positive control: the effect was put in by hand)"
    return replace(shown, status=status, because=because, expert=None)


def _reading(claims: list[Claim], groups: Sequence[Group]) -> Reading:
    """Add the claims over all runs, if there are several, and the overall status with its reason."""
    if groups:
        deciding = [across(name, groups) for name in CLAIMS]
        claims = [*claims, *deciding]
    else:
        deciding = [claim for claim in claims if claim.expert is None]
    status = combine_statuses([claim.status for claim in deciding])
    shown = next((claim for claim in deciding if claim.status == status), None)
    because = f"{shown.name}: {shown.because}" if shown else "no run could be judged"
    return Reading(status, because, tuple(claims))
