"""The comparison with a baseline: which claims and checks changed, worsened, or have no counterpart.

The runs that the verdict is about are compared by their claims, and controls by the result of their check.
The baseline is judged by the same thresholds as the runs, so that a difference comes from the data.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from validation.analysis.run import Run
from validation.judgement.judge import Judgement
from validation.verdict.claims import SUPPORTED, Claim
from validation.verdict.groups import FOUND, PASSES, Group
from validation.verdict.words.wording import CHECKS, estimated, has_interval


@dataclass(frozen=True)
class Change:
    """A claim of the controlled reading, and the same claim of the baseline."""

    where: str
    """The run, the name of the group, or "all runs"."""
    before: Claim
    after: Claim

    @property
    def what(self) -> str:
        """The claim that is compared."""
        return self.after.name

    @property
    def worsened(self) -> bool:
        """True if the baseline supported the claim and these runs do not."""
        return self.before.status == SUPPORTED != self.after.status

    @property
    def difference(self) -> float | None:
        """The estimate minus the baseline's; None if one has no estimate or another unit."""
        if self.before.estimate is None or self.after.estimate is None or self.before.unit != self.after.unit:
            return None
        return self.after.estimate - self.before.estimate

    @property
    def overlap(self) -> bool | None:
        """True if the two intervals overlap; None if one claim has no interval or another unit."""
        if not (has_interval(self.before) and has_interval(self.after)) or self.before.unit != self.after.unit:
            return None
        (low, high), (other_low, other_high) = _bounds(self.before), _bounds(self.after)
        return low <= other_high and other_low <= high

    @property
    def because(self) -> str:
        """The change as a sentence."""
        statuses = (self.before.status, self.after.status)
        parts = [f"still {statuses[1]}" if statuses[0] == statuses[1] else f"{statuses[0]} -> {statuses[1]}"]
        if self.difference is not None:
            parts.append(f"{estimated(self.before)} -> {estimated(self.after)}")
        if self.overlap is not None:
            parts.append("the intervals overlap" if self.overlap else "the intervals do not overlap")
        return ", ".join(parts)


@dataclass(frozen=True)
class CheckChange:
    """The result of a control's check, and that of the same control in the baseline."""

    where: str
    """The name of the group."""
    role: str
    before: str
    after: str
    what = "check"

    @property
    def worsened(self) -> bool:
        """True if the baseline's check passed, or found its effect, and this one does not."""
        return self.before in (PASSES, FOUND) and self.after != self.before

    @property
    def because(self) -> str:
        """The change as a sentence."""
        after = CHECKS[self.after]
        return f"still: {after}" if self.before == self.after else f"{CHECKS[self.before]} -> {after}"


@dataclass(frozen=True, eq=False)
class Comparison:
    """The changes of a judgement against the baseline's."""

    baseline: Judgement
    changes: tuple[Change, ...]
    checks: tuple[CheckChange, ...]
    unmatched: tuple[str, ...]
    """Sentences about runs without a counterpart in the other judgement."""

    @property
    def all(self) -> tuple[Change | CheckChange, ...]:
        """The changes of claims, then those of checks."""
        return *self.changes, *self.checks

    @property
    def worsened(self) -> bool:
        """True if a claim that the baseline supported is lost, or a check that it passed."""
        return any(change.worsened for change in self.all)


def compare(judgement: Judgement, baseline: Judgement) -> Comparison:
    """Return the comparison of every common claim and check: over all runs, by group name, and by run."""
    pairs = list(_pairs(judgement.runs, baseline.runs))
    groups = _matched_groups(judgement, baseline)
    treated = [(before, after) for before, after in groups if after.check is None]
    changes = _over_all(judgement, baseline)
    if len(judgement.verdict.groups) > 1:
        changes += [c for before, after in treated for c in _aligned(after.name, before.judged, after.judged)]
    deciding = {name for group in judgement.verdict.deciding for name in group.runs}
    for after, before in pairs:
        if after.id in deciding:
            own = [
                [*judged.verdict.judged(run.id).values()] for judged, run in ((baseline, before), (judgement, after))
            ]
            changes += _aligned(f"run {after.id}", *own)
    checks = [CheckChange(a.name, a.role, b.check, a.check) for b, a in groups if a.check and b.check]
    paired = {run.id for run, _ in pairs}, {run.id for _, run in pairs}
    unmatched = [f"run {run.id} is not in the baseline" for run in judgement.runs if run.id not in paired[0]]
    unmatched += [f"run {run.id} is only in the baseline" for run in baseline.runs if run.id not in paired[1]]
    return Comparison(baseline, tuple(changes), tuple(checks), tuple(unmatched))


def _pairs(runs: Sequence[Run], others: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Yield the runs to compare: the only two, runs of the same id (a hash of the config), or runs of the same seed."""
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
    """Return the runs by seed, without seeds of several runs."""
    counts = Counter(run.seed for run in runs)
    return {run.seed: run for run in runs if run.seed is not None and counts[run.seed] == 1}


def _over_all(judgement: Judgement, baseline: Judgement) -> list[Change]:
    """Return the changes over all runs; none if both judgements are of a single run, which `compare` pairs."""
    if max(len(judgement.runs), len(baseline.runs)) < 2:
        return []
    return _aligned("all runs", [*baseline.verdict.rows.values()], [*judgement.verdict.rows.values()])


def _matched_groups(judgement: Judgement, baseline: Judgement) -> list[tuple[Group, Group]]:
    """Return the baseline's group and ours, for each role and name that both have."""
    others = {(group.role, group.name): group for group in baseline.verdict.groups}
    return [(others[g.role, g.name], g) for g in judgement.verdict.groups if (g.role, g.name) in others]


def _aligned(where: str, before: Sequence[Claim], after: Sequence[Claim]) -> list[Change]:
    earlier = {claim.name: claim for claim in before}
    return [Change(where, earlier[claim.name], claim) for claim in after if claim.name in earlier]


def _bounds(claim: Claim) -> tuple[float, float]:
    return (-math.inf if claim.low is None else claim.low), (math.inf if claim.high is None else claim.high)
