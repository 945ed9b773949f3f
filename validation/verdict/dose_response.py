"""The dose-response: does the effect of awakening or divergence rise with perturbation_scale, over several seeds?

Axis letters: S seeds, D doses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prismatic.contract.thresholds import SHAM_SCALE, Thresholds
from validation.analysis.cohort import SCALE, Cohort, MeasuredRun
from validation.analysis.effects import BOTTOM, DIRECTION, TIER_SIZES, effect_K
from validation.analysis.intervals import Interval
from validation.analysis.statistics import dose_response, finite
from validation.text import pluralize
from validation.verdict.claims import INVALID
from validation.verdict.groups import PEERS, POSITIVE, Group
from validation.verdict.words.wording import COSINE

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
        if group.role not in (POSITIVE, PEERS) and group.status != INVALID:
            comparable.setdefault(tuple(group.options_beside_scale.items()), []).append(group)
    found = (_dose(claim, some, by_run, thresholds) for some in comparable.values() for claim in EFFECTS)
    return [dose for dose in found if dose is not None]


def _dose(
    claim: str, groups: Sequence[Group], by_run: Mapping[str, MeasuredRun], thresholds: Thresholds
) -> Dose | None:
    members = [by_run[name] for group in groups for name in group.runs if name in by_run]
    names = _measured(claim, members)
    by_scale: dict[float, dict[int, float]] = {}
    for each in members:
        value = _effect(each, names)
        if each.run.seed is not None and math.isfinite(value):
            by_scale.setdefault(each.run.option(SCALE) or 0.0, {})[each.run.seed] = value
    scales = tuple(sorted(by_scale))
    seeds = tuple(sorted(set.intersection(*(set(values) for values in by_scale.values())))) if by_scale else ()
    if len(scales) < 3 or len(scales) < len(groups) or len(seeds) < 2 or scales[-1] <= SHAM_SCALE:
        return None
    table_SD = np.array([[by_scale[scale][seed] for scale in scales] for seed in seeds])
    trend = dose_response(table_SD, np.array(scales), alpha=thresholds.alpha)
    dose = Dose(
        claim,
        scales,
        seeds,
        trend.p,
        trend.slope.mid,
        finite(trend.slope.low),
        finite(trend.slope.high),
        COSINE if names == [DIRECTION] else "log ratio",
        "",
        groups[0].options_beside_scale,
        tuple(tuple(row) for row in table_SD.tolist()),
    )
    return replace(dose, because=_because(dose, trend.slope, thresholds.alpha))


def _measured(claim: str, runs: Sequence[MeasuredRun]) -> list[str]:
    """Return the effects of a claim that every run has: the direction, or the sizes of the tiers."""
    known = [levels.of.keys() for each in runs if (levels := each.levels(each.source)) is not None]
    names = [name for name in EFFECTS[claim] if all(name in of for of in known)]
    return names[:1] if DIRECTION in names else names


def _effect(each: MeasuredRun, names: Sequence[str]) -> float:
    """Return the mean of some effects of a run over its bins; NaN without one."""
    levels = each.levels(each.source)
    if levels is None:
        return math.nan
    compared = levels if len(levels.controls) else replace(levels, clean_is_control=True)
    values = [effect_K(compared, name) for name in names]
    known = [float(np.nanmean(value_K)) for value_K in values if np.isfinite(value_K).any()]
    return float(np.mean(known)) if known else math.nan


def _because(dose: Dose, slope: Interval, alpha: float) -> str:
    return (
        f"{dose.title} {'rises' if dose.p < alpha else 'does not clearly rise'} with {SCALE} "
        f"({', '.join(f'{scale:g}' for scale in dose.scales)}): Page's p = {dose.p:.2g}, "
        f"slope {slope.mid:.3g} [{slope.low:.2f}, {slope.high:.2f}] {dose.unit} per unit, "
        f"{pluralize(len(dose.seeds), 'seed')}"
    )
