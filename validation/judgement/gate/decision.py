"""The answer of the gate about a claim over all experiments at hand: the least favourable of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from validation.judgement.gate.experiment import Experiment, experiments_of
from validation.judgement.gate.rules import ANSWERS, DISCARD, REASONS, Ruling, rule
from validation.judgement.judge import Judgement
from validation.text import pluralize, spaced

NAMED = 5  # experiments in a sentence


@dataclass(frozen=True, eq=False)
class Gate:
    """The answer about a claim."""

    claim: str
    answer: str | None
    """keep, discard or more_seeds; None if a file could not be read, so that nothing was decided."""
    reason: str
    because: str
    more_seeds: int = 0
    """Runs to train, each with another seed; of each experiment where there are several."""
    more_sham_seeds: int = 0
    """Sham runs to train, each with another seed."""
    experiments: tuple[tuple[Experiment, Ruling], ...] = ()

    @property
    def without_verdict(self) -> bool:
        """True if the claim is discarded because the data of some experiment carries no verdict."""
        return self.answer == DISCARD and self.reason in ("aa_fails", "invalid")


def gate(judgement: Judgement, claim: str) -> Gate:
    """Return if a claim is to be kept or discarded, or how many more seeds it needs.

    judgement: by the registered thresholds, with this claim as the one that the headline is about.
    """
    if judgement.rejected or not judgement.runs:
        errors = "; ".join(str(rejected.error) for rejected in judgement.rejected[:NAMED])
        return Gate(claim, None, "unreadable", errors or "there is no run to judge")
    found = [(experiment, rule(experiment)) for experiment in experiments_of(judgement, claim)]
    answer = next(answer for answer in ANSWERS if any(ruling.answer == answer for _, ruling in found))
    alike = [(experiment, ruling) for experiment, ruling in found if ruling.answer == answer]
    reason = min((ruling.reason for _, ruling in alike), key=REASONS.index)
    return Gate(
        claim,
        answer,
        reason,
        _sentence(alike, len(found)),
        max(ruling.more_seeds for _, ruling in alike),
        max(ruling.more_sham_seeds for _, ruling in alike),
        tuple(found),
    )


def _sentence(alike: Sequence[tuple[Experiment, Ruling]], experiments: int) -> str:
    """Return why; of several experiments the reason of each that has the answer."""
    if experiments == 1:
        return alike[0][1].because
    each = ", ".join(f"{experiment.group.name} ({spaced(ruling.reason)})" for experiment, ruling in alike[:NAMED])
    more = f", and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
    return f"in {len(alike)} of {pluralize(experiments, 'experiment')}: {each}{more}"
