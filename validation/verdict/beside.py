"""Notes beside the claims of a group, which change no status: distinct experts, the outcome, the registered study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from validation.analysis.run import Run
from validation.analysis.statistics import finite
from validation.verdict.claims import DISTINCT, Claim
from validation.verdict.outcome import Outcome
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


def notes_of(members: Sequence[Run], distinct: Claim | None, outcome: Outcome | None) -> tuple[Note, ...]:
    """Return the notes of a group of these runs.

    distinct: the claim that their experts are; None where no pairs were compared.
    """
    notes = [_of_distinct(distinct)] if distinct is not None else []
    notes += [_of_outcome(outcome)] if outcome is not None else []
    if len(members) > 1:
        study = registered_study(members)
        notes.append(Note(STUDY, study.status, study.because))
    return tuple(notes)


def _of_distinct(claim: Claim) -> Note:
    return Note(DISTINCT, claim.status, claim.because, claim.estimate, claim.low, claim.high)


def _of_outcome(outcome: Outcome) -> Note:
    found = outcome.interval
    return Note(OUTCOME, "measured", outcome.because, finite(found.mid), finite(found.low), finite(found.high))
