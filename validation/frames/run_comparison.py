"""Rows of the Compare page: metrics over steps, group means, effects by dose, sham pairs, and the table of all runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd
from scipy import special

from validation.analysis.controls import options_of
from validation.analysis.run import Run
from validation.analysis.statistics import across_runs
from validation.frames.downsample import COMPARED_POINTS, SPARK_POINTS
from validation.judgement.judge import Judgement
from validation.query.questions import ask
from validation.verdict.claims import Claim, combine_statuses
from validation.verdict.dose_response import Dose
from validation.verdict.groups import POSITIVE, SCALE, Group

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


def dose_effects(dose: Dose, groups: Sequence[Group], runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the effects that Page's test compares, and their means over seeds.

    The first table has rows of scale, seed and value; the second of scale, mean, low, high and seeds (their number).
    """
    by_run = {run.id: run for run in runs}
    rows = []
    for group in groups:
        if group.options_beside_scale == dose.options and group.role != POSITIVE:
            for run_id, parts in group.values.get(dose.claim, {}).items():
                run = by_run[run_id]
                if run.seed in dose.seeds:
                    scale = run.number(f"config.{SCALE}") or 0.0
                    rows.append({"scale": scale, "seed": run.seed, "value": float(np.mean(list(parts.values())))})
    each = pd.DataFrame(rows).sort_values(["seed", "scale"], ignore_index=True)
    means = []
    for scale, values in each.groupby("scale")["value"]:
        over = across_runs(values.to_numpy())
        means.append({"scale": scale, "mean": over.mid, "low": over.low, "high": over.high, "seeds": len(values)})
    return each, pd.DataFrame(means).replace([np.inf, -np.inf], np.nan)


def sham_pair_rows(judgement: Judgement) -> pd.DataFrame:
    """Return a row for each treated run, its sham run and a claim whose estimates of both have the same unit.

    A sham run has the same options and the same seed, with nothing perturbed.
    """
    shams = {(options_of(run), run.seed): run.id for run in judgement.runs if run.is_sham and run.config}
    claims = {(c.run, c.name): c for c in judgement.verdict.controlled.claims if c.run and c.expert is None}
    rows = []
    for run in judgement.runs:
        sham = None if run.is_sham or run.seed is None or not run.config else shams.get((options_of(run), run.seed))
        if sham is not None:
            rows += [
                _pair(run, sham, claims[run.id, name], claims[sham, name])
                for name in ("awakening", "divergence")
                if claims[run.id, name].unit == claims[sham, name].unit
            ]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["run", "sham", "claim"])


def _pair(run: Run, sham: str, treated: Claim, untreated: Claim) -> dict[str, object]:
    return {
        "run": run.id,
        "sham": sham,
        "seed": run.seed,
        "scale": run.number(f"config.{SCALE}"),
        "claim": treated.name,
        "estimate": treated.estimate,
        "low": treated.low,
        "high": treated.high,
        "of the sham": untreated.estimate,
        "unit": treated.unit,
        "threshold": treated.threshold,
        "status": treated.status,
        "compared to": (treated.control or "nothing").replace("_", " "),
    }


def group_labels(count: int) -> list[str]:
    """Return unique short labels of groups: A to Z, then A1 to Z1, and so on."""
    return [chr(65 + place % 26) + (str(place // 26) if place >= 26 else "") for place in range(count)]


def runs_table(judgement: Judgement) -> pd.DataFrame:
    """Return one row per run with its options, its group, its role in the group and its verdict, from one query."""
    table: pd.DataFrame = ask(judgement.con, "runs_table").to_pandas()
    statuses: dict[str, dict[str, str]] = {}
    for claim in judgement.verdict.controlled.claims:
        if claim.run and claim.expert is None:
            statuses.setdefault(claim.run, {})[claim.name] = claim.status
    verdicts = {run: combine_statuses(list(own.values())) for run, own in statuses.items()}
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
