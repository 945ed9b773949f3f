"""The claims of one experiment: its measurements, decided by the rules, as claims with numbers and words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from validation.analysis.intervals import Interval, seeds_that_decide
from validation.analysis.measurements import Effect, Measurements
from validation.analysis.run import Run
from validation.analysis.statistics import finite
from validation.verdict.claims import CLAIMS, EXPERT, REFUTED, SEED, Claim, Component, Decision, Reason
from validation.verdict.rules import DECIDE, effects_of, sustained_effects
from validation.verdict.words.reasons import headline, sentence
from validation.verdict.words.wording import KEPT, RATIO, UNITS, shown

OF_SHARES = (Reason.COLLAPSES, Reason.LASTS, Reason.SHARE_UNDECIDED)
STAYS_OPEN = Reason.BOTH_SIDES_OF_MARGIN
UNDECIDED = (STAYS_OPEN, Reason.TOO_FEW_SEEDS)
SEEDS_WITH_SPREAD = 3  # from which the spread between seeds is known well enough to show an interval and plan more


def claims_of(m: Measurements, runs: Sequence[Run], invalid: Mapping[str, str]) -> tuple[Claim, ...]:
    """Return the three claims of an experiment of these runs. invalid: see `decide`."""
    why = next((invalid[run.id] for run in runs if run.id in invalid), "a clean or a perturbed expert is missing")
    return tuple(_claim(name, DECIDE[name](m), m, runs, why) for name in CLAIMS)


def _claim(name: str, decision: Decision, m: Measurements, runs: Sequence[Run], invalid: str) -> Claim:
    effects = _shown_effects(name, decision, m)
    # What stays open is an effect that is not ruled out, even if another lies farther out.
    candidates = [pair for pair in effects if decision.reason != STAYS_OPEN or not pair[0].inside(m.alpha)]
    deciding = max(candidates, key=lambda pair: _prominence(name, decision, *pair), default=None)
    claim = Claim(
        name,
        decision.status,
        sentence(name, decision, m, deciding, runs[0], invalid),
        decision.reason,
        headline(name, decision, m, invalid),
        run=runs[0].id if len(runs) == 1 else None,
        units=m.units,
        replicate=EXPERT if m.single else SEED,
        source=m.source,
        control=m.control,
        twins=m.twins,
        components=tuple(_component(name, m, *pair) for pair in effects),
        bins=m.bins,
    )
    if deciding is None:
        return claim
    part = _component(name, m, *deciding)
    return replace(claim.led_by(part), seeds_needed=seeds_needed(name, m) if decision.reason in UNDECIDED else None)


def _shown_effects(name: str, decision: Decision, m: Measurements) -> list[tuple[Effect, Interval]]:
    """Return the effects of a claim with the intervals that decide it: at a shared alpha, at the whole to refute."""
    if name != "sustainment":
        effects = effects_of(m, name)
        alpha = m.alpha if decision.status == REFUTED else m.alpha / max(1, len(effects))
        intervals = [effect.interval(alpha) for effect in effects]
        if not m.single and m.units < SEEDS_WITH_SPREAD:
            intervals = [replace(each, low=-math.inf, high=math.inf) for each in intervals]
        return [*zip(effects, intervals, strict=True)]
    lasting, begun = sustained_effects(m) if decision.reason in OF_SHARES else ([], [])
    if decision.reason == Reason.COLLAPSES:
        return [(effect, effect.kept(m.alpha / len(begun))) for effect in begun]
    return [(effect, effect.kept(m.alpha)) for effect in lasting]


def _prominence(name: str, decision: Decision, effect: Effect, interval: Interval) -> tuple[float, float]:
    """Return how far out an effect lies, in margins: by the near end of its interval, then by its estimate.

    Of the shares of sustainment, the one that decides is the smallest.
    """
    if name == "sustainment":
        return -interval.high if decision.reason == Reason.COLLAPSES else -interval.low, -interval.mid
    near = max(interval.low, -interval.high) if effect.two_sided else interval.low
    return near / effect.margin, (abs(interval.mid) if effect.two_sided else interval.mid) / effect.margin


def _component(name: str, m: Measurements, effect: Effect, interval: Interval) -> Component:
    """Return an effect in the unit in which people read it. A missing end is unbounded."""
    low, high = interval.low, interval.high
    if name == "sustainment":
        return Component(effect.name, finite(interval.mid), finite(low), finite(high), KEPT, m.sustained_share)
    below = effect.two_sided and interval.mid < 0
    return Component(
        effect.name,
        finite(shown(effect.name, interval.mid)),
        finite(shown(effect.name, low)) if math.isfinite(low) else None,
        finite(shown(effect.name, high)) if math.isfinite(high) else None,
        UNITS.get(effect.name, RATIO),
        shown(effect.name, -effect.margin if below else effect.margin),
    )


def seeds_needed(name: str, m: Measurements) -> int | None:
    """Return the seeds that would decide a claim: one effect beyond its margin, or all inside; None if too many."""
    if m.single or m.units < SEEDS_WITH_SPREAD:
        return None
    if name == "sustainment":
        return _seeds_to_last(m)
    effects = effects_of(m, name)
    beyond: list[float] = []
    inside: list[float] = []
    for effect in effects:
        x_S = effect.x_U3[:, 0]
        mid, sd = float(abs(x_S.mean()) if effect.two_sided else x_S.mean()), float(x_S.std(ddof=1))
        above = mid > effect.margin
        alpha = m.alpha / len(effects) if above else m.alpha
        seeds = seeds_that_decide(max(mid, 0.0), sd, effect.margin, alpha=alpha, at_least=m.units_needed)
        (beyond if above else inside).append(math.inf if seeds is None else seeds)
    needed = min(beyond) if beyond else max(inside, default=math.inf)
    return int(needed) if math.isfinite(needed) else None


def _seeds_to_last(m: Measurements) -> int | None:
    """Return the seeds that would decide if the effects last: the share that is left is beyond one end or the other.

    Fieller's interval lies above a share if the mean of end - share * beginning does.
    """
    needed: list[float] = []
    for effect in sustained_effects(m)[0]:
        x_S = np.sign(effect.x_U3[:, 1].mean()) * (effect.x_U3[:, 2] - m.sustained_share * effect.x_U3[:, 1])
        seeds = seeds_that_decide(
            float(x_S.mean()), float(x_S.std(ddof=1)), 0.0, alpha=m.alpha, at_least=m.units_needed
        )
        needed.append(math.inf if seeds is None else seeds)
    most = max(needed, default=math.inf)
    return int(most) if math.isfinite(most) else None


def values_of(m: Measurements) -> dict[str, dict[str, dict[str, float]]]:
    """Return by claim and run the effects that an interval over seeds is made of."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in CLAIMS[:2]:
        of_runs: dict[str, dict[str, float]] = {run: {} for run in m.valid}
        for effect in effects_of(m, name):
            values = [effect.interval(m.alpha).mid] if m.single else effect.x_U3[:, 0].tolist()
            for run, value in zip(m.valid, values, strict=True):
                if math.isfinite(value):
                    of_runs[run][effect.name] = value
        found[name] = {run: values for run, values in of_runs.items() if values}
    return found


def p_of(m: Measurements) -> dict[str, float]:
    """Return by claim the smallest alpha at which one of its effects over seeds is surely beyond its margin."""
    effects = {name: effects_of(m, name) for name in CLAIMS[:2]}
    return {name: min([1.0, *(e.p() * len(some) for e in some)]) for name, some in effects.items()}
