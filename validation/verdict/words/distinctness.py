"""The words of the claim `distinct`: a headline of at most 14 words and one sentence with the numbers, by reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from validation.analysis.intervals import Interval
from validation.analysis.trained import phrase_of_untrained
from validation.text import pluralize
from validation.verdict.claims import Decision, Reason
from validation.verdict.words.reasons import HEADLINES, MOST_WORDS, NOTHING

if TYPE_CHECKING:
    from validation.verdict.distinctness import ComparedExperts

HEADLINES_OF_DISTINCT = {
    Reason.PAIRS_NOT_COMPARED: "Cannot tell: the experts were not compared on the same batch",
    Reason.TOO_FEW_PLANNED_ROWS: "The experts are compared too seldom to decide",
    Reason.NOT_FINISHED: "Too early to say: the last third of the training decides",
    Reason.DIRECTION_NOT_MEASURED: "Cannot tell: the gradients of the probe are mostly noise",
    Reason.ABOVE_MARGIN: "The experts are distinct: their gradients differ on the same batch",
    Reason.INSIDE_MARGIN: "The experts are alike: their gradients hardly differ on the same batch",
    Reason.BOTH_SIDES_OF_MARGIN: "Not clear yet whether the experts differ",
}
AMONG_TRAINED = {
    Reason.DIRECTION_NOT_MEASURED: "the others' gradients are noise",
    Reason.TOO_FEW_SEEDS: "too few seeds to decide",
    Reason.TOO_FEW_EXPERTS: "too few others to decide",
    Reason.ABOVE_MARGIN: "the others are distinct",
    Reason.INSIDE_MARGIN: "the others are alike",
    Reason.BOTH_SIDES_OF_MARGIN: "unclear if the others differ",
}
"""Headlines of runs in which some experts never received a gradient, after their number."""
CAUSE = "this says nothing of the cause"


def headline_of_distinct(decision: Decision, *, single: bool, invalid: str, untrained: str = "") -> str:
    """Return the reason in at most 14 words.

    invalid: the problem of the first run that carries no verdict. untrained: how many experts were never trained, of
    `phrase_of_untrained`.
    """
    if untrained and decision.reason in AMONG_TRAINED:
        return f"{untrained[0].upper()}{untrained[1:]} never trained; {AMONG_TRAINED[decision.reason]}"
    if single and decision.reason == Reason.TOO_FEW_VALID_RUNS:
        text = f"{NOTHING}: {invalid}"
        return text if len(text.split()) <= MOST_WORDS else f"{NOTHING} from the data of this run"
    return HEADLINES_OF_DISTINCT.get(decision.reason) or HEADLINES[decision.reason]


def sentence_of_distinct(decision: Decision, c: ComparedExperts, interval: Interval | None, invalid: str) -> str:
    """Return the reason as a sentence. interval: of the mean direction, as it is shown; None where it is unknown."""
    reason, left_out = decision.reason, f"{c.without_verdict} of {pluralize(c.runs, 'run')} carry no verdict"
    text = {
        Reason.TOO_FEW_VALID_RUNS: invalid if c.single else f"{left_out}: {invalid}",
        Reason.NO_REPLICAS: f"{c.copies}, so they do not count as repetitions",
        Reason.PAIRS_NOT_COMPARED: "the runs have different experts, so their pairs do not correspond"
        if c.probed
        else "in a training each expert may see tokens of its own; the isolated probe measures all on the same batch, "
        "and it did not run",
        Reason.TOO_FEW_PLANNED_ROWS: "each of six equal parts of the training needs a row of the isolated probe",
        Reason.NOT_FINISHED: "the last third of the training is not logged yet",
        Reason.DIRECTION_NOT_MEASURED: "two halves of a batch hardly agree on a gradient; larger probe batches show "
        "more",
        Reason.DEPENDS_ON_INVALID_RUNS: f"{left_out}, and what they could show matters",
    }.get(reason)
    if reason in (Reason.TOO_FEW_SEEDS, Reason.TOO_FEW_EXPERTS):
        units, needed = (0, 0) if c.found is None else (c.found.interval.units, c.found.units_needed)
        unit = "expert" if c.single else "seed"
        text = f"{pluralize(units, unit)}, and {needed} are needed"
    if interval is None or c.found is None or reason in (Reason.NO_REPLICAS, Reason.NOT_FINISHED):
        return str(text)
    found, margin = _found(c, interval), f"{c.found.margin:g}"
    if text is not None:
        return f"{text}; {found}"
    return {
        Reason.ABOVE_MARGIN: f"{found}; the whole interval lies above the threshold of {margin}; {CAUSE}",
        Reason.INSIDE_MARGIN: f"{found}; a mean difference of {margin} is ruled out",
    }.get(reason, f"{found}; whether that exceeds {margin} stays open")


def _found(c: ComparedExperts, interval: Interval) -> str:
    bounds = f" [{interval.low:.3f}, {interval.high:.3f}]" if interval.bounded else ""
    where = "in this run" if c.single else f"over {pluralize(interval.units, 'seed')}"
    untrained = phrase_of_untrained(c.untrained)
    left_out = f" without the {untrained} that never received a gradient" if untrained else ""
    return (
        f"in the last third of the training, gradients of two experts differ in direction by {interval.mid:.3f}"
        f"{bounds} {where}, on average over all pairs{left_out}"
    )


def no_perturbation() -> tuple[str, str]:
    """Return why nothing is claimed of a perturbation, as a sentence and as a headline."""
    return (
        "every expert is a peer: nobody said which ones are perturbed, so there is no perturbation to judge",
        "No expert of these runs is named perturbed",
    )
