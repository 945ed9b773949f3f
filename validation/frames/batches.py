"""What the verdict sees of the lines of a chart: the steps it leaves out, the means of the batches of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prismatic.contract.schema import TIERS
from prismatic.contract.thresholds import Thresholds
from validation.analysis.interim import at_look
from validation.analysis.run import Run
from validation.analysis.statistics import BATCHES, batch_means

LOGGED = (*(f"{tier}_norm" for tier in TIERS), "norm")
"""Metrics of which the verdict compares logarithms: their batch means are geometric ones."""
MEANS = (*LOGGED, "divergence", "direction", "routing_weight")


@dataclass(frozen=True, eq=False)
class Counted:
    """left_out: first step, last step, why. batches: rows of expert, metric, step and last (of a batch), and value.

    whole: from the first step to the last.
    """

    left_out: tuple[tuple[float, float, str], ...]
    batches: pd.DataFrame
    whole: float


def counted(
    run: Run, thresholds: Thresholds, *, metrics: Sequence[str] = MEANS, experts: Sequence[int] | None = None
) -> Counted:
    """Of one source of gradients. A series with fewer usable rows than batches has no batches."""
    seen = at_look(run, thresholds).run
    after = seen.after_warmup(thresholds.warmup)
    spans = []
    if len(seen.steps) and not after.all():
        first = seen.steps[after][0] if after.any() else seen.steps[-1]
        spans.append((float(seen.steps[0]), float(first), "warm-up"))
    numbers = [e for e in (seen.experts if experts is None else experts) if e in seen.experts]
    rows = [row for number in numbers for row in _of_expert(seen, number, [m for m in MEANS if m in metrics], after)]
    columns = ["expert", "metric", "step", "last", "value"]
    batches = pd.DataFrame(rows, columns=columns).astype({"metric": str, "value": float})
    if spans and len(batches) and (begin := float(batches["step"].min())) > spans[0][1]:
        spans.append((spans[0][1], begin, "too few rows to fill a batch"))
    if len(seen.steps) < len(run.steps):
        spans.append((float(seen.steps[-1]), float(run.steps[-1]), "not judged yet"))
    return Counted(tuple(spans), batches, float(run.steps[-1]) - float(run.steps[0]) if len(run.steps) else 0.0)


Row = tuple[int, str, float, float, float]


def _of_expert(run: Run, number: int, metrics: Sequence[str], after: NDArray[np.bool_]) -> Iterator[Row]:
    """The batches of each line: of tiers only the rows in which both this and the clean expert have all of them."""
    expert, usable = run.experts[number], after
    if set(metrics) & set(LOGGED):
        clean = run.experts[0].tiers_usable if 0 in run.experts else True
        usable = after & expert.tiers_usable & clean
    for metric in metrics:
        values = expert.log(metric) if metric in LOGGED else expert[metric]
        kept = (usable if metric in LOGGED[:-1] else after) & np.isfinite(values)
        if kept.sum() < BATCHES:
            continue
        means = batch_means(values[kept])
        size = int(kept.sum()) // BATCHES  # as batch_means does: the beginning is dropped that does not fill them
        ends = run.steps[kept][-size * BATCHES :].reshape(BATCHES, size)[:, [0, -1]].astype(float)
        level = np.exp(means) if metric in LOGGED else means
        yield from ((number, metric, a, b, float(m)) for (a, b), m in zip(ends.tolist(), level, strict=True))
