"""A judgement as that of a study: its registered hypotheses with their answers, and which planned runs are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from prismatic.contract.study_plan import Options, StudyPlan, experiments_of, has_options, named, read_plan
from prismatic.errors import StudyError
from validation.analysis.run import Run
from validation.judgement.judge import Judgement
from validation.text import pluralize
from validation.verdict.hypotheses import Answer, answer
from validation.verdict.registration import ALTERED, CHANGED


@dataclass(frozen=True)
class PlannedRun:
    """A planned run: its experiment and seed, and the id of its run; None if that is missing."""

    options: Options
    seed: int
    run: str | None
    registered: bool = False
    """True if the run registered the plan before its first step."""

    @property
    def name(self) -> str:
        """The options and the seed in words."""
        return f"{named(self.options)} seed={self.seed}".strip()


@dataclass(frozen=True)
class StudyJudgement:
    """A study: its plan, its planned runs, and the answers to its hypotheses."""

    plan: StudyPlan
    runs: tuple[PlannedRun, ...]
    answers: tuple[Answer, ...]
    extra: tuple[str, ...]
    """Ids of runs that are not planned."""

    @property
    def missing(self) -> list[str]:
        """The planned runs that are not here."""
        return [run.name for run in self.runs if run.run is None]

    @property
    def because(self) -> str:
        """A sentence about the planned runs: which are missing, unregistered or added."""
        here = sum(run.run is not None for run in self.runs)
        unregistered = [run.name for run in self.runs if run.run is not None and not run.registered]
        found = f"{here} of {pluralize(len(self.runs), 'planned run')} are here"
        found += f"; missing: {_listed(self.missing)}" if self.missing else ""
        found += f"; without a registered plan: {_listed(unregistered)}" if unregistered else ""
        return found + (f"; not planned: {_listed(self.extra)}" if self.extra else "")


def study_of(judgement: Judgement) -> StudyJudgement | None:
    """Return the study that the runs registered; None if they registered none, or several.

    Plans that differ in their experiments and seeds alone are one study, with all of these.
    """
    plans = _plans(judgement.runs)
    if len({plan.promise for plan in plans.values()}) != 1:
        return None
    plan = _together([*plans.values()])
    planned = [_planned(plan, options, seed, judgement.runs) for options in plan.experiments for seed in plan.seeds]
    known = {run.run for run in planned}
    members = [(group, judgement.members_of(group)) for group in judgement.verdict.groups]
    answers = [answer(each, members, judgement.cohort, judgement.verdict.thresholds) for each in plan.hypotheses]
    extra = tuple(run.id for run in judgement.runs if run.id not in known)
    return StudyJudgement(plan, tuple(planned), tuple(answers), extra)


def require_registered(judgement: Judgement, *, study: bool = False) -> None:
    """Raise StudyError if the runs of a study are judged by other thresholds than they registered.

    study: also if they are not the runs of one study.
    """
    plans = _plans(judgement.runs)
    promises = {plan.promise for plan in plans.values()}
    if study and len(promises) != 1:
        what = "no plan of a study" if not promises else f"{len(promises)} plans with other hypotheses or thresholds"
        raise StudyError(f"the runs registered {what}; give the runs of one study, as `prismatic study` trains them.")
    used = asdict(judgement.verdict.thresholds)
    for run, plan in plans.items():
        if dict(plan.thresholds) != used:
            listed = _differences(plan.thresholds, used)
            raise StudyError(
                f"run {run} belongs to study {plan.name!r}, which registered other thresholds ({listed}). It is judged "
                "by those alone: leave out --set, or run a new study."
            )
    changed = [each for each in judgement.registrations if each.run in plans and each.status in (ALTERED, CHANGED)]
    if changed:
        raise StudyError(
            f"run {changed[0].run} belongs to a study, but {changed[0].because}. Judge it as it registered."
        )


def _plans(runs: Sequence[Run]) -> dict[str, StudyPlan]:
    """Return by run the plan that it registered."""
    found = ((run.id, read_plan(run.facts)) for run in runs)
    return {run: plan for run, plan in found if plan is not None}


def _together(plans: Sequence[StudyPlan]) -> StudyPlan:
    """Return one plan with the experiments and seeds of all."""
    experiments = experiments_of([options for plan in plans for options in plan.experiments])
    seeds = tuple(sorted({seed for plan in plans for seed in plan.seeds}))
    return replace(plans[0], experiments=experiments, seeds=seeds)


def _planned(plan: StudyPlan, options: Options, seed: int, runs: Sequence[Run]) -> PlannedRun:
    run = next((run for run in runs if run.seed == seed and has_options(run.config, options)), None)
    found = None if run is None else read_plan(run.facts)
    registered = found is not None and found.promise == plan.promise
    return PlannedRun(options, seed, None if run is None else run.id, registered)


def _differences(registered: Mapping[str, float], used: Mapping[str, float]) -> str:
    names = sorted(name for name in {**registered, **used} if registered.get(name) != used.get(name))
    return ", ".join(f"{name} {registered.get(name)} instead of {used.get(name)}" for name in names)


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
