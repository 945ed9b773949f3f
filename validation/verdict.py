"""Runs in, both readings out: each claim per expert, per run and over all runs, with one status on top.

As written stands beside controlled, always; the controlled reading is the headline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from validation.as_written import as_written
from validation.claims import (
    CLAIMS,
    CONFOUNDED,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SUPPORTED,
    Claim,
    Premise,
    Thresholds,
    exp,
    finite,
    interval,
)
from validation.controlled import controlled, premise
from validation.series import Expert, Run
from validation.statistics import across_runs


@dataclass(frozen=True)
class Reading:
    """One way to read the data: its overall status, the reason, and every claim."""

    status: str
    because: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Verdict:
    """Both readings of one or many runs, and the premise of each run."""

    as_written: Reading
    controlled: Reading
    premises: tuple[Premise, ...]
    thresholds: Thresholds

    @property
    def status(self) -> str:
        """The headline: the controlled reading's."""
        return self.controlled.status


def decide(
    runs: Sequence[Run], invalid: Mapping[tuple[str, int | None], str], thresholds: Thresholds | None = None
) -> Verdict:
    """Judge runs. `invalid` says why the data of (run, expert) carries no verdict; expert None stands for all."""
    limits = thresholds or Thresholds()
    written = _claims(runs, invalid, lambda run, expert: as_written(run, expert, limits))
    beyond = _claims(runs, invalid, lambda run, expert: controlled(run, expert, runs, limits))
    judgeable = [run for run in runs if (run.run, None) not in invalid and 0 in run.experts]
    return Verdict(
        _reading(written, runs, limits),
        _reading(beyond, runs, limits),
        tuple(premise(run, limits) for run in judgeable),
        limits,
    )


def _claims(
    runs: Sequence[Run], invalid: Mapping[tuple[str, int | None], str], judge: Callable[[Run, Expert], list[Claim]]
) -> list[Claim]:
    """Every claim of every perturbed expert, followed by the same claims for its whole run."""
    claims = []
    for run in runs:
        own: list[Claim] = []
        for expert in run.of_role("perturbed"):
            reason = invalid.get((run.run, None)) or invalid.get((run.run, expert.expert))
            own += _invalid(run, expert, reason) if reason else judge(run, expert)
        reason = invalid.get((run.run, None), "it has no perturbed expert")
        claims += [*own, *(_for_run(run, name, own, reason) for name in CLAIMS)]
    return claims


def combine(statuses: Sequence[str]) -> str:
    """One status for all of several: all of them must support it, and nothing may hide behind another's yes."""
    if not statuses or all(status == INVALID for status in statuses):
        return INVALID
    for status in (CONFOUNDED, REFUTED):
        if status in statuses:
            return status
    return SUPPORTED if all(status == SUPPORTED for status in statuses) else INCONCLUSIVE


def _for_run(run: Run, name: str, claims: Sequence[Claim], otherwise: str) -> Claim:
    """One claim for the whole run: every perturbed expert must support it."""
    own = [claim for claim in claims if claim.claim == name]
    status = combine([claim.status for claim in own])
    if not own:
        return Claim(name, INVALID, otherwise, run=run.run)
    alike = [claim for claim in own if claim.status == status] or own
    shown = min(alike, key=lambda claim: math.inf if claim.estimate is None else claim.estimate)
    because = shown.because
    if len(own) > 1:
        because = f"{len(alike)} of {len(own)} perturbed experts, such as expert {shown.expert}: {because}"
    return replace(shown, status=status, because=because, expert=None)


def _across(name: str, claims: Sequence[Claim], runs: Sequence[Run], limits: Thresholds) -> Claim:
    """One claim over all runs: the run is the unit of replication."""
    own = [c for c in claims if c.claim == name and c.expert is None and c.run and c.status != INVALID]
    if not own:
        return Claim(name, INVALID, "no run carries a verdict")
    if any(claim.status == CONFOUNDED for claim in own):
        count = sum(claim.status == CONFOUNDED for claim in own)
        return Claim(name, CONFOUNDED, f"{count} of {len(own)} runs are confounded, and averaging does not mend that")
    differing = _differing_options([run for run in runs if run.run in {claim.run for claim in own}])
    if differing:
        return Claim(
            name, INCONCLUSIVE, f"the runs differ in {', '.join(differing)} and are not averaged; see each run"
        )
    values = [claim.estimate for claim in own if claim.estimate is not None]
    if len(values) < limits.min_runs:
        missing = int(limits.min_runs) - len(values)
        return Claim(
            name, INCONCLUSIVE, f"{len(values)} run(s) with an estimate; at least {missing} more seed(s) are needed"
        )
    first = own[0]
    threshold = first.threshold or 0.0
    log_scale = first.unit == "ratio" and min(values) > 0
    effect = across_runs(np.log(values) if log_scale else np.asarray(values), alpha=limits.alpha)
    effect = effect.transformed(exp) if log_scale else effect
    status = combine([claim.status for claim in own])
    if status == SUPPORTED and not effect.low > threshold:
        status = INCONCLUSIVE
    if status == REFUTED and not effect.high < threshold:
        status = INCONCLUSIVE
    because = f"over {len(values)} runs {effect.mid:.3g} {interval(effect)}, threshold {threshold:g}"
    low, high = finite(effect.low), finite(effect.high)
    return Claim(name, status, because, None, None, effect.mid, low, high, first.unit, threshold, len(values))


def _differing_options(runs: Sequence[Run]) -> list[str]:
    """Config keys, other than the seed, in which runs differ."""
    names = sorted({name for run in runs for name in run.config} - {"seed", "device"})
    return [name for name in names if len({str(run.config.get(name)) for run in runs}) > 1]


def _reading(claims: list[Claim], runs: Sequence[Run], limits: Thresholds) -> Reading:
    """Add the claims over all runs, if there are several, and the overall status with its reason."""
    if len(runs) > 1:
        claims = [*claims, *(_across(name, claims, runs, limits) for name in CLAIMS)]
        deciding = claims[-len(CLAIMS) :]
    else:
        deciding = [claim for claim in claims if claim.expert is None]
    status = combine([claim.status for claim in deciding])
    shown = next((claim for claim in deciding if claim.status == status), None)
    because = f"{shown.claim}: {shown.because}" if shown else "no run could be judged"
    return Reading(status, because, tuple(claims))


def _invalid(run: Run, expert: Expert, reason: str) -> list[Claim]:
    return [Claim(name, INVALID, reason, expert.expert, run.run) for name in CLAIMS]
