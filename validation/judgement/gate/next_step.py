"""The command that trains the seeds that the gate asks for, with the options of the runs at hand."""

from __future__ import annotations

from collections.abc import Sequence

from prismatic.contract.thresholds import SHAM_SCALE
from validation.judgement.gate.experiment import Experiment
from validation.judgement.gate.rules import MORE_SEEDS, Ruling
from validation.judgement.glance import step_of
from validation.judgement.step import Advice

LARGEST_SEED = 1_000_000  # that a command counts on from; seeds of a file may be any number


def next_command(e: Experiment, ruling: Ruling) -> str:
    """Return a command for `prismatic sweep`; empty if there is nothing to train, or for runs of other trainers."""
    run, seeds = e.members[0].run, _seeds(e, ruling)
    if ruling.answer != MORE_SEEDS or not run.by_trainer or not seeds:
        return ""
    scale = run.option("perturbation_scale")
    scales = "0" if scale is None or scale <= SHAM_SCALE else f"0,{scale:g}"
    grid = (f"perturbation_scale={scales}", _axis(seeds))
    return step_of(Advice("more_seeds", ruling.because, grid=grid, run=run.id), e.judgement).command


def _seeds(e: Experiment, ruling: Ruling) -> list[int]:
    """Return the seeds to plan: those of the plan that is not complete, other ones, or all and some more."""
    known = [seed for seed in e.plans.seeds if 0 <= seed < LARGEST_SEED]
    after = max(known, default=-1) + 1
    if ruling.reason == "seeds_missing" or ruling.more_sham_seeds:
        return known or [*range(ruling.more_sham_seeds)]
    if ruling.reason == "not_registered":
        return [*range(after, after + ruling.more_seeds)]
    return [*known, *range(after, after + ruling.more_seeds)]


def _axis(seeds: Sequence[int]) -> str:
    """Return an axis of a grid: seed=0..5, or seed=1,4 for seeds with gaps."""
    first, last = seeds[0], seeds[-1]
    return f"seed={first}..{last}" if last - first + 1 == len(seeds) else f"seed={','.join(map(str, seeds))}"
