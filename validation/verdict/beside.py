"""Notes beside the claims of a group, which change no status: distinct experts, the outcome, the registered study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import Cohort, MeasuredRun
from validation.analysis.distinct import Distinct, distinct
from validation.analysis.intervals import Interval, paired
from validation.analysis.run import Run
from validation.analysis.statistics import finite
from validation.text import pluralize
from validation.verdict.claims import INCONCLUSIVE, REFUTED, SUPPORTED
from validation.verdict.registration import registered_study

DISTINCT, OUTCOME, STUDY = "distinct", "outcome", "study"


@dataclass(frozen=True)
class Note:
    """A finding beside the claims, with its numbers."""

    name: str
    """distinct, outcome or study."""
    status: str
    """distinct: supported, refuted or inconclusive. outcome: measured. study: as `StudyRegistration.status`."""
    because: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None


def distinct_of(valid: Sequence[MeasuredRun], thresholds: Thresholds) -> Distinct | None:
    """Return how much all experts of these runs differ from each other; None unless every run compared its pairs."""
    pairs = [each.pairs for each in valid if each.pairs is not None]
    if not pairs or len(pairs) < len(valid):
        return None
    return distinct(
        pairs,
        margin=thresholds.divergence_direction,
        alpha=thresholds.alpha,
        min_seeds=int(thresholds.min_seeds),
        min_experts=int(thresholds.min_experts),
    )


def notes_of(
    members: Sequence[Run], valid: Sequence[MeasuredRun], found: Distinct | None, cohort: Cohort, alpha: float
) -> tuple[Note, ...]:
    """Return the notes of a group. members: all of its runs; valid: those that carry a verdict."""
    notes = [_of_distinct(found)] if found is not None else []
    outcome = _outcome(valid, cohort, alpha)
    if outcome is not None:
        because = f"the runs end {_interval(outcome)} nats of held-out loss above their sham twins"
        notes.append(_note(OUTCOME, "measured", f"{because}, over {pluralize(outcome.units, 'seed')}", outcome))
    if len(members) > 1:
        study = registered_study(members)
        notes.append(Note(STUDY, study.status, study.because))
    return tuple(notes)


def _of_distinct(found: Distinct) -> Note:
    status = SUPPORTED if found.supported else REFUTED if found.refuted else INCONCLUSIVE
    where = "in this run" if found.over == "experts" else f"over {pluralize(found.interval.units, 'seed')}"
    because = (
        f"in the last third of the training, gradients of two experts differ in direction by "
        f"{_interval(found.interval)} {where}, on average over all pairs (distinct: above {found.margin:g}); this says "
        "nothing of the cause"
    )
    return _note(DISTINCT, status, because, found.interval)


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
