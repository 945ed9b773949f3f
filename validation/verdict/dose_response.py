"""The dose-response: does the effect of awakening or divergence rise with perturbation_scale, over several seeds?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Run
from validation.analysis.statistics import Array, dose_response, finite
from validation.text import pluralize
from validation.verdict.claims import CLAIMS
from validation.verdict.groups import POSITIVE, SCALE, Group
from validation.verdict.wording import interval


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

    @property
    def title(self) -> str:
        """The claim, with the options that tell these groups from others."""
        return ", ".join([self.claim, *(f"{name}={value[:40]}" for name, value in self.options.items())])


def doses(groups: Sequence[Group], runs: Sequence[Run], thresholds: Thresholds) -> list[Dose]:
    """Return the dose-responses of awakening and divergence over groups that differ only in perturbation_scale.

    Each is Page's test over seeds x scales, with sham runs as the lowest dose, and the interval of the seeds' slopes.
    """
    by_run = {run.id: run for run in runs}
    comparable: dict[tuple[tuple[str, str], ...], list[Group]] = {}
    for group in groups:
        if group.role != POSITIVE:
            comparable.setdefault(tuple(group.options_beside_scale.items()), []).append(group)
    return [dose for some in comparable.values() for dose in _doses(some, by_run, thresholds)]


def _doses(groups: Sequence[Group], by_run: Mapping[str, Run], thresholds: Thresholds) -> list[Dose]:
    order = sorted((by_run[g.runs[0]].number(f"config.{SCALE}") or 0.0, index) for index, g in enumerate(groups))
    found = []
    for name in CLAIMS[:2]:
        by_seed: list[dict[int, float]] = []
        for _, index in order:
            values = groups[index].values.get(name, {})
            seeds = {run: by_run[run].seed for run in values}
            means = {run: float(np.mean(list(parts.values()))) for run, parts in values.items()}
            by_seed.append({seed: means[run] for run, seed in seeds.items() if seed is not None})
        common = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
        if len(order) < 3 or len(common) < 2 or len({scale for scale, _ in order}) < len(order):
            continue
        scales = np.array([scale for scale, _ in order])
        table_SD = np.array([[values[seed] for values in by_seed] for seed in common])
        found.append(_dose(name, scales, common, table_SD, groups, thresholds))
    return found


def _dose(
    name: str, scales: Array, seeds: Sequence[int], table_SD: Array, groups: Sequence[Group], thresholds: Thresholds
) -> Dose:
    trend = dose_response(table_SD, scales, alpha=thresholds.alpha)
    unit = next((c.unit for g in groups for c in g.claims if c.name == name), "ratio")
    unit = "log ratio" if unit == "ratio" else unit
    low, high = finite(trend.slope.low), finite(trend.slope.high)
    options = groups[0].options_beside_scale
    dose = Dose(name, tuple(scales.tolist()), tuple(seeds), trend.p, trend.slope.mid, low, high, unit, "", options)
    because = (
        f"{dose.title} {'rises' if trend.p < thresholds.alpha else 'does not clearly rise'} with {SCALE} "
        f"({', '.join(f'{scale:g}' for scale in scales)}): Page's p = {trend.p:.2g}, "
        f"slope {trend.slope.mid:.3g} {interval(trend.slope)} {unit} per unit, {pluralize(len(seeds), 'seed')}"
    )
    return replace(dose, because=because)
