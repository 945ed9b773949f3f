"""Metrics that runs are compared by, over the steps: of each run, as means over groups, and as sparklines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd
from scipy import special

from validation.frames.downsample import COMPARED_POINTS, SPARK_POINTS
from validation.query.questions import ask


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
        "× expert 0",
        "Bottom-tier gradient norm divided by that of expert 0, routing share included",
        log=True,
    ),
    "divergence": ComparedMetric(
        "Divergence", "loss / weight", "The documented score, which scales with the loss and the routing share"
    ),
    "direction": ComparedMetric("Direction", "1 - cosine", "1 - cosine to the gradient of expert 0; 0 is parallel"),
    "routing": ComparedMetric(
        "Routing share",
        "share of the batch",
        "Mean share of the batch that a perturbed expert, or a peer, receives",
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
