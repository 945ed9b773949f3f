"""The dose-response: does the effect of awakening or divergence rise with perturbation_scale, over several seeds?

Axis letters: S seeds, D doses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import SCALE, Cohort, MeasuredRun
from validation.analysis.effects import BOTTOM, DIRECTION, TIER_SIZES, effect_K
from validation.analysis.statistics import Array, dose_response, finite
from validation.text import pluralize
from validation.verdict.groups import POSITIVE, Group

EFFECTS = {"awakening": (BOTTOM,), "divergence": (DIRECTION, *TIER_SIZES)}
"""The effects whose trend a claim asks for: the first that is measured, or the mean of the sizes of the tiers."""


@dataclass(frozen=True)
class Dose:
    """The trend of one claim's effect with perturbation_scale, over the seeds that have every scale."""

    claim: str
    scales: tuple[float, ...]
    seeds: tuple[int, ...]
    p: float
    slope: float
    low: float | None
    high: float | None
    unit: str
    because: str
    options: Mapping[str, str] = field(default_factory=dict)
    """The options, other than the scale, in which these groups differ from the other groups."""
    values: tuple[tuple[float, ...], ...] = ()
    """The effect by seed and scale: perturbed minus control experts; without those, minus the clean expert."""

    @property
    def title(self) -> str:
        """The claim, with the options that tell these groups from others."""
        return ", ".join([self.claim, *(f"{name}={value[:40]}" for name, value in self.options.items())])


def doses(groups: Sequence[Group], cohort: Cohort, thresholds: Thresholds) -> list[Dose]:
    """Return the dose-responses of awakening and divergence over groups that differ only in perturbation_scale.

    Each is Page's test over seeds x scales, with sham runs as the lowest dose, and the interval of the seeds' slopes.
    No twin is subtracted: the ranks within a seed would not change.
    """
    by_run = {each.run.id: each for each in cohort.runs if each.run.id not in cohort.invalid}
    comparable: dict[tuple[tuple[str, str], ...], list[Group]] = {}
    for group in groups:
        if group.role != POSITIVE:
            comparable.setdefault(tuple(group.options_beside_scale.items()), []).append(group)
    found = (_dose(claim, some, by_run, thresholds) for some in comparable.values() for claim in EFFECTS)
    return [dose for dose in found if dose is not None]


def _dose(
    claim: str, groups: Sequence[Group], by_run: Mapping[str, MeasuredRun], thresholds: Thresholds
) -> Dose | None:
    by_scale: dict[float, dict[int, float]] = {}
    for group in groups:
        for each in (by_run[name] for name in group.runs if name in by_run):
            value = _effect(each, claim)
            if each.run.seed is not None and math.isfinite(value):
                by_scale.setdefault(each.run.number(f"config.{SCALE}") or 0.0, {})[each.run.seed] = value
    scales = tuple(sorted(by_scale))
    seeds = tuple(sorted(set.intersection(*(set(values) for values in by_scale.values())))) if by_scale else ()
    if len(scales) < 3 or len(scales) < len(groups) or len(seeds) < 2:
        return None
    table_SD = np.array([[by_scale[scale][seed] for scale in scales] for seed in seeds])
    return _with_trend(claim, scales, seeds, table_SD, groups[0].options_beside_scale, thresholds)


def _effect(each: MeasuredRun, claim: str) -> float:
    """Return the mean effect of a run over its bins; NaN without one."""
    levels = each.levels(each.source)
    if levels is None:
        return math.nan
    compared = levels if len(levels.controls) else replace(levels, clean_is_control=True)
    names = [name for name in EFFECTS[claim] if name in levels.of]
    values = [effect_K(compared, name) for name in (names[:1] if DIRECTION in names else names)]
    known = [float(np.nanmean(value_K)) for value_K in values if np.isfinite(value_K).any()]
    return float(np.mean(known)) if known else math.nan


def _with_trend(
    claim: str,
    scales: tuple[float, ...],
    seeds: tuple[int, ...],
    table_SD: Array,
    options: Mapping[str, str],
    thresholds: Thresholds,
) -> Dose:
    trend = dose_response(table_SD, np.array(scales), alpha=thresholds.alpha)
    low, high = finite(trend.slope.low), finite(trend.slope.high)
    unit = "log ratio" if claim == "awakening" else "1 - cosine or log ratio"
    values = tuple(tuple(row) for row in table_SD.tolist())
    dose = Dose(claim, scales, seeds, trend.p, trend.slope.mid, low, high, unit, "", options, values)
    because = (
        f"{dose.title} {'rises' if trend.p < thresholds.alpha else 'does not clearly rise'} with {SCALE} "
        f"({', '.join(f'{scale:g}' for scale in scales)}): Page's p = {trend.p:.2g}, "
        f"slope {trend.slope.mid:.3g} [{trend.slope.low:.2f}, {trend.slope.high:.2f}] {unit} per unit, "
        f"{pluralize(len(seeds), 'seed')}"
    )
    return replace(dose, because=because)
