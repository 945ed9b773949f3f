"""The registration of a study: runs that differ only in the seed, compared with the seeds that they registered.

Seeds may be chosen after their results are known, and no number in the chosen files shows it. A plan that was
registered before the first step does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prismatic.contract.study import as_ranges, read_study
from validation.analysis.run import Run
from validation.text import pluralize, printable

AS_REGISTERED, INCOMPLETE, EXTRA, NOT_REGISTERED = "as_registered", "incomplete", "extra", "not_registered"


@dataclass(frozen=True)
class StudyRegistration:
    """The seeds of a group of runs, compared with the planned ones."""

    status: str
    because: str
    missing: tuple[int, ...] = ()
    """Planned seeds without a run."""
    extra: tuple[int, ...] = ()
    """Seeds of runs that are not in every plan, or that registered no plan."""


def registered_study(runs: Sequence[Run]) -> StudyRegistration:
    """Return the registration of runs that differ only in the seed, by their facts.

    Runs of several plans, as of a sweep that was repeated with more seeds, need the seeds of all plans, and the seeds
    that are not in every plan are extra.
    """
    plans = {run.seed: study for run in runs if (study := read_study(run.facts)) is not None and run.seed is not None}
    if not plans:
        because = "no run registered the planned seeds: they may have been chosen after their results were known"
        return StudyRegistration(NOT_REGISTERED, because)
    seeds = [{*study.seeds} for study in plans.values()]
    planned, common = set.union(*seeds), set.intersection(*seeds)
    present = {run.seed for run in runs if run.seed is not None}
    missing, extra = tuple(sorted(planned - present)), tuple(sorted(present - (common & {*plans})))
    outside = f"outside the registered plan: {_named(extra)}"
    if missing:
        because = f"{len(planned) - len(missing)} of {pluralize(len(planned), 'planned seed')} are here; missing: "
        because += _named(missing) + (f"; {outside}" if extra else "")
        return StudyRegistration(INCOMPLETE, because, missing, extra)
    if extra:
        because = f"{outside}; runs may have been added after results were known"
        return StudyRegistration(EXTRA, because, missing, extra)
    runs_planned = max(study.runs for study in plans.values())
    because = f"every planned seed is here ({_named(sorted(planned))}), registered before the first step"
    if runs_planned:
        because += f", in a study of {pluralize(runs_planned, 'run')}"
    return StudyRegistration(AS_REGISTERED, because)


def _named(seeds: Sequence[int]) -> str:
    return printable(as_ranges(seeds).replace(",", ", "))
