"""An experiment before the gate: its runs, its claim at the alpha of this look, its plans and its A/A pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import MeasuredRun
from validation.analysis.experiment import effects_of_shams, measure
from validation.diagnostics import ERROR, WARNING, invalidating
from validation.judgement.gate.aa_pair import AAPair, aa_pair
from validation.judgement.gate.looks import Plans, plans_of, share_of
from validation.judgement.judge import Judgement
from validation.verdict.claims import DISTINCT, Claim
from validation.verdict.decide import Verdict, decide
from validation.verdict.distinctness import compare_experts, seeds_for_distinct
from validation.verdict.experiment_claims import seeds_needed
from validation.verdict.groups import Group


@dataclass(frozen=True, eq=False)
class Experiment:
    """Runs that differ only in the seed, with all that the gate asks of them."""

    judgement: Judgement
    group: Group
    """At the alpha of this look, as the claim."""
    claim: Claim
    plans: Plans
    aa: AAPair
    thresholds: Thresholds
    """At the alpha of this look."""

    @cached_property
    def members(self) -> list[MeasuredRun]:
        """The runs."""
        return self.judgement.members_of(self.group)

    @cached_property
    def warnings(self) -> list[str]:
        """The warnings and errors about these runs and about those of the A/A pair."""
        used = {*self.group.runs, *self.aa.runs}
        grave = [f for f in self.judgement.findings if f.run in used and f.severity in (ERROR, WARNING)]
        return [f"{finding.id} [{finding.run}]" for finding in grave]

    def seeds_needed(self, name: str) -> int | None:
        """Return the seeds that would decide a claim at the next look; None if too many or unknown."""
        alpha = self.judgement.verdict.thresholds.alpha * share_of(self.plans.looks + 1)
        thresholds, cohort = self.thresholds.changed({"alpha": alpha}), self.judgement.cohort
        if name == DISTINCT:
            found = compare_experts(self.members, cohort, thresholds).found
            return None if found is None else seeds_for_distinct(found)
        shams = effects_of_shams(self.members, cohort, thresholds)
        return seeds_needed(name, measure(self.members, cohort, thresholds, shams))


def experiments_of(judgement: Judgement, name: str) -> list[Experiment]:
    """Return the experiments that a claim is about, each at the alpha of its own look."""
    return [_experiment(judgement, group, name) for group in judgement.verdict.deciding]


def _experiment(judgement: Judgement, group: Group, name: str) -> Experiment:
    registered = judgement.verdict.thresholds
    plans = plans_of([each.run for each in judgement.members_of(group)], int(registered.min_seeds))
    verdict = _at_alpha(judgement, registered.alpha * share_of(plans.looks))
    own = next(other for other in verdict.groups if other.runs == group.runs)
    claim = own.claim(name)
    assert claim is not None  # every group that decides has it
    return Experiment(
        judgement, own, claim, plans, aa_pair(own, name, judgement.cohort, registered), verdict.thresholds
    )


def _at_alpha(judgement: Judgement, alpha: float) -> Verdict:
    """Return the verdict at another alpha."""
    verdict = judgement.verdict
    if alpha == verdict.thresholds.alpha:
        return verdict
    without: Sequence[Sequence[Claim]] = [()] * len(judgement.measured)  # what the documented rules say decides nothing
    thresholds = verdict.thresholds.changed({"alpha": alpha})
    return decide(judgement.measured, without, invalidating(judgement.findings), thresholds, verdict.claim)
