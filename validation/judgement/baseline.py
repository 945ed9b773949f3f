"""What changed since another reading of the same experiment: claim by claim, beside the baseline's.

The baseline is judged by the same thresholds as the runs, so that a difference is one of the data.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from validation.analysis.run import Run
from validation.judgement.judge import Judgement
from validation.verdict.claims import SUPPORTED, Claim
from validation.verdict.wording import estimated, has_interval


@dataclass(frozen=True)
class Change:
    """One claim of the controlled reading beside the baseline's."""

    where: str
    """The run, the group by its name, or "all runs"."""
    before: Claim
    after: Claim

    @property
    def worsened(self) -> bool:
        """Whether the baseline supported it and this does not."""
        return self.before.status == SUPPORTED != self.after.status

    @property
    def difference(self) -> float | None:
        """The estimate less the baseline's; None where one of them has none, or another unit."""
        if self.before.estimate is None or self.after.estimate is None or self.before.unit != self.after.unit:
            return None
        return self.after.estimate - self.before.estimate

    @property
    def overlap(self) -> bool | None:
        """Whether the two intervals have a value in common; None where one of them has no interval."""
        if not (has_interval(self.before) and has_interval(self.after)) or self.before.unit != self.after.unit:
            return None
        (low, high), (other_low, other_high) = _bounds(self.before), _bounds(self.after)
        return low <= other_high and other_low <= high

    @property
    def because(self) -> str:
        """The change as a sentence."""
        statuses = (self.before.status, self.after.status)
        told = [f"still {statuses[1]}" if statuses[0] == statuses[1] else f"{statuses[0]} -> {statuses[1]}"]
        if self.difference is not None:
            told.append(f"{estimated(self.before)} -> {estimated(self.after)}")
        if self.overlap is not None:
            told.append("the intervals overlap" if self.overlap else "the intervals do not overlap")
        return ", ".join(told)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A judgement beside the baseline's."""

    baseline: Judgement
    changes: tuple[Change, ...]
    unmatched: tuple[str, ...]
    """Runs, of this judgement and of the baseline, that have no counterpart."""

    @property
    def worsened(self) -> bool:
        """Whether any claim that the baseline supported is no longer supported."""
        return any(change.worsened for change in self.changes)


def compare(judgement: Judgement, baseline: Judgement) -> Comparison:
    """Every claim that both have: over all runs, per group of the same name, per run and per expert."""
    pairs = list(_pairs(judgement.runs, baseline.runs))
    changes = [*_over_all(judgement, baseline), *_by_group(judgement, baseline)]
    for after, before in pairs:
        own = ((baseline, before), (judgement, after))
        changes += _aligned(f"run {after.id}", *(one.verdict.controlled.of(run.id) for one, run in own))
    known = {run.id for run, _ in pairs}, {run.id for _, run in pairs}
    alone = [f"run {run.id} is not in the baseline" for run in judgement.runs if run.id not in known[0]]
    alone += [f"run {run.id} is only in the baseline" for run in baseline.runs if run.id not in known[1]]
    return Comparison(baseline, tuple(changes), tuple(alone))


def _pairs(runs: Sequence[Run], others: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Runs of the same id, which stands for the whole config; else the only two; else those of the same seed."""
    if len(runs) == len(others) == 1:
        yield runs[0], others[0]
        return
    by_id = {run.id: run for run in others}
    yield from ((run, by_id[run.id]) for run in runs if run.id in by_id)
    shared = by_id.keys() & {run.id for run in runs}
    left, right = ([run for run in some if run.id not in shared] for some in (runs, others))
    by_seed = _by_seed(right)
    yield from ((run, by_seed[seed]) for seed, run in _by_seed(left).items() if seed in by_seed)


def _by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    """Runs by their seed, where no other run has it."""
    counts = Counter(run.seed for run in runs)
    return {run.seed: run for run in runs if run.seed is not None and counts[run.seed] == 1}


def _over_all(judgement: Judgement, baseline: Judgement) -> list[Change]:
    """The claims over the whole selection, unless both are a single run, which is compared as such."""
    if max(len(judgement.runs), len(baseline.runs)) < 2:
        return []
    return _aligned("all runs", *(_overall(one) for one in (baseline, judgement)))


def _overall(judgement: Judgement) -> list[Claim]:
    reading = judgement.verdict.controlled
    return reading.of(None) or [claim for claim in reading.claims if claim.expert is None]


def _by_group(judgement: Judgement, baseline: Judgement) -> list[Change]:
    """Groups of the same name, where there is more than one: a single group is all runs."""
    groups, others = judgement.verdict.groups, {(g.role, g.name): g for g in baseline.verdict.groups}
    matched = [(others[g.role, g.name], g) for g in groups if (g.role, g.name) in others] if len(groups) > 1 else []
    return [change for before, after in matched for change in _aligned(after.name, before.claims, after.claims)]


def _aligned(where: str, before: Sequence[Claim], after: Sequence[Claim]) -> list[Change]:
    earlier = {(claim.name, claim.expert): claim for claim in before}
    pairs = [(earlier.get((claim.name, claim.expert)), claim) for claim in after]
    return [Change(where, old, new) for old, new in pairs if old is not None]


def _bounds(claim: Claim) -> tuple[float, float]:
    return (-math.inf if claim.low is None else claim.low), (math.inf if claim.high is None else claim.high)
