"""Advice on the next step towards the claim that experts are distinct: the probe, its batches, more seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Run
from validation.analysis.trained import phrase_of_untrained
from validation.judgement.step import Advice
from validation.text import pluralize
from validation.verdict.claims import REFUTED, SUPPORTED, Claim, Reason
from validation.verdict.groups import Group

CHOOSE = (
    "Check that their weights require gradients, and that the router chooses them: a load-balancing loss, noise on its "
    "logits, or a higher capacity lets it"
)
SEEDS = int(Thresholds().min_seeds)
TEXTS = {
    Reason.NO_REPLICAS: "remove the copies, and train each seed by itself with its seed recorded",
    Reason.PAIRS_NOT_COMPARED: "let the isolated probe measure each expert alone on the same batch and compare the "
    "pairs: give `probe_freq` to the callback, and to it or to `attach` the loss that it probes",
    Reason.TOO_FEW_PLANNED_ROWS: "compare the experts more often (a smaller `probe_freq` or `pair_freq`), so that "
    "each sixth of the training has a row",
    Reason.NOT_FINISHED: "wait for the end of the training, and judge it again: its last third decides",
    Reason.DIRECTION_NOT_MEASURED: "give the probe larger batches, so that two halves of a batch agree on a gradient",
}


def advise_distinct(group: Group, members: Sequence[Run]) -> Iterator[Advice]:
    """Yield the advice about the claim `distinct` of a group. members: those of its runs that carry a verdict."""
    claim, run = group.distinct_claim, members[0].id
    if claim is None:
        return
    untrained = phrase_of_untrained(group.distinct.untrained) if group.distinct is not None else ""
    if untrained and claim.reason != Reason.NOT_FINISHED:
        yield Advice("train_every_expert", f"{untrained} never received a gradient. {CHOOSE}", run=run)
    if claim.reason in TEXTS:
        yield Advice(claim.reason, TEXTS[claim.reason], run=run)
    elif claim.status in (SUPPORTED, REFUTED) and len(members) > 1:
        text = "this holds over these seeds. Try another text, model size and length before you generalise from it"
        yield Advice("generalise", text, run=run)
    elif claim.status in (SUPPORTED, REFUTED):
        text = f"this is the result of one run. Train {SEEDS} seeds of it, and judge them together"
        yield Advice("replicate", text, run=run)
    elif claim.reason in (Reason.TOO_FEW_SEEDS, Reason.TOO_FEW_EXPERTS, Reason.BOTH_SIDES_OF_MARGIN):
        yield Advice("more_seeds", _more_seeds(claim, len(members)), run=run)


def _more_seeds(claim: Claim, there: int) -> str:
    if there < SEEDS:
        few = "one run" if there == 1 else pluralize(there, "seed")
        return f"{few} cannot decide. Train {SEEDS} seeds, record the seed of each, and judge them together"
    if claim.seeds_needed:
        return f"about {claim.seeds_needed} seeds decide whether the experts are distinct; there are {there}"
    return "more seeds will hardly decide: the difference lies close to its threshold, or varies too much"
