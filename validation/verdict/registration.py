"""Registrations before the first step: of thresholds (as registered, changed, altered, missing) and of a study's seeds.

Seeds may be chosen after their results are known, and no number in the chosen files shows it. A registered plan does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prismatic.contract.study import as_ranges, read_study
from prismatic.contract.thresholds import RULES, RegisteredThresholds, Thresholds, read_registration
from validation.analysis.run import Run
from validation.text import pluralize, printable

AS_REGISTERED, CHANGED, ALTERED, NOT_REGISTERED = "as_registered", "changed", "altered", "not_registered"
INCOMPLETE, EXTRA = "incomplete", "extra"


@dataclass(frozen=True)
class Registration:
    """The thresholds that one run registered, compared with those that judge it."""

    run: str
    status: str
    because: str
    differences: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """By name, the registered and the used value of each threshold that differs."""


def thresholds_of(runs: Sequence[Run]) -> Thresholds:
    """Return the registered thresholds if all runs that registered any agree, else the defaults."""
    found = [read_registration(run.facts) for run in runs]
    usable = {each.thresholds for each in found if each is not None and each.thresholds is not None}
    return usable.pop() if len(usable) == 1 else Thresholds()


def registration_of(run: Run, used: Thresholds) -> Registration:
    """Return the registration of a run, compared with the thresholds that judge it."""
    found = read_registration(run.facts)
    if found is None:
        return Registration(
            run.id, NOT_REGISTERED, "the file registers no thresholds; these were chosen when it was read"
        )
    if not found.intact:
        because = "the registered thresholds do not match their hash: the file was altered afterwards"
        return Registration(run.id, ALTERED, because, found.differences(used))
    differences = found.differences(used)
    if found.rules == RULES and found.thresholds is None:
        because = "the registered thresholds are outside of the values that may be registered; the defaults are used"
        return Registration(run.id, ALTERED, because, differences)
    if found.rules != RULES:
        because = f"registered under version {found.rules} of the rules, judged under version {RULES}"
        return Registration(run.id, CHANGED, f"{because}{_listed(differences)}", differences)
    if differences:
        return Registration(run.id, CHANGED, f"changed after the fact{_listed(differences)}", differences)
    return Registration(run.id, AS_REGISTERED, f"as registered before the first step (sha256 {_short(found)})")


def threshold_objections(used: Thresholds, registrations: Sequence[Registration]) -> list[str]:
    """Return the thresholds that no strict reader accepts: laxer than the defaults, or not as a run registered them.

    A run registered under another version of the rules is accepted if the thresholds of the same name are the same.
    """
    found = [f"{name} {getattr(used, name):g} is laxer than the default" for name in used.laxer()]
    for registration in registrations:
        if registration.status == ALTERED or (registration.status == CHANGED and registration.differences):
            found.append(f"thresholds [{registration.run}]: {registration.because}")
    return found


def _listed(differences: Mapping[str, tuple[float | None, float | None]]) -> str:
    def number(value: float | None) -> str:
        return "nothing" if value is None else f"{value:g}"

    pairs = [f"{name} from {number(old)} to {number(new)}" for name, (old, new) in sorted(differences.items())]
    return f": {', '.join(pairs)}" if pairs else ""


def _short(found: RegisteredThresholds) -> str:
    return Thresholds().changed(found.values).sha256[:12]


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
