"""The answers to the registered hypotheses of a study: each as expected, not as expected, or open.

A hypothesis about a claim has the answer of that claim, in every experiment that it names. A hypothesis that compares
experiments has the answer of Student's interval of the difference over the seeds that both have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prismatic.contract.options import TREATMENT
from prismatic.contract.study_plan import Hypothesis, has_options, named
from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import Cohort, MeasuredRun
from validation.analysis.distinct import DIRECTION, OUTPUTS, WEIGHTS
from validation.analysis.intervals import student
from validation.text import pluralize
from validation.verdict.claims import REFUTED, SUPPORTED
from validation.verdict.groups import GAIN, PEERS, POSITIVE, SHAM, TREATED, Group
from validation.verdict.words.wording import estimated

CONFIRMED, CONTRADICTED, OPEN = "confirmed", "contradicted", "open"
PAIR_MEASURES = {"pair_direction": DIRECTION, "pair_weights": WEIGHTS, "pair_outputs": OUTPUTS}
EXPLAINED = {CONFIRMED: "as expected", CONTRADICTED: "not as expected", OPEN: "open"}


@dataclass(frozen=True)
class Part:
    """The answer of one experiment: the status of its claim, or its difference to the other experiment."""

    experiment: str
    status: str
    because: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to a hypothesis: that of all its experiments together."""

    hypothesis: Hypothesis
    status: str
    parts: tuple[Part, ...]

    @property
    def because(self) -> str:
        """The answers of the experiments in words."""
        return "; ".join(part.because for part in self.parts) or "no run of its experiments is here"


def answer(
    hypothesis: Hypothesis,
    groups: Sequence[tuple[Group, Sequence[MeasuredRun]]],
    cohort: Cohort,
    thresholds: Thresholds,
) -> Answer:
    """Return the answer to a hypothesis from the groups of a verdict, each with its runs.

    It is open if an experiment has no run here or decides nothing.
    """
    chosen = [(group, runs) for group, runs in groups if _is_about(hypothesis, group, runs[0])]
    if hypothesis.claim:
        parts = [_of_claim(hypothesis, group) for group, _ in chosen]
    else:
        parts = [_of_effect(hypothesis, group, runs, groups, cohort, thresholds) for group, runs in chosen]
    statuses = {part.status for part in parts}
    status = CONTRADICTED if CONTRADICTED in statuses else OPEN if statuses != {CONFIRMED} else CONFIRMED
    return Answer(hypothesis, status, tuple(parts))


def _is_about(hypothesis: Hypothesis, group: Group, run: MeasuredRun) -> bool:
    """Return whether a hypothesis is about a group: it has the options, and is no control that they do not name."""
    options = run.run.config
    if not has_options(options, hypothesis.of):
        return False
    named_too: Mapping[str, frozenset[str]] = {SHAM: TREATMENT, POSITIVE: frozenset({GAIN})}
    return group.role in (TREATED, PEERS) or not named_too[group.role].isdisjoint(hypothesis.of)


def _of_claim(hypothesis: Hypothesis, group: Group) -> Part:
    claim = group.claim(hypothesis.claim)
    if claim is None:
        return Part(group.name, OPEN, f"{group.name}: not judged")
    opposite = {SUPPORTED: REFUTED, REFUTED: SUPPORTED}[hypothesis.expect]
    status = {hypothesis.expect: CONFIRMED, opposite: CONTRADICTED}.get(claim.status, OPEN)
    estimate = estimated(claim)
    because = f"{group.name}: {claim.name} is {claim.status}" + (f", {estimate}" if estimate else "")
    return Part(group.name, status, because, claim.estimate, claim.low, claim.high, claim.units)


def _of_effect(
    hypothesis: Hypothesis,
    group: Group,
    runs: Sequence[MeasuredRun],
    groups: Sequence[tuple[Group, Sequence[MeasuredRun]]],
    cohort: Cohort,
    thresholds: Thresholds,
) -> Part:
    """Return the difference of an effect between a group and the one that differs in the named options alone."""
    other = next(_partners(hypothesis, runs[0], groups), None)
    if other is None:
        return Part(group.name, OPEN, f"{group.name}: no run of {named(hypothesis.against)} is here")
    own, against = (dict(_values(hypothesis.effect, each, members, cohort)) for each, members in ((group, runs), other))
    seeds = sorted(own.keys() & against.keys())
    interval = student(np.array([own[seed] - against[seed] for seed in seeds]), thresholds.alpha)
    if interval.units < 2:
        because = f"{group.name}: {hypothesis.effect} is not measured in two seeds of both experiments"
        return Part(group.name, OPEN, because)
    sign = 1.0 if hypothesis.expect == "higher" else -1.0
    low, high = sorted((sign * interval.low, sign * interval.high))
    enough = interval.units >= thresholds.min_seeds
    status = CONFIRMED if low > hypothesis.by else CONTRADICTED if high < hypothesis.by else OPEN
    bounds = f"{interval.mid:+.3g} [{interval.low:+.3g}, {interval.high:+.3g}]"
    because = f"{group.name}: {bounds} against {other[0].name}, over {pluralize(interval.units, 'seed')}"
    return Part(
        group.name, status if enough else OPEN, because, interval.mid, interval.low, interval.high, interval.units
    )


def _partners(
    hypothesis: Hypothesis, run: MeasuredRun, groups: Sequence[tuple[Group, Sequence[MeasuredRun]]]
) -> Iterator[tuple[Group, Sequence[MeasuredRun]]]:
    """Yield the groups to compare with: of the options of `against`, and otherwise those of this run."""
    ignored = {*hypothesis.of, *hypothesis.against, GAIN, "seed"}

    def rest(of: MeasuredRun) -> dict[str, object]:
        return {name: value for name, value in of.run.config.items() if name not in ignored}

    for group, runs in groups:
        options = runs[0].run.config
        if has_options(options, hypothesis.against) and rest(runs[0]) == rest(run) and group.role != POSITIVE:
            yield group, runs


def _values(effect: str, group: Group, runs: Sequence[MeasuredRun], cohort: Cohort) -> Iterator[tuple[int, float]]:
    """Yield the seed and the effect of each valid run that has it."""
    by_run: Mapping[str, float] = {
        run: parts[effect] for values in group.values.values() for run, parts in values.items() if effect in parts
    }
    for each in runs:
        seed = each.run.seed
        value = _value(effect, each) if effect not in ("bottom", "size", "direction") else by_run.get(each.run.id)
        if seed is not None and value is not None and math.isfinite(value) and cohort.carries_verdict(each):
            yield seed, value


def _value(effect: str, each: MeasuredRun) -> float | None:
    if effect == "held_out_loss":
        return each.run.number("held_out_loss")
    if each.pairs is None:
        return None
    matrix_EE = each.pairs.last_third(PAIR_MEASURES[effect])
    known = matrix_EE[np.isfinite(matrix_EE)]
    return float(known.mean()) if len(known) else None
