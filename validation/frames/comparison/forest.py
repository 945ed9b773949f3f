"""Rows of the forest plot of one effect: a heading for each group, its runs, and its estimate over the seeds.

Values lie on the scale of the axis: logs of factors, or 1 - cosine. The axis depends on the margin in round steps, so
that pictures of different runs compare; what lies beyond is drawn at its edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from validation.analysis.effects import DIRECTION, TWO_SIDED
from validation.analysis.experiment import margin_of
from validation.analysis.intervals import Interval
from validation.judgement.judge import Judgement
from validation.text import pluralize, spaced
from validation.verdict.claims import DISTINCT, Claim, Component
from validation.verdict.groups import PEERS, ROLES, TREATED, Group
from validation.verdict.words.statuses import shown_claim, shown_group
from validation.verdict.words.wording import PAIRS, measured

HEADING, RUN, POOLED, MORE = "heading", "run", "pooled", "more"
COLUMNS = ("place", "kind", "role", "label", "text", "run", "value", "low", "high", "below", "above")
LEAST_MARGINS = 4  # that the axis shows on each side
FACTORS = (1.2, 1.5, 2.0, 4.0, 10.0, 100.0)  # at the ends of an axis of factors
DISTANCES = (0.1, 0.2, 0.5, 1.0, 2.0)  # at the ends of an axis of 1 - cosine
DIFFERENCES = (DIRECTION, PAIRS)  # effects that are differences of directions, not factors
SAME = 1e-6  # largest difference of two numbers that are the same measurement


@dataclass(frozen=True)
class Forest:
    """The forest plot of one effect."""

    effect: str
    rows: pd.DataFrame
    """A row for each line of the picture. value, low, high: NaN where there is none, and at most at the edge, where
    below and above say that the point or its interval goes beyond."""
    edge: float
    """The axis goes from minus this value to this value."""
    margin: float
    two_sided: bool
    """True if the effect counts on both sides of no effect."""

    @property
    def is_factor(self) -> bool:
        """True if values are logs of factors."""
        return self.effect not in DIFFERENCES


def effects_of(groups: Sequence[Group], claim: str) -> list[str]:
    """Return the effects of a claim that some group has measured, in the order of the claim."""
    return list(dict.fromkeys(part.name for group in groups for part in _claim(group, claim).components))


def in_order(groups: Sequence[Group]) -> list[Group]:
    """Return the groups by their roles, as in ROLES, and then by their options, numbers by value."""
    return sorted(groups, key=lambda group: (ROLES.index(group.role), [*map(_by_value, group.options.values())]))


def forest(
    judgement: Judgement, groups: Sequence[Group], claim: str, effect: str, *, most_runs: int | None = None
) -> Forest:
    """Return the forest plot of an effect over these groups. most_runs: of each group; the others are counted."""
    seeds = {run.id: run.seed for run in judgement.runs}
    lines: list[dict[str, object]] = []
    for group in groups:
        lines += [_heading(group, claim), *_runs(judgement, group, claim, effect, seeds, most_runs)]
        lines.append(_pooled(group, claim, effect))
    margin = margin_of(DIRECTION if effect == PAIRS else effect, judgement.verdict.thresholds)
    rows = pd.DataFrame(lines, columns=COLUMNS).assign(place=range(len(lines)))
    rows = rows.astype(dict.fromkeys(("value", "low", "high"), float))
    edge = _edge(effect, margin, rows[rows["kind"] == POOLED])
    return Forest(effect, _within(rows, edge), edge, margin, effect in TWO_SIDED)


def _heading(group: Group, claim: str) -> dict[str, object]:
    shown = shown_group(group) if group.check else shown_claim(_claim(group, claim))
    name = group.name if group.role in (TREATED, PEERS) else f"{group.name}, {spaced(group.role)}"
    return {"kind": HEADING, "role": group.role, "label": "", "text": "", "run": f"{name}: {shown.word}"}


def _runs(
    judgement: Judgement,
    group: Group,
    claim: str,
    effect: str,
    seeds: dict[str, int | None],
    most: int | None,
) -> Iterator[dict[str, object]]:
    """Yield a line for each run of a group by seed, and one with the number of those left out. A lone run has none."""
    values = {run: parts[effect] for run, parts in group.values.get(claim, {}).items() if effect in parts}
    if len(group.runs) < 2 or most == 0:
        return
    names = sorted(values, key=lambda run: (seeds[run] is None, seeds[run] or 0, run))
    for run in names[:most]:
        own = _interval(_of_run(judgement, run, claim), effect)
        alike = own is not None and abs(own.mid - values[run]) <= SAME
        interval = own if own is not None and alike else Interval(values[run], -math.inf, math.inf, 1)
        label = f"run {run}" if seeds[run] is None else f"seed {seeds[run]}"
        yield _line(RUN, group.role, label, run, effect, interval)
    if left := len(names) - len(names[:most]):
        yield {"kind": MORE, "role": group.role, "label": f"{left:,} more", "text": "", "run": ""}


def _pooled(group: Group, claim: str, effect: str) -> dict[str, object]:
    """Return the line of a group's estimate."""
    found = _claim(group, claim)
    count = pluralize(found.units or len(group.runs), "seed") if len(group.runs) > 1 else "this run"
    return _line(POOLED, group.role, count, group.name, effect, _interval(found, effect))


def _line(kind: str, role: str, label: str, run: str, effect: str, interval: Interval | None) -> dict[str, object]:
    line: dict[str, object] = {"kind": kind, "role": role, "label": label, "run": run}
    if interval is None:
        return line | {"text": "not measured"}
    ends = {"low": interval.low, "high": interval.high} if interval.bounded else {}
    return line | {"text": measured(effect, interval, signed=True), "value": interval.mid, **ends}


def _claim(group: Group, name: str) -> Claim:
    return group.claim(name) or group.claims[0]


def _of_run(judgement: Judgement, run: str, name: str) -> Claim:
    verdict = judgement.verdict
    return (verdict.distinct if name == DISTINCT else verdict.controlled).whole(run)[name]


def _interval(claim: Claim, effect: str) -> Interval | None:
    """Return an effect of a claim on the scale of the axis; None if it was not measured."""
    part = next((part for part in claim.components if part.name == effect), None)
    if part is None or part.estimate is None:
        return None
    low, high = _level(part, part.low, -math.inf), _level(part, part.high, math.inf)
    return Interval(_level(part, part.estimate, math.nan), low, high, claim.units or 0)


def _level(part: Component, value: float | None, missing: float) -> float:
    if value is None:
        return missing
    return value if part.name in DIFFERENCES else math.log(value) if value > 0 else -math.inf


def _edge(effect: str, margin: float, pooled: pd.DataFrame) -> float:
    """Return the first round end of the axis that shows some margins and the estimates of treated groups, or the last.

    A positive control may be at the edge: its effect is as large as someone made it.
    """
    treated = pooled.loc[pooled["role"] == TREATED, "value"] if (pooled["role"] == TREATED).any() else pooled["value"]
    steps = DISTANCES if effect in DIFFERENCES else [math.log(factor) for factor in FACTORS]
    needed = max(LEAST_MARGINS * margin, float(treated.abs().max()) if treated.notna().any() else 0.0)
    return next((step for step in steps if step >= needed), steps[-1])


def _within(rows: pd.DataFrame, edge: float) -> pd.DataFrame:
    """Return the rows with everything beyond the axis moved to its edge."""
    reach = rows[["value", "low", "high"]]
    clipped = {name: reach[name].clip(-edge, edge) for name in reach}
    return rows.assign(below=reach.min(axis=1) < -edge, above=reach.max(axis=1) > edge, **clipped)


def _by_value(option: str) -> tuple[int, float, str]:
    try:
        return 0, float(option), option
    except ValueError:
        return 1, 0.0, option
