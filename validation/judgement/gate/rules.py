"""Rules of the gate as a table: the first line that applies to an experiment says keep, discard, or more seeds.

docs/agents.md has the same table in words. Only the last line keeps a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from prismatic.contract.study import as_ranges
from validation.judgement.gate.aa_pair import CLEAR, FAILS, SEED_HALVES
from validation.judgement.gate.experiment import Experiment
from validation.text import pluralize, printable
from validation.verdict.claims import CLAIMS, CONFOUNDED, DISTINCT, INCONCLUSIVE, INVALID, REFUTED, Reason
from validation.verdict.groups import POSITIVE, SHAM
from validation.verdict.registration import threshold_objections

KEEP, DISCARD, MORE_SEEDS = "keep", "discard", "more_seeds"
ANSWERS = (DISCARD, MORE_SEEDS, KEEP)
"""The first of these that some experiment has is the answer for all."""
WAITING = (Reason.BEFORE_FIRST_LOOK, Reason.NOT_FINISHED)
MORE_SEEDS_HELP = (
    Reason.TOO_FEW_SEEDS,
    Reason.TOO_FEW_EXPERTS,
    Reason.BOTH_SIDES_OF_MARGIN,
    Reason.SHARE_UNDECIDED,
    Reason.NOTHING_TO_SUSTAIN,
    Reason.DEPENDS_ON_INVALID_RUNS,
)
NAMED = 5  # objections in a sentence


@dataclass(frozen=True)
class Ruling:
    """The answer about one experiment."""

    answer: str
    because: str
    more_seeds: int = 0
    """Runs to train, each with another seed."""
    more_sham_seeds: int = 0
    """Sham runs to train, each with another seed."""
    reason: str = ""
    """The name of the line that applied."""


def rule(e: Experiment) -> Ruling:
    """Return the answer of the first line that applies."""
    found = ((name, line(e)) for name, line in LINES.items())
    return next(replace(ruling, reason=name) for name, ruling in found if ruling is not None)


def _aa_fails(e: Experiment) -> Ruling | None:
    because = f"the A/A pair fails, so nothing that these runs show is kept: {e.aa.because}"
    return Ruling(DISCARD, because) if e.aa.result == FAILS else None


def _invalid(e: Experiment) -> Ruling | None:
    return Ruling(DISCARD, e.claim.because) if e.claim.status == INVALID else None


def _thresholds(e: Experiment) -> Ruling | None:
    found = threshold_objections(e.judgement.verdict.thresholds, e.judgement.registrations)
    return Ruling(DISCARD, _listed("the thresholds are not accepted", found)) if found else None


def _no_result(e: Experiment) -> Ruling | None:
    if e.group.role == POSITIVE:
        return Ruling(DISCARD, "the effect was put in by hand, which tests the method and is no result")
    if e.group.role == SHAM and e.claim.name != DISTINCT:
        return Ruling(DISCARD, "nothing was perturbed in these runs")
    return None


def _design(e: Experiment) -> Ruling | None:
    undecidable = e.claim.status == INCONCLUSIVE and e.claim.reason not in (*MORE_SEEDS_HELP, *WAITING)
    if e.claim.status != CONFOUNDED and not undecidable:
        return None
    return Ruling(DISCARD, f"{e.claim.because}; more seeds of this design cannot show it")


def _seeds_missing(e: Experiment) -> Ruling | None:
    """Wait for the planned end: whoever looks earlier, and stops at the first yes, finds an effect too often."""
    planned, missing = e.plans.seeds, e.plans.missing
    if not missing:
        return None
    because = f"{len(planned) - len(missing)} of {pluralize(len(planned), 'planned seed')} are finished; "
    because += f"missing: {printable(as_ranges(missing).replace(',', ', '))}. The claim is judged when all are there"
    return Ruling(MORE_SEEDS, because, len(missing))


def _refuted(e: Experiment) -> Ruling | None:
    return Ruling(DISCARD, e.claim.because) if e.claim.status == REFUTED else None


def _not_registered(e: Experiment) -> Ruling | None:
    """Ask for a registered study of other seeds: these may have been chosen from many that were trained."""
    if not e.plans.unregistered:
        return None
    fewest = int(e.thresholds.min_seeds)
    seeds = max(fewest, len(e.members), e.claim.seeds_needed or 0)
    because = (
        f"{pluralize(len(e.plans.unregistered), 'run')} registered no plan of at least {fewest} seeds before the first "
        f"step, so the seeds may have been chosen for their results. A registered study of {seeds} other seeds decides"
    )
    return Ruling(MORE_SEEDS, because, seeds)


def _undecided(e: Experiment) -> Ruling | None:
    """Say how many more seeds would decide, or that no number in reach would."""
    if e.claim.status != INCONCLUSIVE:
        return None
    more = _more_seeds(e)
    if more is None:
        return Ruling(DISCARD, f"{e.claim.because}; not even a thousand seeds would decide")
    return Ruling(MORE_SEEDS, e.claim.because, more)


def _more_seeds(e: Experiment) -> int | None:
    """Return the further seeds that would decide with a probability of 0.8; None if too many."""
    seeds, fewest, needed = len(e.members), int(e.thresholds.min_seeds), e.seeds_needed(e.claim.name)
    if e.claim.reason in (Reason.TOO_FEW_SEEDS, Reason.TOO_FEW_EXPERTS):
        needed = max(needed or 0, fewest)
    elif e.claim.reason == Reason.DEPENDS_ON_INVALID_RUNS:
        needed = 2 * seeds - (e.claim.units or 0)  # as many as are invalid
    elif e.claim.reason == Reason.NOTHING_TO_SUSTAIN:
        others = [claim.name for claim in e.group.claims if claim.name in CLAIMS[:2] and claim.status == INCONCLUSIVE]
        needed = min(filter(None, map(e.seeds_needed, others)), default=None)
    return None if needed is None else max(1, needed - seeds)


def _aa_needed(e: Experiment) -> Ruling | None:
    if e.aa.result == CLEAR:
        return None
    more = max(1, int(e.thresholds.min_seeds) - e.aa.seeds)
    runs, shams = (more, 0) if e.aa.kind == SEED_HALVES else (0, more)
    return Ruling(MORE_SEEDS, f"an A/A pair is required: {e.aa.because}", runs, shams)


def _warnings(e: Experiment) -> Ruling | None:
    return Ruling(DISCARD, _listed("the data has warnings", e.warnings)) if e.warnings else None


def _supported(e: Experiment) -> Ruling:
    return Ruling(KEEP, e.claim.because)


LINES: Mapping[str, Callable[[Experiment], Ruling | None]] = {
    "aa_fails": _aa_fails,
    "invalid": _invalid,
    "thresholds": _thresholds,
    "no_result": _no_result,
    "design": _design,
    "seeds_missing": _seeds_missing,
    "refuted": _refuted,
    "not_registered": _not_registered,
    "undecided": _undecided,
    "aa_needed": _aa_needed,
    "warnings": _warnings,
    "supported": _supported,
}
"""The lines by the name of their reason, in their order."""
REASONS = (*LINES,)


def _listed(what: str, found: Sequence[str]) -> str:
    more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{what}: {', '.join(found[:NAMED])}{more}"
