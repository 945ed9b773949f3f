"""Rows of the Compare page: metrics over steps, group means, effects by dose, sham pairs, and the table of all runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd
from scipy import special

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import SCALE, Cohort, MeasuredRun
from validation.analysis.experiment import measure
from validation.analysis.intervals import student
from validation.frames.downsample import COMPARED_POINTS, SPARK_POINTS
from validation.judgement.judge import Judgement
from validation.query.questions import ask
from validation.verdict.claims import overall
from validation.verdict.dose_response import Dose
from validation.verdict.experiment_claims import values_of
from validation.verdict.words.wording import RATIO, UNITS, shown

SEARCHED = ("run", "file", "verdict", "group", "kind", "merge", "routing")  # columns that a search looks through


@dataclass(frozen=True)
class ComparedMetric:
    """A metric that runs are compared by."""

    title: str
    unit: str
    meaning: str
    log: bool = False
    """Values are natural logarithms of a ratio."""


COMPARED_METRICS = {
    "bottom": ComparedMetric(
        "Bottom norm ratio",
        "× clean expert",
        "Bottom-tier gradient norm divided by that of the clean expert, routing share included",
        log=True,
    ),
    "divergence": ComparedMetric(
        "Divergence", "loss / weight", "The documented score, which scales with the loss and the routing share"
    ),
    "direction": ComparedMetric(
        "Direction", "1 - cosine", "1 - cosine to the gradient of the clean expert; 0 is parallel"
    ),
    "routing": ComparedMetric(
        "Routing share", "share of the batch", "Mean share of the batch that a perturbed expert receives"
    ),
    "loss": ComparedMetric("Loss", "nats per token", "Training loss of the logged batches"),
}


def metric_series(
    con: duckdb.DuckDBPyConnection, runs: Sequence[str], *, points: int = COMPARED_POINTS, shared: bool = True
) -> pd.DataFrame:
    """Return rows of run, place (number of the window), middle (its step) and a column for each compared metric.

    shared: the windows of all runs are the same, so that runs can be averaged.
    """
    found = ask(con, "compare_series", runs=list(runs), points=points, shared=shared)
    table: pd.DataFrame = found.to_pandas()
    return table


def group_means(data: pd.DataFrame, group_of: Mapping[str, str], metric: str, *, alpha: float = 0.05) -> pd.DataFrame:
    """Return by group and window the mean over runs, low and high of Student's t interval, and the number of runs.

    The interval of a single run is NaN.
    """
    data = data.assign(group=data["run"].map(group_of)).dropna(subset=["group", metric])
    by_window = data.groupby(["group", "place", "middle"])[metric]
    table = by_window.agg(mean="mean", sd="std", runs="count").reset_index()
    runs = table["runs"].to_numpy()
    half = special.stdtrit(np.maximum(runs - 1, 1), 1 - alpha / 2) * table["sd"] / np.sqrt(runs)
    half = half.where(runs > 1)
    return table.assign(low=table["mean"] - half, high=table["mean"] + half).drop(columns="sd")


def sparklines(con: duckdb.DuckDBPyConnection, runs: Sequence[str], metric: str) -> pd.Series:
    """Return a list of at most SPARK_POINTS values of a metric by run, from one query for all runs."""
    data = metric_series(con, runs, points=SPARK_POINTS, shared=False).dropna(subset=[metric])
    shown = np.exp(data[metric]) if COMPARED_METRICS[metric].log else data[metric]
    lines: pd.Series = shown.groupby(data["run"]).agg(list)
    return lines


def dose_effects(dose: Dose, alpha: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the effects that Page's test compares, and their means over seeds with Student's interval.

    The first table has rows of scale, seed and value; the second of scale, mean, low, high and seeds (their number).
    """
    table_SD = np.array(dose.values)
    each = pd.DataFrame(table_SD, pd.Index(dose.seeds, name="seed"), pd.Index(dose.scales, name="scale"))
    means = [
        {"scale": scale, "mean": over.mid, "low": over.low, "high": over.high, "seeds": over.units}
        for scale, over in zip(dose.scales, (student(values_S, alpha) for values_S in table_SD.T), strict=True)
    ]
    return each.stack().rename("value").reset_index(), pd.DataFrame(means)


def sham_pair_rows(judgement: Judgement) -> pd.DataFrame:
    """Return a row for each treated run, its sham run with the same seed, and an effect that both have by themselves.

    An effect by itself is perturbed minus control experts in one run, before the sham run is subtracted.
    """
    thresholds = judgement.verdict.thresholds
    pairs = [(each, twin) for each in judgement.measured if (twin := judgement.cohort.twin_of(each.run)) is not None]
    rows = [
        {
            "run": each.run.id,
            "sham": twin.run.id,
            "seed": each.run.seed,
            "scale": each.run.number(f"config.{SCALE}"),
            "claim": claim,
            "effect": effect,
            "treated": shown(effect, value),
            "of the sham": shown(effect, untreated[claim, effect]),
            "unit": UNITS.get(effect, RATIO),
        }
        for each, twin in pairs
        for treated, untreated in [(_own_effects(each, thresholds), _own_effects(twin, thresholds))]
        for (claim, effect), value in treated.items()
        if (claim, effect) in untreated
    ]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["run", "sham", "claim"])


def _own_effects(each: MeasuredRun, thresholds: Thresholds) -> dict[tuple[str, str], float]:
    """Return by claim and effect what a run shows by itself, on the scale of its levels."""
    found = values_of(measure([each], Cohort([]), thresholds, {}))
    return {
        (claim, effect): value
        for claim, of_runs in found.items()
        for values in of_runs.values()
        for effect, value in values.items()
    }


def group_labels(count: int) -> list[str]:
    """Return unique short labels of groups: A to Z, then A1 to Z1, and so on."""
    return [chr(65 + place % 26) + (str(place // 26) if place >= 26 else "") for place in range(count)]


def runs_table(judgement: Judgement) -> pd.DataFrame:
    """Return one row per run with its options, its group, its role in the group and its verdict, from one query.

    Sham runs and positive controls have no verdict.
    """
    table: pd.DataFrame = ask(judgement.con, "runs_table").to_pandas()
    controlled = judgement.verdict.controlled
    treated = [run for group in judgement.verdict.groups if not group.check for run in group.runs]
    verdicts = {run: overall([claim.status for claim in controlled.of(run)]) for run in treated}
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
