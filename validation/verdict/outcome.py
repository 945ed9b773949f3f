"""The outcome of a group: held-out losses of its runs against their twins, paired by seed. No claim depends on it.

The twin of a run is its sham run with the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from validation.analysis.cohort import Cohort, MeasuredRun
from validation.analysis.intervals import Interval, student
from validation.analysis.run import Run
from validation.text import pluralize

HELD_OUT_LOSS = "held_out_loss"
FEWEST_PAIRS = 2  # of which a spread between seeds is known


@dataclass(frozen=True)
class LossPair:
    """The held-out losses of a run and of its twin at the end of training, in nats."""

    seed: int
    run: str
    twin: str
    of_run: float
    of_twin: float

    @property
    def difference(self) -> float:
        """The loss of the run minus that of its twin."""
        return self.of_run - self.of_twin


@dataclass(frozen=True)
class Outcome:
    """The difference in held-out loss over the seeds of a group, with Student's interval."""

    pairs: tuple[LossPair, ...]
    """By seed."""
    interval: Interval
    because: str
    """The difference in words."""


def outcome_of(members: Sequence[MeasuredRun], cohort: Cohort, alpha: float) -> Outcome | None:
    """Return the outcome of runs that differ only in the seed.

    Runs that carry no verdict, that have no twin, or whose loss or whose twin's loss is not a number are left out and
    counted. None for fewer than two pairs, or if a seed is there twice.
    """
    pairs = sorted(filter(None, (_pair(each, cohort) for each in members)), key=lambda pair: pair.seed)
    if len(pairs) < FEWEST_PAIRS or len({pair.seed for pair in pairs}) < len(pairs):
        return None
    interval = student(np.array([pair.difference for pair in pairs], dtype=np.float64), alpha)
    return Outcome(tuple(pairs), interval, _sentence(members[0].run, interval, len(members)))


def _pair(each: MeasuredRun, cohort: Cohort) -> LossPair | None:
    twin = cohort.twin_of(each.run)
    if twin is None or each.run.seed is None or not cohort.carries_verdict(each):
        return None
    of_run, of_twin = each.run.number(HELD_OUT_LOSS), twin.run.number(HELD_OUT_LOSS)
    if of_run is None or of_twin is None:
        return None
    return LossPair(each.run.seed, each.run.id, twin.run.id, of_run, of_twin)


def _sentence(run: Run, interval: Interval, runs: int) -> str:
    who = "runs" if run.peers else "positive controls" if run.is_positive_control else "perturbed runs"
    seeds = pluralize(interval.units, "seed") if interval.units == runs else f"{interval.units} of {runs} seeds"
    return f"in held-out loss the {who} end {in_words(interval)}, over {seeds}"


def in_words(interval: Interval) -> str:
    """Return a difference with its interval: "0.003 nats above their twins [-0.010, +0.016]", or below."""
    side = "above" if interval.mid >= 0 else "below"
    return f"{abs(interval.mid):.3f} nats {side} their twins [{_signed(interval.low)}, {_signed(interval.high)}]"


def _signed(value: float) -> str:
    """Return a difference in nats with three decimals and its sign; that of a zero is a plus."""
    return f"{round(value, 3) + 0.0:+.3f}"
