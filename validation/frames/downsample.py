"""What a chart of one run draws: every metric of every expert, downsampled so that no spike is lost.

`chart_series` is the same as the question of that name, in a fraction of its time: one walk along each column finds
both extremes of each bucket, where SQL groups all rows by expert and bucket first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from validation.analysis.run import Run
from validation.analysis.statistics import Array
from validation.files.run_file import RunFile
from validation.files.tidy import by_expert

METRICS = (  # as an answer is ordered
    *("bottom_norm", "direction", "divergence", "middle_norm", "norm"),
    *("relative_divergence", "routing_weight", "top_norm"),
)
Places = NDArray[np.intp]
WINDOW = 25  # logged rows that a running median spans at least
SAMPLED = 101


def chart_series(run: RunFile, points: int, steps: tuple[float, float] | None = None) -> pa.Table:
    """Rows of expert, role, metric, step and value, by expert, metric and step; of all steps, or of a range of them.

    All rows up to `points` per series, beyond that the smallest and the largest value of each bucket at the steps where
    they were. Missing values stay, as NULL: a bucket without any value is one at its first step.
    """
    first, last = 0, len(run.wide)
    if steps is not None:
        found = np.asarray(run.wide["step"].to_numpy())
        first, last = int(np.searchsorted(found, steps[0])), int(np.searchsorted(found, steps[1], side="right"))
    parts = ((expert, role, rows.slice(first, last - first)) for expert, role, rows in by_expert(run))
    return pa.concat_tables([_NOTHING, *(_of_expert(*part, points) for part in parts)])


_NOTHING = pa.table(
    {
        "expert": pa.array([], pa.int32()),
        "role": pa.array([], pa.string()),
        "metric": pa.array([], pa.string()),
        "step": pa.array([], pa.int64()),
        "value": pa.array([], pa.float64()),
    }
)


def places(values: NDArray[np.float64], points: int) -> Places:
    """Which of the values to draw: all up to `points`, beyond that both extremes of each bucket."""
    return _extremes(values, _buckets(len(values), points))


def drawn(
    run: Run,
    points: int,
    steps: tuple[float, float] | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    experts: Sequence[int] | None = None,
) -> pd.DataFrame:
    """The same of a run's arrays, also of its isolated probe, and only of some metrics and experts.

    `loss` may be among the metrics: it belongs to no expert, and is one's of number -1 with the role "run".
    """

    def extremes(values: Array) -> tuple[Places, Array]:
        at = places(values, points)
        return at, values[at]

    return _frame(run, steps, metrics, experts, extremes)


def read_off(
    run: Run,
    points: int,
    steps: tuple[float, float] | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    experts: Sequence[int] | None = None,
) -> pd.DataFrame:
    """The same columns at evenly spaced rows, at most `points`, alike for every series: what a pointer reads."""

    def even(values: Array) -> tuple[Places, Array]:
        at = _even(len(values), points)
        return at, values[at]

    return _frame(run, steps, metrics, experts, even)


def smoothed(
    run: Run,
    points: int,
    steps: tuple[float, float] | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    experts: Sequence[int] | None = None,
) -> pd.DataFrame:
    """The same columns at evenly spaced rows, with the median of the rows around each: a spike moves it little.

    Of `WINDOW` rows, or as many more as lie between two of the spaced rows. For the eye: no verdict is fed with it.
    """

    def medians(values: Array) -> tuple[Places, Array]:
        at = _even(len(values), points)
        half = max(WINDOW, 2 * len(values) // max(1, points)) // 2
        # Of very many rows a hundred, evenly spaced, have hardly another median.
        around = np.linspace(-half, half, min(2 * half + 1, SAMPLED)).round().astype(np.intp)
        known = at[np.isfinite(values[at])]  # and nothing where there is no value: a hole stays one
        spots = known[:, None] + around
        inside = (spots >= 0) & (spots < len(values))
        near = np.where(inside, values[np.clip(spots, 0, max(0, len(values) - 1))], np.nan)
        found = np.full(len(at), np.nan)
        found[np.isfinite(values[at])] = np.nanmedian(np.where(np.isfinite(near), near, np.nan), axis=1)
        return at, found

    return _frame(run, steps, metrics, experts, medians)


def _even(rows: int, points: int) -> Places:
    return np.unique(np.linspace(0, max(0, rows - 1), min(points, rows)).round().astype(np.intp))


def _frame(
    run: Run,
    steps: tuple[float, float] | None,
    metrics: Sequence[str],
    experts: Sequence[int] | None,
    pick: Callable[[Array], tuple[Places, Array]],
) -> pd.DataFrame:
    low, high = steps or (-np.inf, np.inf)
    part = slice(int(np.searchsorted(run.steps, low)), int(np.searchsorted(run.steps, high, side="right")))
    chosen = [run.experts[e] for e in (run.experts if experts is None else experts) if e in run.experts]
    series = [(e.index, e.role, m, e[m][part]) for e in chosen for m in metrics if m != "loss"]
    series += [(-1, "run", "loss", run.step_column("loss")[part])] if "loss" in metrics else []
    found = [pick(values) for *_, values in series]
    counts = [len(at) for at, _ in found]
    at = np.concatenate([*(at for at, _ in found), np.empty(0, np.intp)])
    columns = {
        name: np.repeat(np.array([one[place] for one in series], dtype=object), counts)
        for place, name in enumerate(("expert", "role", "metric"))
    }
    return pd.DataFrame(
        {
            "expert": columns["expert"].astype(np.int16),
            "role": pd.Categorical(columns["role"]),
            "metric": pd.Categorical(columns["metric"]),
            "step": run.steps[part][at],
            "value": np.concatenate([*(values for _, values in found), np.empty(0)]),
        }
    )


def gaps(steps: NDArray[np.int64], most: int = 200) -> NDArray[np.intp]:
    """The rows after which more than two are missing, going by the rows around them; the widest ones only.

    By the rows around: a run may be logged often at first and rarely later, which is no gap.
    """
    jumps = np.diff(steps.astype(np.float64))
    if len(jumps) < 3:
        return np.empty(0, np.intp)
    wide = np.flatnonzero(jumps > 2 * jumps.min())
    around = np.lib.stride_tricks.sliding_window_view(np.pad(jumps, 3, mode="edge"), 7)[wide]
    wide = wide[jumps[wide] > 2 * np.median(around, axis=1)]
    return np.sort(wide[np.argsort(-jumps[wide], kind="stable")[:most]])


def _of_expert(expert: int, role: str, rows: pa.Table, points: int) -> pa.Table:
    """The long rows of one expert's rows by step."""
    buckets, found = _buckets(len(rows), points), {}
    for metric in METRICS:
        values = rows[metric].to_numpy()
        found[metric] = values, _extremes(values, buckets)
    drawn = np.concatenate([places for _, places in found.values()])
    names = np.repeat(np.arange(len(found)), [len(places) for _, places in found.values()])
    return pa.table(
        [
            pa.repeat(pa.scalar(expert, pa.int32()), len(drawn)),
            pa.repeat(pa.scalar(role), len(drawn)),
            pa.array(METRICS).take(pa.array(names)),
            rows["step"].to_numpy()[drawn],
            pa.array(np.concatenate([values[places] for values, places in found.values()]), from_pandas=True),
        ],
        schema=_NOTHING.schema,
    )


def _buckets(rows: int, points: int) -> Places | None:
    """The places of the rows of each bucket, [buckets, rows of the largest]; None where every row is drawn.

    Buckets differ by one row at most: the smaller ones have their last row twice.
    """
    if rows <= points:
        return None
    count = max(1, points // 2)
    ends = -(np.arange(1, count + 1) * -rows // count)  # the first place of which place * count // rows is the next one
    starts = np.concatenate([[0], ends[:-1]])
    return np.asarray(np.minimum(starts[:, None] + np.arange((ends - starts).max()), ends[:, None] - 1))


def _extremes(values: NDArray[np.float64], buckets: Places | None) -> Places:
    """The places of the smallest and the largest value of each bucket, in order, each once; NaN is no value."""
    if buckets is None:
        return np.arange(len(values))
    inside, nothing = values[buckets], np.isnan(values)
    if nothing.any():
        unknown = nothing[buckets]
        low = _first(np.where(unknown, np.inf, inside).argmin(axis=1), unknown)
        high = _first(np.where(unknown, -np.inf, inside).argmax(axis=1), unknown)
    else:
        low, high = inside.argmin(axis=1), inside.argmax(axis=1)
    row = np.arange(len(buckets))
    low, high = buckets[row, low], buckets[row, high]
    both = np.stack([np.minimum(low, high), np.maximum(low, high)], axis=1).reshape(-1)
    return both[np.diff(both, prepend=-1) > 0]  # buckets stand one after the other: only within one can both be alike


def _first(found: Places, unknown: NDArray[np.bool_]) -> Places:
    """`found`, but the first known value where that is none: all the known ones are the same infinity then."""
    wrong = unknown[np.arange(len(found)), found]
    return np.where(wrong, (~unknown).argmax(axis=1), found)
