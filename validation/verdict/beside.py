"""Notes beside the claims of a group, which change no status: distinct experts, the outcome, the registered study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from validation.analysis.cohort import Cohort, MeasuredRun
from validation.analysis.intervals import Interval, paired
from validation.analysis.run import Run
from validation.analysis.statistics import finite
from validation.text import pluralize
from validation.verdict.claims import DISTINCT, Claim
from validation.verdict.registration import registered_study

OUTCOME, STUDY = "outcome", "study"


@dataclass(frozen=True)
class Note:
    """A finding beside the claims, with its numbers."""

    name: str
    """distinct, outcome or study."""
    status: str
    """distinct: the status of that claim. outcome: measured. study: as `StudyRegistration.status`."""
    because: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None


def notes_of(
    members: Sequence[Run], valid: Sequence[MeasuredRun], distinct: Claim | None, cohort: Cohort, alpha: float
) -> tuple[Note, ...]:
    """Return the notes of a group. members: all of its runs; valid: those that carry a verdict.

    distinct: the claim that their experts are; None where no pairs were compared.
    """
    notes = [_of_distinct(distinct)] if distinct is not None else []
    outcome = _outcome(valid, cohort, alpha)
    if outcome is not None:
        because = f"the runs end {_interval(outcome)} nats of held-out loss above their sham twins"
        notes.append(_note(OUTCOME, "measured", f"{because}, over {pluralize(outcome.units, 'seed')}", outcome))
    if len(members) > 1:
        study = registered_study(members)
        notes.append(Note(STUDY, study.status, study.because))
    return tuple(notes)


def _of_distinct(claim: Claim) -> Note:
    return Note(DISTINCT, claim.status, claim.because, claim.estimate, claim.low, claim.high)


def _outcome(valid: Sequence[MeasuredRun], cohort: Cohort, alpha: float) -> Interval | None:
    """Return the held-out loss of the runs minus that of their twins, over the seeds that have both."""
    losses: dict[int, float] = {}
    of_twins: dict[int, float] = {}
    for each in valid:
        twin, seed = cohort.twin_of(each.run), each.run.seed
        loss = each.run.number("held_out_loss")
        of_twin = twin.run.number("held_out_loss") if twin is not None else None
        if seed is not None and loss is not None and of_twin is not None:
            losses[seed], of_twins[seed] = loss, of_twin
    return paired(losses, of_twins, alpha)


def _interval(interval: Interval) -> str:
    bounds = f" [{interval.low:.3f}, {interval.high:.3f}]" if interval.bounded else ""
    return f"{interval.mid:.3f}{bounds}"


def _note(name: str, status: str, because: str, interval: Interval) -> Note:
    return Note(name, status, because, finite(interval.mid), finite(interval.low), finite(interval.high))
