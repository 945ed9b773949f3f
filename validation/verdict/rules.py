"""Rules of the verdict, version 2: the decision table as code. Measurements in, a status and a reason out; no sentence.

Each claim takes the first line that applies. Version 1, which is in force, is in controlled.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from validation.analysis.effects import BOTTOM, DIRECTION
from validation.analysis.measurements import Effect, Measurements
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED

MOST_WITHOUT_VERDICT = 0.2  # of the runs of a group


class Reason(StrEnum):
    """The line of the decision table that applied."""

    TOO_FEW_VALID_RUNS = "too_few_valid_runs"
    NO_REPLICAS = "no_replicas"
    SHAM_RUNS_SHOW_AN_EFFECT = "sham_runs_show_an_effect"
    ONE_COMMON_GRADIENT = "one_common_gradient"
    NOTHING_TO_COMPARE = "nothing_to_compare"
    TOO_FEW_SEEDS = "too_few_seeds"
    TOO_FEW_EXPERTS = "too_few_experts"
    ABOVE_MARGIN = "above_margin"
    DIRECTION_NOT_MEASURED = "direction_not_measured"
    DIRECTION_SATURATED = "direction_saturated"
    INSIDE_MARGIN = "inside_margin"
    BOTH_SIDES_OF_MARGIN = "both_sides_of_margin"
    DEPENDS_ON_INVALID_RUNS = "depends_on_invalid_runs"
    COLLAPSES = "collapses"
    LASTS = "lasts"
    NOTHING_TO_SUSTAIN = "nothing_to_sustain"
    SHARE_UNDECIDED = "share_undecided"


@dataclass(frozen=True)
class Decision:
    """The status of a claim, and the line of the table that gave it."""

    status: str
    reason: Reason


def awakening(m: Measurements) -> Decision:
    """Decide if the bottom tier of perturbed experts gained more than the middle tier."""
    return _robust(m, lambda m: _barred(m) or _level(m, [m.effects[BOTTOM]] if BOTTOM in m.effects else []))


def divergence(m: Measurements) -> Decision:
    """Decide if the gradients of perturbed experts differ in size or direction."""
    return _robust(m, lambda m: _barred(m) or _divergence(m))


def sustainment(m: Measurements) -> Decision:
    """Decide if at least half of each effect of the first third is left in the last."""
    return _robust(m, lambda m: _barred(m) or _sustainment(m))


def overall(decisions: Sequence[Decision]) -> str:
    """Return the overall status of the three claims."""
    statuses = {decision.status for decision in decisions}
    if INVALID in statuses or statuses == {SUPPORTED}:
        return INVALID if INVALID in statuses else SUPPORTED
    return next((status for status in (CONFOUNDED, REFUTED) if status in statuses), INCONCLUSIVE)


def _barred(m: Measurements) -> Decision | None:
    """Return the decision that follows from the design or the data alone, lines 1 to 6; None if there is none."""
    if m.without_verdict > MOST_WITHOUT_VERDICT * m.runs:
        return Decision(INVALID, Reason.TOO_FEW_VALID_RUNS)
    if not m.replicas:
        return Decision(INVALID, Reason.NO_REPLICAS)
    if any(_found(list(m.sham_effects.values()), m.alpha, both_sides=True)):
        return Decision(INVALID, Reason.SHAM_RUNS_SHOW_AN_EFFECT)
    if m.common_gradients > (m.runs - m.without_verdict) / 2:
        return Decision(CONFOUNDED, Reason.ONE_COMMON_GRADIENT)
    if not m.compared:
        return Decision(CONFOUNDED, Reason.NOTHING_TO_COMPARE)
    if m.units < m.units_needed:
        return Decision(INCONCLUSIVE, Reason.TOO_FEW_EXPERTS if m.single else Reason.TOO_FEW_SEEDS)
    return None


def _divergence(m: Measurements) -> Decision:
    effects = [effect for name, effect in m.effects.items() if name != BOTTOM]
    if any(_found(effects, m.alpha)):
        return Decision(SUPPORTED, Reason.ABOVE_MARGIN)
    if DIRECTION not in m.effects:
        return Decision(CONFOUNDED, Reason.DIRECTION_NOT_MEASURED)
    if m.control_direction is not None and m.control_direction.beyond(m.alpha):
        return Decision(CONFOUNDED, Reason.DIRECTION_SATURATED)
    return _level(m, effects)


def _level(m: Measurements, effects: Sequence[Effect]) -> Decision:
    """Decide by the intervals of some effects: one beyond its margin supports, all inside refute; lines 7, 9 and 10."""
    if any(_found(effects, m.alpha)):
        return Decision(SUPPORTED, Reason.ABOVE_MARGIN)
    if effects and all(effect.inside(m.alpha) for effect in effects):
        return Decision(REFUTED, Reason.INSIDE_MARGIN)
    return Decision(INCONCLUSIVE, Reason.BOTH_SIDES_OF_MARGIN)


def _found(effects: Sequence[Effect], alpha: float, *, both_sides: bool = False) -> list[bool]:
    """Return for each effect if it surely exceeds its margin, at an alpha shared by all of them."""
    tested = [replace(effect, two_sided=effect.two_sided or both_sides) for effect in effects]
    return [effect.beyond(alpha / len(tested)) for effect in tested]


def _sustainment(m: Measurements) -> Decision:
    effects = [effect for effect in m.effects.values() if len(effect.first_U)]
    each = m.alpha / max(1, len(effects))
    lasting = [effect for effect in effects if effect.beyond(each)]
    begun = [effect for effect in effects if effect in lasting or effect.early(each)]
    if any(effect.kept(m.alpha).high < m.sustained_share for effect in begun):
        return Decision(REFUTED, Reason.COLLAPSES)
    if lasting and all(effect.kept(m.alpha).low > m.sustained_share for effect in lasting):
        return Decision(SUPPORTED, Reason.LASTS)
    return Decision(INCONCLUSIVE, Reason.SHARE_UNDECIDED if lasting else Reason.NOTHING_TO_SUSTAIN)


def _robust(m: Measurements, decide: Callable[[Measurements], Decision]) -> Decision:
    """Decide; if runs carry no verdict, keep the status only if their least favourable results would not change it."""
    decision = decide(m)
    if not m.without_verdict or decision.status not in (SUPPORTED, REFUTED):
        return decision
    for side in (0, 1):
        effects = {name: effect.with_least_favourable(m.without_verdict)[side] for name, effect in m.effects.items()}
        if decide(replace(m, effects=effects)).status != decision.status:
            return Decision(INCONCLUSIVE, Reason.DEPENDS_ON_INVALID_RUNS)
    return decision
