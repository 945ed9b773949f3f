"""The claim `distinct` of one experiment: do its experts differ from each other on the same batch, whatever they are?

It is the one claim about peers, and stands beside the three claims about perturbed experts. It rests on the pairs of
experts that the isolated probe compared.
Axis letters: U units (seeds, or experts of one run).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prismatic.contract.thresholds import Thresholds
from validation.analysis.bins import BINS
from validation.analysis.cohort import Cohort, MeasuredRun
from validation.analysis.copies import no_replicas
from validation.analysis.distinct import Distinct, distinct
from validation.analysis.experiment import source_of
from validation.analysis.intervals import Interval, p_beyond, seeds_that_decide
from validation.analysis.statistics import finite
from validation.analysis.trained import Untrained, phrase_of_untrained
from validation.verdict.claims import (
    CLAIMS,
    CONFOUNDED,
    DISTINCT,
    EXPERT,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SEED,
    SUPPORTED,
    Claim,
    Component,
    Decision,
    Reason,
)
from validation.verdict.experiment_claims import SEEDS_WITH_SPREAD, UNDECIDED
from validation.verdict.rules import MOST_WITHOUT_VERDICT
from validation.verdict.words.distinctness import headline_of_distinct, no_perturbation, sentence_of_distinct
from validation.verdict.words.wording import COSINE, PAIRS


@dataclass(frozen=True, eq=False)
class ComparedExperts:
    """Runs that differ only in the seed, or one run, as the claim needs them."""

    found: Distinct | None
    """The differences between the experts; None unless every run compared pairs of the same experts."""
    runs: int
    without_verdict: int
    """Runs whose data carries no verdict."""
    valid: tuple[str, ...]
    """Ids of the others."""
    probed: bool
    """True if every run measured each expert alone and compared them."""
    copies: str = ""
    """The reason why runs are no replicas of each other; empty if they are."""
    planned_rows: bool = True
    """False if a run plans fewer rows of the probe than bins."""
    bins: int = BINS
    """Bins of time that are complete in every run."""

    @property
    def single(self) -> bool:
        """True if the units are the experts of one run."""
        return self.runs == 1

    @property
    def untrained(self) -> tuple[Untrained, ...]:
        """Of each run, the experts that never received a gradient and are left out."""
        return () if self.found is None else self.found.untrained


def compare_experts(runs: Sequence[MeasuredRun], cohort: Cohort, thresholds: Thresholds) -> ComparedExperts:
    """Return the differences between the experts of a group. Runs without a verdict are left out and counted."""
    valid = [each for each in runs if cohort.carries_verdict(each)]
    pairs = [each.pairs for each in valid if each.pairs is not None]
    probed = bool(valid) and len(pairs) == len(valid)
    found = distinct(
        pairs if probed else (),
        margin=thresholds.divergence_direction,
        alpha=thresholds.alpha,
        min_seeds=int(thresholds.min_seeds),
        min_experts=int(thresholds.min_experts),
    )
    bins = [levels.bins for levels in pairs] or [each.isolated.bins for each in valid if each.isolated is not None]
    levels = [own for each in valid if (own := each.levels(source_of(valid))) is not None]
    return ComparedExperts(
        found,
        runs=len(runs),
        without_verdict=len(runs) - len(valid),
        valid=tuple(each.run.id for each in valid),
        probed=probed,
        copies=no_replicas(valid, levels) if len(levels) == len(valid) else "",
        planned_rows=all(each.enough_planned for each in bins),
        bins=min((each.complete for each in bins), default=BINS),
    )


def decide_distinct(c: ComparedExperts) -> Decision:
    """Decide if the experts differ from each other: the first line that applies."""
    decision = _first_line(c)
    if not c.without_verdict or decision.status not in (SUPPORTED, REFUTED) or c.found is None:
        return decision
    worst = [_first_line(replace(c, found=found)) for found in c.found.with_least_favourable(c.without_verdict)]
    if any(other.status != decision.status for other in worst):
        return Decision(INCONCLUSIVE, Reason.DEPENDS_ON_INVALID_RUNS)
    return decision


def _first_line(c: ComparedExperts) -> Decision:
    if c.without_verdict > MOST_WITHOUT_VERDICT * c.runs:
        return Decision(INVALID, Reason.TOO_FEW_VALID_RUNS)
    if c.copies:
        return Decision(INVALID, Reason.NO_REPLICAS)
    if c.found is None:
        return Decision(CONFOUNDED, Reason.PAIRS_NOT_COMPARED)
    few = Reason.TOO_FEW_EXPERTS if c.single else Reason.TOO_FEW_SEEDS
    lines = (
        (not c.planned_rows, INCONCLUSIVE, Reason.TOO_FEW_PLANNED_ROWS),
        (c.bins < BINS, INCONCLUSIVE, Reason.NOT_FINISHED),
        (not c.found.measured, CONFOUNDED, Reason.DIRECTION_NOT_MEASURED),
        (not c.found.enough, INCONCLUSIVE, few),
        (c.found.supported, SUPPORTED, Reason.ABOVE_MARGIN),
        (c.found.refuted, REFUTED, Reason.INSIDE_MARGIN),
    )
    found = (Decision(status, reason) for applies, status, reason in lines if applies)
    return next(found, Decision(INCONCLUSIVE, Reason.BOTH_SIDES_OF_MARGIN))


def distinct_claim(runs: Sequence[MeasuredRun], c: ComparedExperts, invalid: Mapping[str, str]) -> Claim:
    """Return the claim about a group of runs. invalid: see `decide`."""
    decision = decide_distinct(c)
    why = next((invalid[each.run.id] for each in runs if each.run.id in invalid), "the run has no rows")
    known = c.found if c.found is not None and c.found.measured else None
    interval = None if known is None else _shown(c, known)
    claim = Claim(
        DISTINCT,
        decision.status,
        sentence_of_distinct(decision, c, interval, why),
        decision.reason,
        headline_of_distinct(decision, single=c.single, invalid=why, untrained=phrase_of_untrained(c.untrained)),
        run=runs[0].run.id if len(runs) == 1 else None,
        units=0 if c.found is None else c.found.interval.units,
        replicate=EXPERT if c.single else SEED,
        source="isolated" if c.probed else "merged",
        bins=c.bins,
    )
    if known is None or interval is None:
        return claim
    part = Component(PAIRS, finite(interval.mid), _end(interval.low), _end(interval.high), COSINE, known.margin)
    needed = seeds_for_distinct(known) if decision.reason in UNDECIDED and not c.single else None
    return replace(claim.led_by(part), components=(part,), seeds_needed=needed)


def _shown(c: ComparedExperts, found: Distinct) -> Interval:
    """Return the interval; without ends for so few seeds that their spread is hardly known."""
    if c.single or found.interval.units >= SEEDS_WITH_SPREAD:
        return found.interval
    return replace(found.interval, low=-math.inf, high=math.inf)


def _end(value: float) -> float | None:
    return finite(value) if math.isfinite(value) else None


def seeds_for_distinct(found: Distinct) -> int | None:
    """Return the seeds that would decide the claim; None if unknown or too many."""
    if len(found.x_U) < SEEDS_WITH_SPREAD:
        return None
    sd = float(found.x_U.std(ddof=1))
    return seeds_that_decide(found.interval.mid, sd, found.margin, alpha=found.alpha, at_least=found.units_needed)


def distinct_values(c: ComparedExperts) -> dict[str, dict[str, float]]:
    """Return by run the mean direction between its experts; empty where it is not measured."""
    if c.found is None or not c.found.measured:
        return {}
    values = [c.found.interval.mid] if c.single else c.found.x_U.tolist()
    return {run: {PAIRS: value} for run, value in zip(c.valid, values, strict=True) if math.isfinite(value)}


def p_of_distinct(c: ComparedExperts) -> float:
    """Return the smallest alpha at which the claim over seeds is supported; 1 for a single run."""
    if c.single or c.found is None or not c.found.measured:
        return 1.0
    return p_beyond(c.found.x_U, c.found.margin, two_sided=False)


def claims_of_peers(runs: Sequence[MeasuredRun]) -> tuple[Claim, ...]:
    """Return the three claims about a perturbation for runs of peers, which have none."""
    run = runs[0].run.id if len(runs) == 1 else None
    because, headline = no_perturbation()
    return tuple(Claim(name, INCONCLUSIVE, because, Reason.NO_PERTURBATION, headline, run=run) for name in CLAIMS)
