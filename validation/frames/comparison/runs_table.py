"""The table of all runs, its search and its order, and the letters of groups."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from validation.judgement.judge import Judgement
from validation.query.questions import ask

SEARCHED = ("run", "file", "verdict", "group", "kind", "merge", "routing")  # columns that a search looks through


def group_labels(count: int) -> list[str]:
    """Return unique short labels of groups: A to Z, then A1 to Z1, and so on."""
    return [chr(65 + place % 26) + (str(place // 26) if place >= 26 else "") for place in range(count)]


def runs_table(judgement: Judgement) -> pd.DataFrame:
    """Return one row per run with its options, its group, its role in the group and its verdict, from one query.

    Sham runs and positive controls have no verdict.
    """
    table: pd.DataFrame = ask(judgement.con, "runs_table").to_pandas()
    treated = [run for group in judgement.verdict.groups if not group.check for run in group.runs]
    verdicts = {run: judgement.verdict.status_of(run) for run in treated}
    named = zip(group_labels(len(judgement.verdict.groups)), judgement.verdict.groups, strict=True)
    groups = {run: (label, group.role.replace("_", " ")) for label, group in named for run in group.runs}
    table["verdict"] = table["run"].map(verdicts)
    table["group"] = table["run"].map({run: group for run, (group, _) in groups.items()})
    table["kind"] = table["run"].map({run: role for run, (_, role) in groups.items()})
    order = ["run", "verdict", "perturbation_scale", "seed", "group", "kind"]
    return table[[*order, *(name for name in table.columns if name not in order)]]


def filter_runs(table: pd.DataFrame, words: str, verdicts: Iterable[str], kinds: Iterable[str]) -> pd.DataFrame:
    """Return the runs that contain every word and have one of the verdicts and one of the kinds, if any are named."""
    kept = table
    for word in words.lower().split():
        found = [kept[name].astype(str).str.lower().str.contains(word, regex=False).to_numpy() for name in SEARCHED]
        kept = kept[np.logical_or.reduce(found)]
    for column, chosen in (("verdict", list(verdicts)), ("kind", list(kinds))):
        kept = kept[kept[column].isin(chosen)] if chosen else kept
    return kept


def sort_runs(table: pd.DataFrame, by: str, *, descending: bool) -> pd.DataFrame:
    """Return the runs sorted by a column, or in the order they were chosen if the table lacks that column."""
    if by in table:
        return table.sort_values(by, ascending=not descending, kind="stable")
    return table.iloc[::-1] if descending else table
