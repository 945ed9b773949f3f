"""Interim looks at runs in training: the claims at each look so far, and the step at which the next look is due.

A past look is judged again from the bins that were complete then, so it is the verdict of the files cut at that step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.bins import BINS
from validation.analysis.cohort import Cohort, MeasuredRun
from validation.analysis.effects import Levels
from validation.analysis.experiment import LOOKS, effects_of_shams, measure
from validation.analysis.run import Run
from validation.diagnostics import invalidating
from validation.judgement.judge import Judgement
from validation.verdict.claims import Claim
from validation.verdict.experiment_claims import claims_of
from validation.verdict.groups import PEERS

PACE_ROWS = 50  # newest rows that the pace of a training is taken from


@dataclass(frozen=True)
class InterimLook:
    """A look at unfinished runs: their claims when this many bins were complete in each."""

    bins: int
    step: int
    """Step of the picked run after which its bins were complete."""
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class NextLook:
    """The next look, or the end of the training."""

    bins: int
    step: int
    """Step of the picked run after which it is due."""
    seconds: float | None
    """From the newest rows until every run of the group is there, by its pace; None if unknown."""


def looks_so_far(judgement: Judgement, run: Run) -> tuple[InterimLook, ...]:
    """Return the looks that were taken at the run, with the other seeds of its group; peers have none."""
    group, thresholds = judgement.group_of(run.id), judgement.verdict.thresholds
    if group.role == PEERS:
        return ()
    reached, source = group.claims[0].bins or 0, group.claims[0].source
    invalid = invalidating(judgement.findings)
    return tuple(
        InterimLook(
            bins,
            run.from_source(source).plan(thresholds.warmup).completes(bins),
            claims_at(bins, group.runs, judgement.cohort, thresholds, invalid),
        )
        for bins in LOOKS
        if bins <= reached
    )


def claims_at(
    bins: int, runs: Sequence[str], cohort: Cohort, thresholds: Thresholds, invalid: Mapping[str, str]
) -> tuple[Claim, ...]:
    """Return the claims of a group as they were when these bins were complete. runs: ids of the group's runs."""
    then = Cohort([_until(each, bins) for each in cohort.runs], [*cohort.invalid])
    members = [each for each in then.runs if each.run.id in runs]
    m = measure(members, then, thresholds, effects_of_shams(members, then, thresholds))
    return claims_of(m, [each.run for each in members], invalid)


def _until(each: MeasuredRun, bins: int) -> MeasuredRun:
    return replace(each, merged=_levels_until(each.merged, bins), isolated=_levels_until(each.isolated, bins))


def _levels_until(levels: Levels | None, bins: int) -> Levels | None:
    if levels is None:
        return None
    complete = min(bins, levels.bins.complete)
    return replace(levels.until(complete), bins=replace(levels.bins, complete=complete))


def next_look(judgement: Judgement, run: Run) -> NextLook | None:
    """Return the next look at the run, with the other seeds of its group; None without a row or after the end."""
    group = judgement.group_of(run.id)
    reached, source = group.judged[0].bins or 0, group.judged[0].source
    if reached >= BINS or not len(run.steps):
        return None
    bins = next(look for look in ((BINS,) if group.role == PEERS else (*LOOKS, BINS)) if look > reached)
    warmup = judgement.verdict.thresholds.warmup
    seconds = [_seconds_until(each.run, source, warmup, bins) for each in judgement.members_of(group)]
    known = [each for each in seconds if each is not None]
    return NextLook(
        bins,
        run.from_source(source).plan(warmup).completes(bins),
        max(known) if len(known) == len(seconds) else None,
    )


def _seconds_until(run: Run, source: str, warmup: float, bins: int) -> float | None:
    """Return the seconds from a run's newest row to a look; None if it has ended, or its pace is unknown."""
    if not len(run.steps):
        return None
    missing = run.from_source(source).plan(warmup).completes(bins) - int(run.steps[-1])
    if missing <= 0:
        return 0.0
    wall_T = run.step_column("wall_time")[-PACE_ROWS:]
    steps = run.steps[-PACE_ROWS:][np.isfinite(wall_T)]
    wall_T = wall_T[np.isfinite(wall_T)]
    if run.facts.get("exit_state") != "running" or len(steps) < 2 or steps[-1] <= steps[0] or wall_T[-1] <= wall_T[0]:
        return None
    return missing * float(wall_T[-1] - wall_T[0]) / float(steps[-1] - steps[0])
