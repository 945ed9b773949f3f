"""The lines that a sweep prints before training: its runs by role, and how many seeds decide what.

docs/sweeps.md explains the numbers. They are for a comparison with Student's t interval over seeds at alpha 0.05 and a
margin of 1.10x.
"""

from __future__ import annotations

import math
from collections import Counter

from scipy import special

from prismatic.contract.power import POWER, SEEDS_FOR_POWER, SPREADS
from prismatic.contract.study import as_ranges
from prismatic.contract.thresholds import Thresholds
from prismatic.sweep.plan import FEWEST_SEEDS, Sweep
from prismatic.train.experiment import TREATED

ENOUGH_CONTROLS = int(Thresholds().min_experts)
"""The standard deviation of an effect over seeds is then 0.82 of that with one control expert."""


def design_lines(sweep: Sweep) -> list[str]:
    """Return the lines about a sweep: its runs by role and its seeds; for treated runs, also what these can decide."""
    roles, seeds = Counter(job.config.role for job in sweep.jobs), sweep.study.seeds
    lines = [f"{', '.join(_pluralize(count, role) for role, count in roles.items())}; seeds {as_ranges(seeds)}"]
    if TREATED not in roles:
        return lines
    needed = "; ".join(f"{effect}x: {' / '.join(map(str, row))}" for effect, row in SEEDS_FOR_POWER.items())
    spreads = " / ".join(f"{spread:.2f}" for spread in SPREADS)
    lines += [
        f"seeds that support an effect with 80 % power, if it varies by {spreads} (log sd) over seeds: {needed}",
        "to refute divergence takes many more: about 22 to 48 seeds with sham runs, more than 100 without",
    ]
    if len(seeds) < FEWEST_SEEDS:
        count = _pluralize(len(seeds), "seed")
        lines.append(f"{count}: fewer than six decide nothing over seeds; --grid seed=0..5 trains six")
    controls = min(job.facts.get("control_experts", ENOUGH_CONTROLS) for job in sweep.jobs)
    if controls < ENOUGH_CONTROLS:
        lines.append(f"fewer than three control experts ({controls}): effects vary more; --set control_experts=3")
    return lines


def smallest_effects(sweep: Sweep) -> list[str]:
    """Return lines about the smallest effects that the seeds of a study show with 80 % power.

    By the shifted t approximation: t(1 - alpha / 2) + t(0.8) standard errors above the margin; for the two parts of
    divergence at half of alpha.
    """
    thresholds = Thresholds().changed(sweep.jobs[0].config.thresholds)
    seeds = len(sweep.study.seeds)
    if seeds < thresholds.min_seeds:
        return [f"{_pluralize(seeds, 'seed')} decide nothing: at least {thresholds.min_seeds:g} are needed"]
    bottom, both = (_half_width(seeds, alpha) for alpha in (thresholds.alpha, thresholds.alpha / 2))
    ratio, margin = thresholds.divergence_ratio, thresholds.divergence_direction
    found = {
        "bottom tier": [f"{thresholds.awakening_ratio * math.exp(bottom * spread):.2f}x" for spread in SPREADS],
        "size": [f"{ratio * math.exp(both * spread):.2f}x" for spread in SPREADS],
        "direction": [f"{margin + both * spread:.2f}" for spread in SPREADS],
        "difference between two experiments": [f"{bottom * spread:.2f}" for spread in SPREADS],
    }
    spreads = " / ".join(f"{spread:.2f}" for spread in SPREADS)
    first = f"smallest effect that {seeds} seeds show with 80 % power, if it varies by {spreads} over seeds:"
    return [first, *(f"  {name}: {' / '.join(values)}" for name, values in found.items())]


def _half_width(seeds: int, alpha: float) -> float:
    """Return the distance from the margin that is found with 80 % power, in standard deviations over seeds."""
    quantiles = special.stdtrit(seeds - 1, [1 - alpha / 2, POWER])
    return float(sum(quantiles)) / math.sqrt(seeds)


def _pluralize(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "s")
