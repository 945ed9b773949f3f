"""Groups of runs that differ only in the seed: their claims over the seeds, and the claims over all groups.

The run is the unit of replication, never the step. Only the runs of one group are averaged. Sham runs and positive
controls decide the overall verdict only where there are no other runs.
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
from validation.analysis.statistics import Estimate, across_runs, exp, finite, more_runs
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
)
from validation.verdict.wording import interval

TREATED, SHAM, POSITIVE = "treated", "sham", "positive_control"
NAMED_OPTIONS = 5
SCALE, GAIN = "perturbation_scale", "positive_control"
Parts = Mapping[str, float]
"""One run's values of a claim: a log ratio by tier, {"direction": 1 - cosine}, or {"kept": share}."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed, and their claims together."""

    name: str
    """The options in which this group differs from the others, as `name=value`; "all runs" for the only group."""
    role: str
    runs: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    values: Mapping[str, Mapping[str, Parts]] = field(default_factory=dict)
    """By claim and run, the pooled values, less those of the sham run with the same seed."""

    @property
    def options_beside_scale(self) -> dict[str, str]:
        """The options without perturbation_scale: groups that share them form a dose-response."""
        return {name: value for name, value in self.options.items() if name != SCALE}

    @property
    def status(self) -> str:
        """The status of the three claims together."""
        return combine_statuses([claim.status for claim in self.claims])


def group_runs(runs: Sequence[Run], claims: Sequence[Claim], thresholds: Thresholds) -> list[Group]:
    """Return the groups of these runs, each with its claims, in the order of their first runs."""
    members: dict[Options | str, list[Run]] = {}
    for run in runs:
        members.setdefault(_options_beside_seed(run) if run.config else run.id, []).append(run)
    options = [dict(key) if isinstance(key, tuple) else {} for key in members]
    differing = _differing(options)
    by_run = {(claim.run or "", claim.name): claim for claim in claims if claim.run and claim.expert is None}
    values = _values(claims)
    shams_by_options = _shams_by_seed(runs)
    groups = []
    for group, known in zip(members.values(), options, strict=True):
        # Only positive controls are named by their gain: other groups do not differ by having none.
        named = differing if group[0].is_positive_control else [name for name in differing if name != GAIN]
        shown = {name: known.get(name, "unknown") for name in named}
        shams = {} if group[0].is_sham or not group[0].config else shams_by_options.get(options_of(group[0]), {})
        pooled = {name: _beyond_shams(name, group, by_run, values, shams) for name in CLAIMS}
        decided: dict[str, Claim] = {}
        for name in CLAIMS:
            each = [by_run[run.id, name] for run in group]
            decided[name] = _over_seeds(name, group, each, pooled[name], thresholds, decided)
        role = SHAM if group[0].is_sham else POSITIVE if group[0].is_positive_control else TREATED
        name, ids = _name(shown, group, len(members)), tuple(run.id for run in group)
        groups.append(Group(name, role, ids, shown, tuple(decided.values()), pooled))
    return groups


def deciding_groups(groups: Sequence[Group]) -> list[Group]:
    """Return the groups that the verdict is about: the treated ones, else positive controls, else sham runs."""
    by_role = ([group for group in groups if group.role == role] for role in (TREATED, POSITIVE, SHAM))
    return next(filter(None, by_role), [])


def combine_groups(name: str, groups: Sequence[Group]) -> Claim:
    """Return one claim over all runs, from the groups that the verdict is about; the others are their controls."""
    deciding = deciding_groups(groups)
    claims = [(group, claim) for group in deciding for claim in group.claims if claim.name == name]
    status = combine_statuses([claim.status for _, claim in claims])
    if len(claims) == 1:
        return replace(claims[0][1], run=None, expert=None)
    each = "; ".join(f"{group.name}: {claim.status}" for group, claim in claims[: 2 * NAMED_OPTIONS])
    more = f"; and {len(claims) - 2 * NAMED_OPTIONS} more" if len(claims) > 2 * NAMED_OPTIONS else ""
    return Claim(name, status, f"the runs are {len(deciding)} experiments and are not averaged: {each}{more}")


def _options_beside_seed(run: Run) -> Options:
    return tuple(sorted((name, str(value)) for name, value in run.config.items() if name not in ("seed", "device")))


def _differing(options: Sequence[Mapping[str, str]]) -> list[str]:
    names = sorted({name for group in options for name in group})
    return [name for name in names if len({group.get(name) for group in options}) > 1]


def _name(options: Mapping[str, str], group: Sequence[Run], groups: int) -> str:
    if groups == 1:
        return "all runs"
    if not group[0].config:
        return f"run {group[0].id} (options unknown)"
    shown = [f"{name}={value[:40]}" for name, value in options.items()]
    more = f" and {len(shown) - NAMED_OPTIONS} more options" if len(shown) > NAMED_OPTIONS else ""
    return ", ".join(shown[:NAMED_OPTIONS]) + more


def _shams_by_seed(runs: Sequence[Run]) -> dict[Options, dict[int, str]]:
    """Return the ids of sham runs by seed, by their options beside the scale."""
    found: dict[Options, dict[int, str]] = {}
    for run in runs:
        if run.is_sham and run.config and run.seed is not None:
            found.setdefault(options_of(run), {})[run.seed] = run.id
    return found


def _values(claims: Sequence[Claim]) -> dict[tuple[str, str], Parts]:
    """Return by run and claim the signed means over the perturbed experts; empty if an expert has no estimate."""
    per_expert: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        if claim.run and claim.expert is not None:
            per_expert.setdefault((claim.run, claim.name), []).append(claim)
    return {key: _parts(experts) for key, experts in per_expert.items()}


def _parts(claims: Sequence[Claim]) -> Parts:
    shared = set.intersection(*(set(claim.parts) for claim in claims))
    return {part: float(np.mean([claim.parts[part] for claim in claims])) for part in sorted(shared)}


def _beyond_shams(
    name: str,
    group: Sequence[Run],
    claims: Mapping[tuple[str, str], Claim],
    values: Mapping[tuple[str, str], Parts],
    shams: Mapping[int, str],
) -> dict[str, Parts]:
    """Return the values of each run, less those of the sham run with the same seed unless that run was its control."""
    found = {}
    # All runs or none: a mean over paired and single runs would mix two quantities.
    every_sham = all(run.seed in shams for run in group)
    for run in group:
        parts = values.get((run.id, name), {})
        if every_sham and run.seed is not None and claims[run.id, name].control != SHAM_RUN:
            sham = values.get((shams[run.seed], name), {})
            parts = {part: value - sham[part] for part, value in parts.items() if part in sham}
        kept = claims[run.id, name].estimate
        if name == "sustainment":
            parts = {} if kept is None else {"kept": kept}
        if parts:
            found[run.id] = parts
    return found


def _over_seeds(
    name: str,
    group: Sequence[Run],
    each: Sequence[Claim],
    values: Mapping[str, Parts],
    thresholds: Thresholds,
    decided: Mapping[str, Claim],
) -> Claim:
    """Return one claim over the runs of a group. each: about each run; decided: the group's earlier ones."""
    if len(each) == 1:
        return each[0]
    obstacle = _obstacle(name, group, each)
    if obstacle is not None:
        return obstacle
    divergence = decided["divergence"].status if name == "sustainment" else SUPPORTED
    if divergence != SUPPORTED and not values:
        return Claim(name, divergence, f"nothing to sustain: over these runs divergence is {divergence}")
    enough = len(values) >= thresholds.min_runs
    pooled = _pooled(name, group, each, list(values.values()), thresholds) if enough else None
    if pooled is not None and pooled.status == SUPPORTED and divergence != SUPPORTED:
        because = f"{pooled.because}; but over these runs divergence is {divergence}"
        pooled = replace(pooled, status=INCONCLUSIVE, because=because)
    confounded = sum(claim.status == CONFOUNDED for claim in each)
    if confounded:
        because = f"{confounded} of {pluralize(len(each), 'run')} are confounded, which averaging does not fix"
        because += f" ({pooled.because})" if pooled else ""
        return replace(pooled or Claim(name, CONFOUNDED, because), status=CONFOUNDED, because=because)
    return pooled or _too_few_runs(name, each, values, thresholds)


def _obstacle(name: str, group: Sequence[Run], each: Sequence[Claim]) -> Claim | None:
    """Return the claim for runs that cannot be pooled: invalid data, or runs that are not replicates."""
    invalid = sum(claim.status == INVALID for claim in each)
    if invalid == len(each):
        return Claim(name, INVALID, "no run carries a verdict")
    if invalid:  # the valid runs alone could be a biased choice
        because = f"{invalid} of {pluralize(len(each), 'run')} carry no verdict; see their errors first"
        return Claim(name, INCONCLUSIVE, because)
    because = _not_replicates(group)
    return Claim(name, INCONCLUSIVE, f"{because}; see each run") if because else None


def _too_few_runs(name: str, each: Sequence[Claim], values: Mapping[str, Parts], thresholds: Thresholds) -> Claim:
    if all(claim.status == REFUTED for claim in each) and not values:
        return Claim(name, REFUTED, f"refuted in each of {pluralize(len(each), 'run')}: {each[0].because}")
    missing = pluralize(int(thresholds.min_runs) - len(values), "more seed")
    return Claim(name, INCONCLUSIVE, f"{pluralize(len(values), 'run')} with an estimate; at least {missing} needed")


def _not_replicates(group: Sequence[Run]) -> str:
    """Return the reason why runs of the same options are not replicates; empty if they are."""
    if any(run.seed is None for run in group):
        return "some runs have no known seed, so they may be copies instead of replicates"
    repeated = [seed for seed, count in Counter(run.seed for run in group).items() if count > 1]
    return f"seed {repeated[0]} appears more than once, and runs of one seed are not replicates" if repeated else ""


def _pooled(
    name: str, group: Sequence[Run], each: Sequence[Claim], values: Sequence[Parts], thresholds: Thresholds
) -> Claim:
    """Return a claim by Student's t interval over the runs; several tiers share alpha (Bonferroni)."""
    unit = each[0].unit
    log = unit == "ratio" and name != "sustainment"
    threshold = max((claim.threshold for claim in each if claim.threshold is not None), default=0.0)
    margin = math.log(threshold) if log and threshold > 0 else threshold
    parts = set.intersection(*map(set, values))
    if not parts:
        return Claim(name, INCONCLUSIVE, "the runs were measured in different ways and cannot be averaged")
    alpha = thresholds.alpha / len(parts)
    by_part = {part: np.array([of_run[part] for of_run in values]) for part in sorted(parts)}
    signed = {part: across_runs(of_runs, alpha=alpha) for part, of_runs in by_part.items()}
    sizes = log and name == "divergence"
    effects = {part: estimate.absolute() if sizes else estimate for part, estimate in signed.items()}
    part, effect = max(effects.items(), key=lambda item: item[1].low)
    highest = max(estimate.high for estimate in effects.values())
    shown: Estimate = effect.transformed(exp) if log else effect
    because = f"over {len(values)} runs {shown.mid:.3g} {interval(shown)}, threshold {threshold:.3g}"
    status = INCONCLUSIVE
    if effect.low > margin:
        objection = _objection(name, group, each, thresholds)
        status, because = (INCONCLUSIVE, f"{because}; but {objection}") if objection else (SUPPORTED, because)
    elif highest < margin:
        status = REFUTED
    else:
        sign = np.sign(signed[part].mid) if sizes else 1.0
        more = more_runs(by_part[part] * sign, margin, alpha=alpha)
        because += (
            f"; about {pluralize(more, 'more seed')} would decide" if more else "; a few more seeds would not decide"
        )
    low, high = finite(shown.low), finite(shown.high)
    pooled = Claim(name, status, because, None, None, finite(shown.mid), low, high, unit, threshold, len(values))
    return replace(pooled, information=float(len(values)), control=each[0].control, source=each[0].source)


def _objection(name: str, group: Sequence[Run], each: Sequence[Claim], thresholds: Thresholds) -> str | None:
    """Return the reason against a support that the interval shows; None if there is no objection."""
    if group[0].is_sham:
        return "nothing was perturbed in these sham runs"
    if name == "divergence" and any(claim.control is None for claim in each):
        return "some runs have no control to show the cause"
    noise = [claim.above_noise for claim in each if claim.above_noise is not None]
    if name == "divergence" and noise and not across_runs(np.array(noise), alpha=thresholds.alpha).low > 0:
        return "two halves of one batch differ as much, so this may be noise"
    if name == "sustainment" and any(claim.status == REFUTED for claim in each):
        return "the divergence collapses in some runs"
    return None
