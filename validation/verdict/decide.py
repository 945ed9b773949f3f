"""The verdict of runs: the claims about each run, over the seeds of each group, and over all; and one status.

The controlled reading is the headline. A verdict needs only measured runs (their levels in six bins of time) and the
claims as written, so that many machines can measure and one decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from prismatic.contract.thresholds import Thresholds
from validation.analysis.bins import BINS
from validation.analysis.cohort import Cohort, MeasuredRun, measure_run
from validation.analysis.experiment import effects_of_shams, measure
from validation.analysis.run import Run
from validation.verdict.as_written import as_written
from validation.verdict.beside import notes_of
from validation.verdict.claims import CLAIMS, DISTINCT, Claim, overall
from validation.verdict.distinctness import (
    claims_of_peers,
    compare_experts,
    distinct_claim,
    distinct_values,
    p_of_distinct,
)
from validation.verdict.dose_response import Dose, doses
from validation.verdict.experiment_claims import claims_of, p_of, values_of
from validation.verdict.groups import (
    PEERS,
    POSITIVE,
    Group,
    check_of,
    combine_groups,
    combine_written,
    deciding_groups,
    group_runs,
)
from validation.verdict.outcome import Outcome, outcome_of
from validation.verdict.premise import Premise, judge_premise
from validation.verdict.words.headline import headline_of, headline_of_one, sentence_of
from validation.verdict.words.wording import changed_thresholds

Invalid = Mapping[str, str]
"""By run id, the reason why its data carries no verdict."""


@dataclass(frozen=True)
class Reading:
    """A reading, as written or controlled: its overall status, the reason, and every claim."""

    status: str
    because: str
    claims: tuple[Claim, ...]
    """About each run, and then over all runs, also of a single one."""
    headline: str = ""
    """The reason in at most 14 words."""

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
    """The two readings of one or many runs, the claim that experts are distinct, and what stands beside them."""

    as_written: Reading
    controlled: Reading
    distinct: Reading
    """The claim that experts are distinct, of each run and over all."""
    premises: tuple[Premise, ...]
    thresholds: Thresholds
    groups: tuple[Group, ...] = ()
    """Groups of the controlled reading."""
    doses: tuple[Dose, ...] = ()
    claim: str | None = None
    """The claim that the status and the headline are about; None for the three about a perturbation together."""

    @cached_property
    def reading(self) -> Reading:
        """The reading that the status and the headline are about: the controlled one, or a single claim of it."""
        if self.claim is None:
            return self.controlled
        if self.claim == DISTINCT:
            return self.distinct
        claims = [claim for claim in self.controlled.claims if claim.name == self.claim]
        over_all = [claim for claim in self.controlled.of(None) if claim.name == self.claim]
        return _reading(claims, over_all, self.deciding, together=False)

    @property
    def deciding(self) -> list[Group]:
        """The groups that the status and the headline are about; the others are their controls."""
        return deciding_groups(self.groups, self.claim)

    @property
    def status(self) -> str:
        """The overall status."""
        return self.reading.status

    @property
    def headline(self) -> str:
        """The headline, with what a reader must know beside it."""
        told = "; ".join(self.notes)
        return f"{self.reading.headline} ({told})" if told else self.reading.headline

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes to read with the headline: a changed threshold, an interim look, a planted effect."""
        deciding = self.deciding
        bins = min((claim.bins for group in deciding for claim in group.claims if claim.bins is not None), default=BINS)
        notes = (
            changed_thresholds(self.thresholds),
            f"provisional: the training is not finished; {bins} of its {BINS} parts are judged so far"
            if 0 < bins < BINS
            else "",
            "provisional: the training has only begun, so nothing is judged yet" if not bins else "",
            "positive control: the effect was put in by hand"
            if deciding and all(group.role == POSITIVE for group in deciding)
            else "",
        )
        return tuple(filter(None, notes))

    @property
    def outcomes(self) -> list[tuple[str, Outcome]]:
        """The outcomes of the groups that the status is about, by the name of the group. No status depends on them."""
        return [(group.name, group.outcome) for group in self.deciding if group.outcome is not None]

    @property
    def headlines(self) -> dict[str, Claim]:
        """The claims that the headline is about, by name: over all runs, also of a single one."""
        return self.reading.whole(None)

    @property
    def rows(self) -> dict[str, Claim]:
        """The claims to show over all runs, by name: those that are made of these experts, and the one asked for."""
        return self._shown(None, peers=all(group.role == PEERS for group in self.groups))

    def judged(self, run: str) -> dict[str, Claim]:
        """Return by name the claims to show of a run: those that are made of its experts, and the one asked for."""
        return self._shown(run, peers=any(run in group.runs for group in self.groups if group.role == PEERS))

    def shown(self, group: Group) -> list[Claim]:
        """Return the claims to show of a group: those that are made of its experts, and the one asked for."""
        names = dict.fromkeys([claim.name for claim in group.judged] + ([self.claim] if self.claim else []))
        return [claim for name in names if (claim := group.claim(name)) is not None]

    def status_of(self, run: str) -> str:
        """Return the status of a run by itself: of the claims that are made of its experts, together."""
        peers = any(run in group.runs for group in self.groups if group.role == PEERS)
        return overall([claim.status for claim in (self.distinct if peers else self.controlled).whole(run).values()])

    def _shown(self, run: str | None, *, peers: bool) -> dict[str, Claim]:
        names = {*((DISTINCT,) if peers else CLAIMS), *((self.claim,) if self.claim else ())}
        known = {**self.distinct.whole(run), **self.controlled.whole(run)}
        return {name: claim for name, claim in known.items() if name in names}

    @cached_property
    def premise_of(self) -> dict[str, Premise]:
        """The premise by run id; runs whose data carries no verdict have none."""
        return {premise.run: premise for premise in self.premises if premise.run}


def judge_runs(
    runs: Sequence[Run], invalid: Invalid, thresholds: Thresholds | None = None, claim: str | None = None
) -> Verdict:
    """Return the verdict of loaded runs, by the default thresholds if none are given. claim: see `decide`."""
    used = thresholds or Thresholds()
    written = [as_written(run, used, invalid.get(run.id)) for run in runs]
    return decide([measure_run(run, used) for run in runs], written, invalid, used, claim)


def decide(
    runs: Sequence[MeasuredRun],
    written: Sequence[Sequence[Claim]],
    invalid: Invalid,
    thresholds: Thresholds,
    claim: str | None = None,
) -> Verdict:
    """Return the verdict of measured runs. written: the claims as written about each, without those it invalidates.

    claim: the claim that the status and the headline are about; None for the three together, or of peers for the one
    that they are distinct.
    """
    cohort = Cohort(runs, [*invalid])
    groups: list[Group] = []
    each: ByRun = {}
    distinct: dict[str, Claim] = {}
    for members, group in group_runs(runs):
        judged = _perturbed if group.role != PEERS else _peers
        group, alone = judged(group, members, cohort, thresholds, invalid)
        each |= alone
        groups.append(_with_beside(group, members, cohort, thresholds, invalid))
        for member in members:
            own = compare_experts([member], cohort, thresholds)
            distinct[member.run.id] = distinct_claim([member], own, invalid)
    over_all = [combine_groups(name, groups, thresholds) for name in CLAIMS] if groups else []
    all_distinct = [combine_groups(DISTINCT, groups, thresholds)] if groups else []
    by_run = [distinct[run.run.id] for run in runs]
    only_peers = bool(groups) and all(group.role == PEERS for group in groups)
    return Verdict(
        _reading(*combine_written(runs, written, groups)),
        _reading([claim for run in runs for claim in each[run.run.id]], over_all, deciding_groups(groups)),
        _reading(by_run, all_distinct, deciding_groups(groups, DISTINCT), together=False),
        tuple(judge_premise([run], thresholds) for run in runs if cohort.carries_verdict(run) and not run.run.peers),
        thresholds,
        tuple(groups),
        tuple(doses(groups, cohort, thresholds)),
        claim or (DISTINCT if only_peers else None),
    )


ByRun = dict[str, tuple[Claim, ...]]


def _perturbed(
    group: Group, members: Sequence[MeasuredRun], cohort: Cohort, thresholds: Thresholds, invalid: Invalid
) -> tuple[Group, ByRun]:
    """Return a group of runs with a perturbation and the three claims about it, and those about each run."""
    shams = effects_of_shams(members, cohort, thresholds)
    alone = [measure([member], cohort, thresholds, shams) for member in members]
    m = measure(members, cohort, thresholds, shams) if len(members) > 1 else alone[0]
    valid = [each for each in members if cohort.carries_verdict(each)]
    judged = replace(
        group,
        claims=claims_of(m, [member.run for member in members], invalid),
        values=values_of(m),
        p=p_of(m),
        check=check_of(group.role, m),
        premise=judge_premise(valid, thresholds) if valid else None,
    )
    runs = zip(members, alone, strict=True)
    return judged, {member.run.id: claims_of(own, [member.run], invalid) for member, own in runs}


def _peers(
    group: Group, members: Sequence[MeasuredRun], cohort: Cohort, thresholds: Thresholds, invalid: Invalid
) -> tuple[Group, ByRun]:
    """Return a group of runs of peers, and each run: there is no perturbation to claim anything about."""
    alone = {member.run.id: claims_of_peers([member]) for member in members}
    return replace(group, claims=claims_of_peers(members), values={}, p={}), alone


def _with_beside(
    group: Group, members: Sequence[MeasuredRun], cohort: Cohort, thresholds: Thresholds, invalid: Invalid
) -> Group:
    """Return a group with the claim that its experts are distinct, and what stands beside its claims."""
    compared = compare_experts(members, cohort, thresholds)
    claim, values = distinct_claim(members, compared, invalid), distinct_values(compared)
    beside = claim if compared.found is not None else None
    outcome = outcome_of(members, cohort, thresholds.alpha)
    return replace(
        group,
        distinct_claim=claim,
        values={**group.values, **({DISTINCT: values} if values else {})},
        p={**group.p, DISTINCT: p_of_distinct(compared)},
        distinct=compared.found,
        outcome=outcome,
        notes=notes_of([member.run for member in members], beside, outcome),
    )


def _reading(
    claims: Sequence[Claim], over_all: Sequence[Claim], deciding: Sequence[Group] = (), *, together: bool = True
) -> Reading:
    """Return the reading of claims about runs, and of those over all runs, which decide.

    deciding: their groups. together: False for a single claim over all runs.
    """
    status = overall([claim.status for claim in over_all])
    told = headline_of if together else headline_of_one
    return Reading(status, sentence_of(status, over_all), (*claims, *over_all), told(status, over_all, deciding))
