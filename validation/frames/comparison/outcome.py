"""Rows of the outcome: the difference in held-out loss of each seed, and the mean of each group with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from validation.analysis.intervals import Interval
from validation.verdict.groups import Group

PAIRS = ("line", "group", "role", "seed", "run", "twin", "of_run", "of_twin", "difference")
MEANS = ("line", "role", "mean", "low", "high", "text")


def outcome_rows(groups: Sequence[Group]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row for each pair of a run and its twin, and a row for each group over its seeds, in nats.

    line: the place of the group and its name, which may be that of another group. Groups without an outcome have none.
    """
    found = [(group, group.outcome) for group in groups if group.outcome is not None]
    pairs, means = [], []
    for place, (group, outcome) in enumerate(found):
        named = {"line": f"{place:05} {group.name}", "role": group.role}
        pairs += [
            {**named, "group": group.name, **asdict(pair), "difference": pair.difference} for pair in outcome.pairs
        ]
        over = outcome.interval
        means.append({**named, "mean": over.mid, "low": over.low, "high": over.high, "text": _signed(over)})
    return pd.DataFrame(pairs, columns=PAIRS), pd.DataFrame(means, columns=MEANS)


def _signed(over: Interval) -> str:
    """Return a difference with its interval, on the side of zero where the axis has it: "-0.004 [-0.017, +0.009]"."""
    mid, low, high = (f"{round(value, 3) + 0.0:+.3f}" for value in (over.mid, over.low, over.high))
    return f"{mid} [{low}, {high}]"
