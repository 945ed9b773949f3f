"""Several runs: grouped by what they are, pooled over seeds, ordered by dose. The run is the unit, never the step.

A group holds the runs that differ in nothing but the seed. Only such runs are averaged; everything else is said.
Controls (sham runs, positive controls) answer no question of their own where there are runs beside them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.controls import SHAM_RUN, Options, options_of
from validation.analysis.run import Run
from validation.analysis.statistics import Array, Estimate, Trend, across_runs, dose_response, more_runs
from validation.text import pluralize
from validation.verdict.claims import (
    CLAIMS,
    CONFOUNDED,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SUPPORTED,
    Claim,
    combine_statuses,
    exp,
    finite,
    interval,
)

TREATED, SHAM, POSITIVE = "treated", "sham", "positive_control"
NAMED_OPTIONS = 5
SCALE, GAIN = "perturbation_scale", "positive_control"
Parts = Mapping[str, float]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed, and what they say together."""

    name: str
    """The options in which this group differs from the others, as `name=value`; "all runs" where it is the only one."""
    role: str
    runs: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    values: Mapping[str, Mapping[str, Parts]] = field(default_factory=dict)
    """By claim and run, what was pooled: log ratios by tier or 1 - cosine, beyond the sham run of the same seed."""

    @property
    def ladder(self) -> dict[str, str]:
        """What it has in common with the groups that differ from it in perturbation_scale alone."""
        return {name: value for name, value in self.options.items() if name != SCALE}

    @property
    def status(self) -> str:
        """Of all three claims together."""
        return combine_statuses([claim.status for claim in self.claims])


@dataclass(frozen=True)
class Dose:
    """Whether one claim's effect rises with perturbation_scale, over the seeds that have every scale."""

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
    """Of the groups that it is over, where others differ from them in more than the scale: `Group.ladder` of each."""

    @property
    def title(self) -> str:
        """The claim, and which groups it is over where there are others."""
        return ", ".join([self.claim, *(f"{name}={value[:40]}" for name, value in self.options.items())])


def grouped(runs: Sequence[Run], claims: Sequence[Claim], thresholds: Thresholds) -> list[Group]:
    """The groups of a selection, each with its claims, in the order of their first runs."""
    members: dict[Options | str, list[Run]] = {}
    for run in runs:
        members.setdefault(_options(run) if run.config else run.id, []).append(run)
    made = [dict(key) if isinstance(key, tuple) else {} for key in members]
    differing = _differing(made)
    own = {(claim.run or "", claim.name): claim for claim in claims if claim.run and claim.expert is None}
    per_expert: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        if claim.run and claim.expert is not None:
            per_expert.setdefault((claim.run, claim.name), []).append(claim)
    values = {key: _parts(some) for key, some in per_expert.items()}
    by_seed = _shams_by_seed(runs)
    groups = []
    for group, known in zip(members.values(), made, strict=True):
        # The gain of positive controls is told of them alone: that others have none is what makes them no controls.
        named = differing if group[0].is_positive_control else [name for name in differing if name != GAIN]
        options = {name: known.get(name, "unknown") for name in named}
        shams = {} if group[0].is_sham or not group[0].config else by_seed.get(options_of(group[0]), {})
        pooled = {name: _paired(name, group, own, values, shams) for name in CLAIMS}
        decided: dict[str, Claim] = {}
        for name in CLAIMS:
            decided[name] = _over(name, group, [own[run.id, name] for run in group], pooled[name], thresholds, decided)
        role = SHAM if group[0].is_sham else POSITIVE if group[0].is_positive_control else TREATED
        ids = tuple(run.id for run in group)
        groups.append(Group(_name(options, group, len(members)), role, ids, options, tuple(decided.values()), pooled))
    return groups


def deciding_groups(groups: Sequence[Group]) -> list[Group]:
    """Return the groups that the verdict is about: the treated ones, else positive controls, else sham runs."""
    by_role = ([group for group in groups if group.role == role] for role in (TREATED, POSITIVE, SHAM))
    return next(filter(None, by_role), [])


def across(name: str, groups: Sequence[Group]) -> Claim:
    """Return one claim over all runs, from the groups that the verdict is about; the others are their controls."""
    asking = deciding_groups(groups)
    claims = [(group, claim) for group in asking for claim in group.claims if claim.name == name]
    status = combine_statuses([claim.status for _, claim in claims])
    if len(claims) == 1:
        return replace(claims[0][1], run=None, expert=None)
    each = "; ".join(f"{group.name}: {claim.status}" for group, claim in claims[: 2 * NAMED_OPTIONS])
    more = f"; and {len(claims) - 2 * NAMED_OPTIONS} more" if len(claims) > 2 * NAMED_OPTIONS else ""
    return Claim(name, status, f"the runs are {len(asking)} experiments and are not averaged: {each}{more}")


def doses(groups: Sequence[Group], runs: Sequence[Run], thresholds: Thresholds) -> list[Dose]:
    """The dose-response of awakening and divergence, wherever groups differ in perturbation_scale alone.

    Page's test over seeds x scales, with the sham runs as the lowest dose, and the seeds' own slopes.
    """
    by_run = {run.id: run for run in runs}
    ladders: dict[tuple[tuple[str, str], ...], list[Group]] = {}
    for group in groups:
        if group.role != POSITIVE:
            ladders.setdefault(tuple(group.ladder.items()), []).append(group)
    return [dose for ladder in ladders.values() for dose in _doses(ladder, by_run, thresholds)]


def _doses(ladder: Sequence[Group], by_run: Mapping[str, Run], thresholds: Thresholds) -> list[Dose]:
    rungs = sorted((by_run[g.runs[0]].number(f"config.{SCALE}") or 0.0, index) for index, g in enumerate(ladder))
    found = []
    for name in CLAIMS[:2]:
        by_seed: list[dict[int, float]] = []
        for _, index in rungs:
            values = ladder[index].values.get(name, {})
            seeds = {run: by_run[run].seed for run in values}
            means = {run: float(np.mean(list(parts.values()))) for run, parts in values.items()}
            by_seed.append({seed: means[run] for run, seed in seeds.items() if seed is not None})
        common = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
        if len(rungs) < 3 or len(common) < 2 or len({scale for scale, _ in rungs}) < len(rungs):
            continue
        scales = np.array([scale for scale, _ in rungs])
        table_SD = np.array([[values[seed] for values in by_seed] for seed in common])
        found.append(_dose(name, scales, common, table_SD, ladder, thresholds))
    return found


def _dose(
    name: str, scales: Array, seeds: Sequence[int], table_SD: Array, groups: Sequence[Group], thresholds: Thresholds
) -> Dose:
    trend: Trend = dose_response(table_SD, scales, alpha=thresholds.alpha)
    unit = next((c.unit for g in groups for c in g.claims if c.name == name), "ratio")
    rises = trend.p < thresholds.alpha
    per = "log ratio" if unit == "ratio" else unit
    told = (
        f"{'rises' if rises else 'does not surely rise'} with {SCALE} ({', '.join(f'{s:g}' for s in scales)}): "
        f"Page's p = {trend.p:.2g}, slope {trend.slope.mid:.3g} {interval(trend.slope)} {per} per unit, "
        f"{pluralize(len(seeds), 'seed')}"
    )
    low, high = finite(trend.slope.low), finite(trend.slope.high)
    dose = Dose(
        name, tuple(scales.tolist()), tuple(seeds), trend.p, trend.slope.mid, low, high, per, "", groups[0].ladder
    )
    return replace(dose, because=f"{dose.title} {told}")


def _options(run: Run) -> Options:
    """What makes two runs replicas of each other."""
    return tuple(sorted((name, str(value)) for name, value in run.config.items() if name not in ("seed", "device")))


def _differing(options: Sequence[Mapping[str, str]]) -> list[str]:
    names = sorted({name for one in options for name in one})
    return [name for name in names if len({one.get(name) for one in options}) > 1]


def _name(options: Mapping[str, str], group: Sequence[Run], groups: int) -> str:
    if groups == 1:
        return "all runs"
    if not group[0].config:
        return f"run {group[0].id} (says nothing of its options)"
    shown = [f"{name}={value[:40]}" for name, value in options.items()]
    more = f" and {len(shown) - NAMED_OPTIONS} more options" if len(shown) > NAMED_OPTIONS else ""
    return ", ".join(shown[:NAMED_OPTIONS]) + more


def _shams_by_seed(runs: Sequence[Run]) -> dict[Options, dict[int, str]]:
    """By options but for the scale, sham runs by seed."""
    found: dict[Options, dict[int, str]] = {}
    for run in runs:
        if run.is_sham and run.config and run.seed is not None:
            found.setdefault(options_of(run), {})[run.seed] = run.id
    return found


def _parts(claims: Sequence[Claim]) -> Parts:
    """What a run contributes: signed means over its perturbed experts; nothing if one of them has no estimate."""
    shared = set.intersection(*(set(claim.parts) for claim in claims))
    return {part: float(np.mean([claim.parts[part] for claim in claims])) for part in sorted(shared)}


def _paired(
    name: str,
    group: Sequence[Run],
    own: Mapping[tuple[str, str], Claim],
    values: Mapping[tuple[str, str], Parts],
    shams: Mapping[int, str],
) -> dict[str, Parts]:
    """By run, its values; minus those of the sham run of the same seed, unless it was compared to one already."""
    found = {}
    # All of them or none: a mean over pairs and single runs would be of two different things.
    every_sham = all(run.seed in shams for run in group)
    for run in group:
        parts = values.get((run.id, name), {})
        if every_sham and run.seed is not None and own[run.id, name].control != SHAM_RUN:
            twin = values.get((shams[run.seed], name), {})
            parts = {part: value - twin[part] for part, value in parts.items() if part in twin}
        kept = own[run.id, name].estimate
        if name == "sustainment":
            parts = {} if kept is None else {"kept": kept}
        if parts:
            found[run.id] = parts
    return found


def _over(
    name: str,
    group: Sequence[Run],
    own: Sequence[Claim],
    values: Mapping[str, Parts],
    thresholds: Thresholds,
    decided: Mapping[str, Claim],
) -> Claim:
    """One claim over the seeds of a group."""
    if len(own) == 1:
        return own[0]
    invalid = sum(claim.status == INVALID for claim in own)
    if invalid == len(own):
        return Claim(name, INVALID, "no run carries a verdict")
    if invalid:
        # Leaving them out would judge the survivors alone.
        return Claim(name, INCONCLUSIVE, f"{invalid} of {pluralize(len(own), 'run')} carry no verdict; see why first")
    obstacle = _no_replicas(group)
    if obstacle:
        return Claim(name, INCONCLUSIVE, f"{obstacle}; see each run")
    diverged = decided["divergence"].status if name == "sustainment" else SUPPORTED
    if diverged != SUPPORTED and not values:
        return Claim(name, diverged, f"nothing to sustain: over these runs divergence is {diverged}")
    together = (
        _pooled(name, group, own, list(values.values()), thresholds) if len(values) >= thresholds.min_runs else None
    )
    if together is not None and together.status == SUPPORTED and diverged != SUPPORTED:
        because = f"{together.because}; but over these runs divergence is {diverged}"
        together = replace(together, status=INCONCLUSIVE, because=because)
    confounded = sum(claim.status == CONFOUNDED for claim in own)
    if confounded:
        because = f"{confounded} of {pluralize(len(own), 'run')} are confounded, and averaging does not mend that"
        because += f" ({together.because})" if together else ""
        return replace(together or Claim(name, CONFOUNDED, because), status=CONFOUNDED, because=because)
    if together is None:
        missing = pluralize(int(thresholds.min_runs) - len(values), "more seed")
        found = pluralize(len(values), "run")
        if all(claim.status == REFUTED for claim in own) and not values:
            return Claim(name, REFUTED, f"refuted in each of {pluralize(len(own), 'run')}: {own[0].because}")
        return Claim(name, INCONCLUSIVE, f"{found} with an estimate; at least {missing} needed")
    return together


def _no_replicas(group: Sequence[Run]) -> str | None:
    """Why runs of the same options are not replicas of one experiment; None if they are."""
    if any(run.seed is None for run in group):
        return "not every run says its seed, so copies cannot be told from replicas"
    twice = [seed for seed, count in Counter(run.seed for run in group).items() if count > 1]
    return f"seed {twice[0]} is there more than once, and the same seed again is the same run" if twice else None


def _pooled(
    name: str, group: Sequence[Run], own: Sequence[Claim], values: Sequence[Parts], thresholds: Thresholds
) -> Claim:
    """Student's t interval over the runs, and what it says of the threshold; three tiers each at a third of alpha."""
    unit = own[0].unit
    log = unit == "ratio" and name != "sustainment"
    threshold = max((claim.threshold for claim in own if claim.threshold is not None), default=0.0)
    margin = math.log(threshold) if log and threshold > 0 else threshold
    parts = set.intersection(*map(set, values))
    if not parts:
        return Claim(name, INCONCLUSIVE, "the runs were measured in different ways, so nothing of them can be averaged")
    alpha = thresholds.alpha / len(parts)
    by_part = {part: np.array([one[part] for one in values]) for part in sorted(parts)}
    signed = {part: across_runs(some, alpha=alpha) for part, some in by_part.items()}
    sizes = log and name == "divergence"
    effects = {part: one.absolute() if sizes else one for part, one in signed.items()}
    part, effect = max(effects.items(), key=lambda item: item[1].low)
    highest = max(one.high for one in effects.values())
    shown: Estimate = effect.transformed(exp) if log else effect
    told = f"over {len(values)} runs {shown.mid:.3g} {interval(shown)}, threshold {threshold:.3g}"
    status = INCONCLUSIVE
    if effect.low > margin:
        status, told = _supported(name, group, own, told, thresholds)
    elif highest < margin:
        status = REFUTED
    else:
        turned = np.sign(signed[part].mid) if sizes else 1.0
        more = more_runs(by_part[part] * turned, margin, alpha=alpha)
        told += f"; about {pluralize(more, 'more seed')} would decide" if more else "; more seeds would not soon decide"
    low, high = finite(shown.low), finite(shown.high)
    pooled = Claim(name, status, told, None, None, finite(shown.mid), low, high, unit, threshold, len(values))
    return replace(pooled, information=float(len(values)), control=own[0].control, source=own[0].source)


def _supported(
    name: str, group: Sequence[Run], own: Sequence[Claim], told: str, thresholds: Thresholds
) -> tuple[str, str]:
    """Supported, unless nothing was perturbed or nothing says that the perturbation is the cause."""
    if group[0].is_sham:
        return INCONCLUSIVE, f"{told}; but nothing was perturbed in these sham runs"
    if name == "divergence" and any(claim.control is None for claim in own):
        return INCONCLUSIVE, f"{told}; but not every run has a control that could tell the cause"
    noise = [claim.above_noise for claim in own if claim.above_noise is not None]
    if name == "divergence" and noise and not across_runs(np.array(noise), alpha=thresholds.alpha).low > 0:
        return INCONCLUSIVE, f"{told}; but no more than between two halves of the same batch: that may be noise"
    if name == "sustainment" and any(claim.status == REFUTED for claim in own):
        return INCONCLUSIVE, f"{told}; but in some runs the divergence collapses"
    return SUPPORTED, told
