"""Rules of the verdict: the decision table as code. Measurements in, a status and a reason out; no sentence.

Each claim takes the first line that applies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from validation.analysis.bins import BINS
from validation.analysis.effects import BOTTOM, DIRECTION
from validation.analysis.measurements import Effect, Measurements
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Decision, Reason

MOST_WITHOUT_VERDICT = 0.2  # of the runs of a group


def awakening(m: Measurements) -> Decision:
    """Decide if the bottom tier of perturbed experts gained more than the middle tier."""
    return _robust(m, lambda m: _barred(m) or _level(m, effects_of(m, "awakening")))


def divergence(m: Measurements) -> Decision:
    """Decide if the gradients of perturbed experts differ in size or direction."""
    return _robust(m, lambda m: _barred(m) or _divergence(m))


def sustainment(m: Measurements) -> Decision:
    """Decide if at least half of each effect of the beginning is left at the end."""
    return _robust(m, lambda m: _barred(m) or _sustainment(m))


DECIDE = {"awakening": awakening, "divergence": divergence, "sustainment": sustainment}


def effects_of(m: Measurements, claim: str) -> list[Effect]:
    """Return the effects that a claim is about."""
    if claim == "sustainment":
        return [*m.effects.values()]
    return [effect for name, effect in m.effects.items() if (name == BOTTOM) == (claim == "awakening")]


def found(effects: Sequence[Effect], alpha: float) -> list[bool]:
    """Return for each effect if it surely exceeds its margin, at an alpha shared by all of them."""
    return [effect.beyond(alpha / len(effects)) for effect in effects]


def _outside(effects: Sequence[Effect], alpha: float) -> bool:
    """Return whether an interval lies beyond its margin, whatever explains it."""
    return any(effect.outside(alpha / len(effects)) for effect in effects)


def _routing_differs(m: Measurements) -> bool:
    """Return whether one role gets more data, so that the router may explain, or hide, effects of merged gradients.

    A gradient over less data is noisier: its size, direction and tiers change by at most the log of the share. So an
    effect that is nothing but this cannot be surely beyond the margin unless the shares are.
    """
    return m.load is not None and m.load.outside(m.alpha)


def _barred(m: Measurements) -> Decision | None:
    """Return the decision that follows from the design or the data alone; None if there is none."""
    shams = [replace(effect, two_sided=True) for effect in m.sham_effects.values()]
    lines = (
        (m.without_verdict > MOST_WITHOUT_VERDICT * m.runs, INVALID, Reason.TOO_FEW_VALID_RUNS),
        (bool(m.copies), INVALID, Reason.NO_REPLICAS),
        (any(found(shams, m.alpha)), INVALID, Reason.SHAM_RUNS_SHOW_AN_EFFECT),
        (m.sham, INCONCLUSIVE, Reason.NOTHING_PERTURBED),
        (m.common_gradients > (m.runs - m.without_verdict) / 2, CONFOUNDED, Reason.ONE_COMMON_GRADIENT),
        (m.control is None, CONFOUNDED, Reason.NOTHING_TO_COMPARE),
        (not m.planned_rows, INCONCLUSIVE, Reason.TOO_FEW_PLANNED_ROWS),
        (not m.bins, INCONCLUSIVE, Reason.BEFORE_FIRST_LOOK),
        (m.units < m.units_needed, INCONCLUSIVE, Reason.TOO_FEW_EXPERTS if m.single else Reason.TOO_FEW_SEEDS),
    )
    return next((Decision(status, reason) for applies, status, reason in lines if applies), None)


def _divergence(m: Measurements) -> Decision:
    if m.shares_missing:
        return Decision(CONFOUNDED, Reason.SHARES_NOT_LOGGED)
    effects = effects_of(m, "divergence")
    if _outside(effects, m.alpha):
        return _level(m, effects)
    if DIRECTION not in m.effects:
        return Decision(CONFOUNDED, Reason.DIRECTION_NOT_MEASURED)
    if m.control_direction is not None and m.control_direction.beyond(m.alpha):
        return Decision(CONFOUNDED, Reason.DIRECTION_SATURATED)
    decision = _level(m, effects)
    if decision.status == REFUTED and m.noisy:
        return Decision(INCONCLUSIVE, Reason.NOISE_NOT_CORRECTED)
    return decision


def _level(m: Measurements, effects: Sequence[Effect]) -> Decision:
    """Decide by the intervals of some effects: one beyond its margin supports, all inside refute."""
    if any(found(effects, m.alpha)):
        return _unless_explained(m, Reason.ABOVE_MARGIN)
    if _outside(effects, m.alpha):
        return Decision(INCONCLUSIVE, Reason.ODD_EXPERT)
    if effects and all(effect.inside(m.alpha) for effect in effects):
        if _routing_differs(m):
            return Decision(CONFOUNDED, Reason.ROUTING_DIFFERS)
        return Decision(REFUTED, Reason.INSIDE_MARGIN)
    return Decision(INCONCLUSIVE, Reason.BOTH_SIDES_OF_MARGIN)


def _unless_explained(m: Measurements, reason: Reason) -> Decision:
    """Return that a claim is supported, unless the design leaves another explanation."""
    if m.means_only:
        return Decision(INCONCLUSIVE, Reason.MEANS_OVER_LAYERS)
    if _routing_differs(m) or m.shares_missing:
        return Decision(CONFOUNDED, Reason.ROUTING_DIFFERS)
    return Decision(SUPPORTED, reason)


def _sustainment(m: Measurements) -> Decision:
    if m.bins < BINS:
        return Decision(INCONCLUSIVE, Reason.NOT_FINISHED)
    lasting, begun = sustained_effects(m)
    if any(effect.kept(m.alpha / len(begun)).high < m.sustained_share for effect in begun):
        return Decision(REFUTED, Reason.COLLAPSES)
    if not lasting:
        return Decision(INCONCLUSIVE, Reason.NOTHING_TO_SUSTAIN)
    if all(effect.kept(m.alpha).low > m.sustained_share for effect in lasting):
        return _unless_explained(m, Reason.LASTS)
    return Decision(INCONCLUSIVE, Reason.SHARE_UNDECIDED)


def sustained_effects(m: Measurements) -> tuple[list[Effect], list[Effect]]:
    """Return the effects that surely exceed their margin over the run, and those that could be seen to fade.

    The latter exceed their margin over the run or early, and no noise makes them shrink as training converges.
    """
    lasting, begun = [], []
    for claim in ("awakening", "divergence"):
        effects = effects_of(m, claim)
        for effect in effects:
            each = m.alpha / len(effects)
            surely = effect.beyond(each)
            lasting += [effect] if surely else []
            clear = effect.name == BOTTOM or not m.noisy
            begun += [effect] if clear and (surely or effect.early(each)) else []
    return lasting, begun


def _robust(m: Measurements, decide: Callable[[Measurements], Decision]) -> Decision:
    """Decide; if runs carry no verdict, keep the status only if their least favourable results would not change it."""
    decision = decide(m)
    if not m.without_verdict or decision.status not in (SUPPORTED, REFUTED):
        return decision
    for effects in zip(
        *(effect.with_least_favourable(m.without_verdict) for effect in m.effects.values()), strict=True
    ):
        if decide(replace(m, effects=dict(zip(m.effects, effects, strict=True)))).status != decision.status:
            return Decision(INCONCLUSIVE, Reason.DEPENDS_ON_INVALID_RUNS)
    return decision
