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
from validation.verdict.beside import distinct_of, notes_of
from validation.verdict.claims import CLAIMS, Claim, overall
from validation.verdict.dose_response import Dose, doses
from validation.verdict.experiment_claims import claims_of, p_of, values_of
from validation.verdict.groups import (
    POSITIVE,
    Group,
    check_of,
    combine_groups,
    combine_written,
    deciding_groups,
    group_runs,
)
from validation.verdict.premise import Premise, judge_premise
from validation.verdict.words.headline import headline_of, sentence_of
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
    """The two readings of one or many runs, the premise of each run, and the groups and dose-responses of many."""

    as_written: Reading
    controlled: Reading
    premises: tuple[Premise, ...]
    thresholds: Thresholds
    groups: tuple[Group, ...] = ()
    """Groups of the controlled reading."""
    doses: tuple[Dose, ...] = ()

    @property
    def status(self) -> str:
        """The overall status, which is that of the controlled reading."""
        return self.controlled.status

    @property
    def headline(self) -> str:
        """The headline of the controlled reading, with what a reader must know beside it."""
        told = "; ".join(self.notes)
        return f"{self.controlled.headline} ({told})" if told else self.controlled.headline

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes to read with the headline: a changed threshold, an interim look, a planted effect."""
        deciding = deciding_groups(self.groups)
        bins = min((claim.bins for group in deciding for claim in group.claims if claim.bins is not None), default=BINS)
        notes = (
            changed_thresholds(self.thresholds),
            f"provisional: interim look at {bins} of {BINS} parts of the training" if 0 < bins < BINS else "",
            "provisional: before the first interim look" if not bins else "",
            "positive control: the effect was put in by hand"
            if deciding and all(group.role == POSITIVE for group in deciding)
            else "",
        )
        return tuple(filter(None, notes))

    @property
    def headlines(self) -> dict[str, Claim]:
        """The claims that the headline is about, by name: over all runs, also of a single one."""
        return {claim.name: claim for claim in self.controlled.of(None)}

    @cached_property
    def premise_of(self) -> dict[str, Premise]:
        """The premise by run id; runs whose data carries no verdict have none."""
        return {premise.run: premise for premise in self.premises if premise.run}


def judge_runs(runs: Sequence[Run], invalid: Invalid, thresholds: Thresholds | None = None) -> Verdict:
    """Return the verdict of loaded runs, by the default thresholds if none are given."""
    used = thresholds or Thresholds()
    written = [as_written(run, used, invalid.get(run.id)) for run in runs]
    return decide([measure_run(run, used) for run in runs], written, invalid, used)


def decide(
    runs: Sequence[MeasuredRun], written: Sequence[Sequence[Claim]], invalid: Invalid, thresholds: Thresholds
) -> Verdict:
    """Return the verdict of measured runs. written: the claims as written about each, without those it invalidates."""
    cohort = Cohort(runs, [*invalid])
    groups, each = [], {}
    for members, group in group_runs(runs):
        shams = effects_of_shams(members, cohort, thresholds)
        alone = [measure([member], cohort, thresholds, shams) for member in members]
        m = measure(members, cohort, thresholds, shams) if len(members) > 1 else alone[0]
        for member, own in zip(members, alone, strict=True):
            each[member.run.id] = claims_of(own, [member.run], invalid)
        valid = [each for each in members if cohort.carries_verdict(each)]
        groups.append(
            replace(
                group,
                claims=claims_of(m, [member.run for member in members], invalid),
                values=values_of(m),
                p=p_of(m),
                check=check_of(group.role, m),
                premise=judge_premise(valid, thresholds) if valid else None,
                distinct=(experts := distinct_of(valid, thresholds)),
                notes=notes_of([member.run for member in members], valid, experts, cohort, thresholds.alpha),
            )
        )
    controlled = [claim for member in runs for claim in each[member.run.id]]
    over_all = [combine_groups(name, groups, thresholds) for name in CLAIMS] if groups else []
    return Verdict(
        _reading(*combine_written(runs, written, groups)),
        _reading(controlled, over_all, deciding_groups(groups)),
        tuple(judge_premise([run], thresholds) for run in runs if cohort.carries_verdict(run)),
        thresholds,
        tuple(groups),
        tuple(doses(groups, cohort, thresholds)),
    )


def _reading(claims: Sequence[Claim], over_all: Sequence[Claim], deciding: Sequence[Group] = ()) -> Reading:
    """Return the reading of claims about runs, and of those over all runs, which decide. deciding: their groups."""
    status = overall([claim.status for claim in over_all])
    return Reading(status, sentence_of(status, over_all), (*claims, *over_all), headline_of(status, over_all, deciding))
