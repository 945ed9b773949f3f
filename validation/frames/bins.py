"""The bins of time that the verdict compares, and the steps that it skips: warm-up, missing bins, not judged yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from prismatic.contract.schema import TIERS
from validation.analysis.effects import Levels
from validation.analysis.experiment import bins_judged
from validation.analysis.run import Run

LOG_METRICS = (*(f"{tier}_norm" for tier in TIERS), "norm")
"""Metrics whose logarithms the verdict compares, so that their means are geometric."""
BIN_METRICS = (*LOG_METRICS, "divergence", "direction", "routing_weight")


@dataclass(frozen=True, eq=False)
class VerdictBins:
    """The bins of a run, and its skipped steps."""

    skipped: tuple[tuple[float, float, str], ...]
    """First step, last step and reason of each skipped span."""
    means: pd.DataFrame
    """Rows of expert, metric, step (first of the bin), last (step) and value."""
    span: float
    """Distance from the first to the last step of the run."""


def verdict_bins(run: Run, levels: Levels, *, metrics: Sequence[str], experts: Sequence[int]) -> VerdictBins:
    """Return the bins of a run. levels: those of the run, from the same source of gradients."""
    rows = [
        row
        for expert in experts
        for metric in BIN_METRICS
        if metric in metrics
        for row in _means(run, levels, expert, metric)
    ]
    means = pd.DataFrame(rows, columns=["expert", "metric", "step", "last", "value"])
    span = float(run.steps[-1]) - float(run.steps[0])
    return VerdictBins(tuple(_skipped(run, levels)), means.astype({"metric": str, "value": float}), span)


def _skipped(run: Run, levels: Levels) -> Iterator[tuple[float, float, str]]:
    bins, judged = levels.bins, bins_judged([levels])
    first, last = float(run.steps[0]), float(run.steps[-1])
    if first < bins.edges[0]:
        yield first, min(float(bins.edges[0]), last), "warm-up"
    for k in np.flatnonzero(bins.missing_K[:judged]):
        yield float(bins.edges[k]), float(bins.edges[k + 1]), "too few rows"
    if bins.edges[judged] < last:
        yield float(bins.edges[judged]), last, "not judged yet"


def _means(run: Run, levels: Levels, expert: int, metric: str) -> Iterator[tuple[int, str, float, float, float]]:
    """Yield the mean of each judged bin that has enough rows."""
    log = metric in LOG_METRICS
    means_K = levels.bins.mean(run.experts[expert].log(metric) if log else run.experts[expert][metric])
    edges = levels.bins.edges
    for k in np.flatnonzero(np.isfinite(means_K[: bins_judged([levels])])):
        value = float(np.exp(means_K[k]) if log else means_K[k])
        yield expert, metric, float(edges[k]), float(edges[k + 1]), value
