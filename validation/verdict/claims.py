"""Claims, their statuses (supported, refuted, inconclusive, confounded, invalid) and the reasons for these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
CONFOUNDED, INVALID = "confounded", "invalid"
CLAIMS = ("awakening", "divergence", "sustainment")
"""The claims about a perturbation."""
DISTINCT = "distinct"
"""The claim about experts of any kind: they differ from each other."""
SEED, EXPERT = "seed", "expert"


class Reason(StrEnum):
    """The line of the decision table that applied; docs/verdict.md lists them in the same order."""

    TOO_FEW_VALID_RUNS = "too_few_valid_runs"
    NO_REPLICAS = "no_replicas"
    SHAM_RUNS_SHOW_AN_EFFECT = "sham_runs_show_an_effect"
    NOTHING_PERTURBED = "nothing_perturbed"
    ONE_COMMON_GRADIENT = "one_common_gradient"
    NOTHING_TO_COMPARE = "nothing_to_compare"
    TOO_FEW_PLANNED_ROWS = "too_few_planned_rows"
    BEFORE_FIRST_LOOK = "before_first_look"
    TOO_FEW_SEEDS = "too_few_seeds"
    TOO_FEW_EXPERTS = "too_few_experts"
    SHARES_NOT_LOGGED = "shares_not_logged"
    MEANS_OVER_LAYERS = "means_over_layers"
    ROUTING_DIFFERS = "routing_differs"
    ABOVE_MARGIN = "above_margin"
    ODD_EXPERT = "odd_expert"
    DIRECTION_NOT_MEASURED = "direction_not_measured"
    DIRECTION_SATURATED = "direction_saturated"
    NOISE_NOT_CORRECTED = "noise_not_corrected"
    INSIDE_MARGIN = "inside_margin"
    BOTH_SIDES_OF_MARGIN = "both_sides_of_margin"
    DEPENDS_ON_INVALID_RUNS = "depends_on_invalid_runs"
    NOT_FINISHED = "not_finished"
    COLLAPSES = "collapses"
    NOTHING_TO_SUSTAIN = "nothing_to_sustain"
    LASTS = "lasts"
    SHARE_UNDECIDED = "share_undecided"
    PAIRS_NOT_COMPARED = "pairs_not_compared"
    NO_PERTURBATION = "no_perturbation"
    SAME_IN_EVERY_GROUP = "same_in_every_group"
    GROUPS_DIFFER = "groups_differ"
    AS_WRITTEN = "as_written"


@dataclass(frozen=True)
class Decision:
    """The status of a claim, and the line of the table that gave it."""

    status: str
    reason: Reason


@dataclass(frozen=True)
class Component:
    """An effect of a claim with its interval, in the unit of the claim."""

    name: str
    estimate: float | None
    low: float | None
    high: float | None
    unit: str
    threshold: float


@dataclass(frozen=True)
class Claim:
    """The status, reason and numbers of one claim, about one run or over the seeds of several (run None)."""

    name: str
    status: str
    because: str
    """The reason as a sentence with the numbers that decide."""
    reason: Reason = Reason.AS_WRITTEN
    headline: str = ""
    """The reason in at most 14 words."""
    expert: int | None = None
    """The expert, for claims as written; None for a whole run."""
    run: str | None = None
    effect: str | None = None
    """The component that decides, or lies farthest out; the next numbers are its own."""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = "ratio"
    threshold: float | None = None
    units: int | None = None
    """Seeds, or experts of the rarer role in one run; None for claims as written, or over several experiments."""
    replicate: str | None = None
    """The unit that the numbers are over: seed, or expert of one run."""
    source: str = "merged"
    """Source of the gradients: merged, or isolated where the probe measured them."""
    control: str | None = None
    """The control of the perturbed experts: control_expert, frozen_routing, sham_run; None without any."""
    twins: bool = False
    """True if the sham run of the same seed is subtracted from every run."""
    components: tuple[Component, ...] = ()
    seeds_needed: int | None = None
    """Seeds that would decide an undecided claim with probability 0.8; None if more than a thousand, or unknown."""
    bins: int | None = None
    """Bins of time that are judged; fewer than six at an interim look."""

    def led_by(self, part: Component) -> Claim:
        """Return the claim with the numbers of one of its components."""
        return replace(
            self,
            effect=part.name,
            estimate=part.estimate,
            low=part.low,
            high=part.high,
            unit=part.unit,
            threshold=part.threshold,
        )


def overall(statuses: Sequence[str]) -> str:
    """Return the status of some claims together, such as the three."""
    if INVALID in statuses or not statuses:
        return INVALID
    if all(status == SUPPORTED for status in statuses):
        return SUPPORTED
    return next((status for status in (CONFOUNDED, REFUTED) if status in statuses), INCONCLUSIVE)


def combine_statuses(statuses: Sequence[str]) -> str:
    """Return one status for several experiments: supported only if all are; an invalid one leaves it undecided."""
    if not statuses or all(status == INVALID for status in statuses):
        return INVALID
    return overall([INCONCLUSIVE if status == INVALID else status for status in statuses])
