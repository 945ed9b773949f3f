"""The batch means that the verdict compares, and the steps that it skips: warm-up, incomplete batch, not judged yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prismatic.contract.schema import TIERS
from prismatic.contract.thresholds import Thresholds
from validation.analysis.interim import interim_look
from validation.analysis.run import Run
from validation.analysis.statistics import BATCHES, batch_means

LOG_METRICS = (*(f"{tier}_norm" for tier in TIERS), "norm")
"""Metrics whose logarithms the verdict compares, so that their batch means are geometric."""
BATCH_METRICS = (*LOG_METRICS, "divergence", "direction", "routing_weight")


@dataclass(frozen=True, eq=False)
class VerdictBatches:
    """The batches of a run, and its skipped steps."""

    skipped: tuple[tuple[float, float, str], ...]
    """First step, last step and reason of each skipped span."""
    means: pd.DataFrame
    """Rows of expert, metric, step (first of the batch), last (step) and value."""
    span: float
    """Distance from the first to the last step of the run."""


def verdict_batches(
    run: Run, thresholds: Thresholds, *, metrics: Sequence[str] = BATCH_METRICS, experts: Sequence[int] | None = None
) -> VerdictBatches:
    """Return the batches of a run. A line with fewer usable rows than batches has no batches."""
    judged = interim_look(run, thresholds).run
    after = judged.after_warmup(thresholds.warmup)
    skipped = []
    if len(judged.steps) and not after.all():
        first = judged.steps[after][0] if after.any() else judged.steps[-1]
        skipped.append((float(judged.steps[0]), float(first), "warm-up"))
    numbers = [e for e in (judged.experts if experts is None else experts) if e in judged.experts]
    wanted = [metric for metric in BATCH_METRICS if metric in metrics]
    rows = [row for number in numbers for row in _expert_batches(judged, number, wanted, after)]
    columns = ["expert", "metric", "step", "last", "value"]
    means = pd.DataFrame(rows, columns=columns).astype({"metric": str, "value": float})
    if skipped and len(means) and (begin := float(means["step"].min())) > skipped[0][1]:
        skipped.append((skipped[0][1], begin, "too few rows to fill a batch"))
    if len(judged.steps) < len(run.steps):
        skipped.append((float(judged.steps[-1]), float(run.steps[-1]), "not judged yet"))
    span = float(run.steps[-1]) - float(run.steps[0]) if len(run.steps) else 0.0
    return VerdictBatches(tuple(skipped), means, span)


BatchRow = tuple[int, str, float, float, float]


def _expert_batches(run: Run, number: int, metrics: Sequence[str], after: NDArray[np.bool_]) -> Iterator[BatchRow]:
    """Yield the batches of an expert. Tier norms need all tiers of this and of the clean expert in each row."""
    expert, usable = run.experts[number], after
    if set(metrics) & set(LOG_METRICS):
        clean = run.experts[0].tiers_usable if 0 in run.experts else True
        usable = after & expert.tiers_usable & clean
    for metric in metrics:
        values = expert.log(metric) if metric in LOG_METRICS else expert[metric]
        kept = (usable if metric in LOG_METRICS[:-1] else after) & np.isfinite(values)
        if kept.sum() < BATCHES:
            continue
        means = batch_means(values[kept])
        size = int(kept.sum()) // BATCHES  # batch_means, too, drops the first rows that do not fill all batches
        ends = run.steps[kept][-size * BATCHES :].reshape(BATCHES, size)[:, [0, -1]].astype(float)
        level = np.exp(means) if metric in LOG_METRICS else means
        yield from ((number, metric, a, b, float(m)) for (a, b), m in zip(ends.tolist(), level, strict=True))
