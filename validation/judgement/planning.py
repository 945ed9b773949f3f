"""Planning: how many seeds decide an effect, by its size and its spread over seeds, before any of them is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prismatic.contract.power import POWER, SPREADS
from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError
from validation.analysis.effects import BOTTOM, DIRECTION, SIZE, TWO_SIDED
from validation.analysis.experiment import margin_of
from validation.analysis.intervals import seeds_that_decide, smallest_effect
from validation.judgement.judge import Judgement
from validation.verdict.claims import DISTINCT
from validation.verdict.words.wording import COSINE, PAIRS, RATIO, UNITS, shown

CLAIM_OF = {BOTTOM: "awakening", SIZE: "divergence", DIRECTION: "divergence", PAIRS: DISTINCT}
"""The claim that an effect decides, alone or beside another."""
FEWEST_RUNS = 3  # of which a spread over seeds is known well enough to plan by


@dataclass(frozen=True)
class SpreadPlan:
    """The seeds for one spread of the effect of a run over seeds."""

    spread: float
    """Standard deviation over seeds; of a factor that of its log."""
    seeds: int | None
    """Seeds that decide the effect with probability `power`; None for more than a thousand."""
    smallest_effect: float
    """The smallest effect that `with_seeds` seeds support with this probability, in the unit of the effect."""


@dataclass(frozen=True)
class SeedPlan:
    """The number of seeds that decide a true effect."""

    effect: str
    claim: str
    true_effect: float
    unit: str
    margin: float
    decides: str
    """supported if the effect lies beyond its margin; else refuted, which every effect of the claim must then be."""
    alpha: float
    """Of this effect: the registered one over the number of effects that can support the claim."""
    power: float
    with_seeds: int
    spreads: tuple[SpreadPlan, ...]


def plan_seeds(
    effect: str, true_effect: float, *, spreads: Sequence[float] = SPREADS, seeds: int = 6, thresholds: Thresholds
) -> SeedPlan:
    """Return how many seeds decide an effect of this size.

    effect: bottom, size (factors), direction or pairs (1 - cosine). seeds: for which the smallest effect is told.
    Raises ConfigError for a true effect that cannot be one.
    """
    factor = effect in (BOTTOM, SIZE)
    if not math.isfinite(true_effect) or (factor and true_effect <= 0):
        raise ConfigError(
            f"true_effect = {true_effect!r} is no {effect}; expected a factor above 0, or a finite 1 - cosine."
        )
    level = math.log(true_effect) if factor else true_effect
    mid = abs(level) if effect in TWO_SIDED else level
    margin = margin_of(DIRECTION if effect == PAIRS else effect, thresholds)
    parts = sum(claim == CLAIM_OF[effect] for claim in CLAIM_OF.values())
    support = thresholds.alpha / parts
    alpha, fewest = support if mid > margin else thresholds.alpha, int(thresholds.min_seeds)
    found = [
        SpreadPlan(
            spread,
            seeds_that_decide(max(mid, 0.0), spread, margin, alpha=alpha, at_least=fewest),
            shown(effect, smallest_effect(spread, margin, alpha=support, seeds=seeds)),
        )
        for spread in spreads
    ]
    unit = COSINE if effect == PAIRS else UNITS.get(effect, RATIO)
    decides = "supported" if mid > margin else "refuted"
    limit = shown(effect, margin)
    return SeedPlan(effect, CLAIM_OF[effect], true_effect, unit, limit, decides, alpha, POWER, seeds, tuple(found))


def spread_of(judgement: Judgement, effect: str) -> float | None:
    """Return the standard deviation of an effect over the seeds of judged runs, pooled over their experiments.

    Sham runs of the same seeds are subtracted where the verdict does. None for too few runs.
    """
    variances, freedom = 0.0, 0
    for group in judgement.verdict.deciding:
        values = [parts[effect] for parts in group.values.get(CLAIM_OF[effect], {}).values() if effect in parts]
        if len(values) >= FEWEST_RUNS:
            variances += float(np.var(values, ddof=1)) * (len(values) - 1)
            freedom += len(values) - 1
    return math.sqrt(variances / freedom) if freedom else None
