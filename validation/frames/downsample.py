"""The number of points that each chart draws, and which: the extremes of each bucket; no spike is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from validation.analysis.run import Run
from validation.analysis.statistics import Array
from validation.files.run_file import RunFile
from validation.files.tables.tidy import by_expert

# Points of one line, at most. The Dynamics page:
MAX_POINTS = 1600
MIN_POINTS = 200  # however many lines there are
ALL_POINTS = 4_080  # of all lines together: the browser works on each of them whenever it draws
SMOOTH_POINTS = 200
HOVER_POINTS = 160  # each costs the browser the text of a tooltip, before anybody points at it
OVERVIEW_POINTS = 600
# Other pages and reports:
FINDING_POINTS = 500  # of the small chart beside a finding
CELL_POINTS = 150  # of an expert in one layer
MAX_FRAMES = 60  # of the heatmap of layers
COMPARED_POINTS = 60  # of a run beside other runs
SPARK_POINTS = 30  # of a run in the table of runs
REPORT_POINTS = 300  # an SVG of more is larger and no clearer

LINE_METRICS = (  # in alphabetical order, as the rows of chart_series are
    *("bottom_norm", "direction", "divergence", "middle_norm", "norm"),
    *("relative_divergence", "routing_weight", "top_norm"),
)
SMOOTH_WINDOW = 25  # logged rows that a running median spans at least
MEDIAN_SAMPLES = 101  # rows of a wider window that its median is taken of

Indices = NDArray[np.intp]


def chart_series(run: RunFile, points: int, steps: tuple[float, float] | None = None) -> pa.Table:
    """Return rows of expert, role, metric, step and value, ordered so, of all steps or of a range.

    Return all rows up to `points` per line, beyond that the smallest and the largest value of each bucket at their own
    steps. Missing values stay NULL; a bucket of missing values keeps its first step. SQL would group all rows by expert
    and bucket; one pass along each column takes a fraction of that time.
    """
    first, last = 0, len(run.wide)
    logged = np.asarray(run.wide["step"].to_numpy())
    if steps is not None:
        first, last = int(np.searchsorted(logged, steps[0])), int(np.searchsorted(logged, steps[1], side="right"))
    buckets, lines = _buckets(last - first, points), []
    for expert, role, rows in by_expert(run):
        for metric in LINE_METRICS:
            values = rows[metric].to_numpy()[first:last]
            lines.append((expert, role, metric, values, _extremes(values, buckets)))
    counts = [len(at) for *_, at in lines]
    roles = [*dict.fromkeys(role for _, role, *_ in lines)]
    columns = [
        pa.array(np.repeat(np.array([expert for expert, *_ in lines], np.int32), counts)),
        _named([roles.index(role) for _, role, *_ in lines], counts, roles),
        _named([LINE_METRICS.index(metric) for _, _, metric, *_ in lines], counts, LINE_METRICS),
        pa.array(logged[first:last][np.concatenate([*(at for *_, at in lines), np.empty(0, np.intp)])], pa.int64()),
        pa.array(np.concatenate([*(values[at] for *_, values, at in lines), np.empty(0)]), from_pandas=True),
    ]
    return pa.table(columns, ["expert", "role", "metric", "step", "value"])


def _named(codes: Sequence[int], counts: Sequence[int], names: Sequence[str]) -> pa.DictionaryArray:
    """Return names by their codes, each as often as its line has rows."""
    return pa.DictionaryArray.from_arrays(np.repeat(np.array(codes, np.int8), counts), pa.array(names, pa.string()))


def min_max_indices(values: NDArray[np.float64], points: int) -> Indices:
    """Return the indices of the values to draw: all up to `points`, beyond that both extremes of each bucket."""
    return _extremes(values, _buckets(len(values), points))


def min_max_rows(
    run: Run,
    points: int,
    steps: tuple[float, float] | None = None,
    *,
    metrics: Sequence[str] = LINE_METRICS,
    experts: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Return rows as chart_series does, from arrays: also of isolated gradients, or of some metrics and experts.

    The metric `loss` belongs to no expert; its rows have expert -1 and role "run".
    """

    def extremes(values: Array) -> tuple[Indices, Array]:
        at = min_max_indices(values, points)
        return at, values[at]

    return _frame(run, steps, metrics, experts, extremes)


def hover_rows(
    run: Run,
    points: int,
    steps: tuple[float, float] | None = None,
    *,
    metrics: Sequence[str] = LINE_METRICS,
    experts: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Return the same columns at evenly spaced rows, at most `points`, the same steps for every line."""

    def even(values: Array) -> tuple[Indices, Array]:
        at = _even(len(values), points)
        return at, values[at]

    return _frame(run, steps, metrics, experts, even)


def median_rows(
    run: Run,
    points: int,
    steps: tuple[float, float] | None = None,
    *,
    metrics: Sequence[str] = LINE_METRICS,
    experts: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Return the same columns at evenly spaced rows, each value the median of the rows around it.

    The window is SMOOTH_WINDOW rows, or the rows between three neighbouring points if those are more. The medians are
    for the eye only; no verdict uses them.
    """

    def medians(values: Array) -> tuple[Indices, Array]:
        at = _even(len(values), points)
        half = max(SMOOTH_WINDOW, 2 * len(values) // max(1, points)) // 2
        # A hundred evenly spaced rows of a wide window have nearly the same median.
        around = np.linspace(-half, half, min(2 * half + 1, MEDIAN_SAMPLES)).round().astype(np.intp)
        known = np.isfinite(values[at])  # a missing value stays missing, so that holes stay visible
        rows = at[known][:, None] + around
        inside = (rows >= 0) & (rows < len(values))
        near = np.where(inside, values[np.clip(rows, 0, max(0, len(values) - 1))], np.nan)
        found = np.full(len(at), np.nan)
        found[known] = np.nanmedian(np.where(np.isfinite(near), near, np.nan), axis=1)
        return at, found

    return _frame(run, steps, metrics, experts, medians)


def _even(rows: int, points: int) -> Indices:
    return np.unique(np.linspace(0, max(0, rows - 1), min(points, rows)).round().astype(np.intp))


def _frame(
    run: Run,
    steps: tuple[float, float] | None,
    metrics: Sequence[str],
    experts: Sequence[int] | None,
    pick: Callable[[Array], tuple[Indices, Array]],
) -> pd.DataFrame:
    """Return the picked rows of each line; pick returns indices and values of one line."""
    low, high = steps or (-np.inf, np.inf)
    part = slice(int(np.searchsorted(run.steps, low)), int(np.searchsorted(run.steps, high, side="right")))
    chosen = [run.experts[e] for e in (run.experts if experts is None else experts) if e in run.experts]
    lines = [(e.index, e.role, m, e[m][part]) for e in chosen for m in metrics if m != "loss"]
    lines += [(-1, "run", "loss", run.step_column("loss")[part])] if "loss" in metrics else []
    picked = [pick(values) for *_, values in lines]
    counts = [len(at) for at, _ in picked]
    at = np.concatenate([*(at for at, _ in picked), np.empty(0, np.intp)])
    columns = {
        name: np.repeat(np.array([line[place] for line in lines], dtype=object), counts)
        for place, name in enumerate(("expert", "role", "metric"))
    }
    return pd.DataFrame(
        {
            "expert": columns["expert"].astype(np.int16),
            "role": pd.Categorical(columns["role"]),
            "metric": pd.Categorical(columns["metric"]),
            "step": run.steps[part][at],
            "value": np.concatenate([*(values for _, values in picked), np.empty(0)]),
        }
    )


def gaps(steps: NDArray[np.int64], most: int = 200) -> Indices:
    """Return the rows before a gap of more than two missing rows; at most the `most` widest gaps.

    Compare each distance with the distances around it: a run may be logged often at first and rarely later, which is
    not a gap.
    """
    jumps = np.diff(steps.astype(np.float64))
    if len(jumps) < 3:
        return np.empty(0, np.intp)
    wide = np.flatnonzero(jumps > 2 * jumps.min())
    around = np.lib.stride_tricks.sliding_window_view(np.pad(jumps, 3, mode="edge"), 7)[wide]
    wide = wide[jumps[wide] > 2 * np.median(around, axis=1)]
    return np.sort(wide[np.argsort(-jumps[wide], kind="stable")[:most]])


def gap_spans(steps: NDArray[np.int64]) -> list[tuple[float, float]]:
    """Return the last step before and the first step after each gap."""
    before = gaps(steps)
    return list(zip(steps[before].astype(float).tolist(), steps[before + 1].astype(float).tolist(), strict=True))


def _buckets(rows: int, points: int) -> Indices | None:
    """Return the indices of the rows of each bucket, [buckets, rows of the largest]; None if every row is drawn.

    The sizes of buckets differ by one row at most. The smaller buckets repeat their last row.
    """
    if rows <= points:
        return None
    count = max(1, points // 2)
    ends = -(np.arange(1, count + 1) * -rows // count)  # the first index with index * count // rows in the next bucket
    starts = np.concatenate([[0], ends[:-1]])
    return np.asarray(np.minimum(starts[:, None] + np.arange((ends - starts).max()), ends[:, None] - 1))


def _extremes(values: NDArray[np.float64], buckets: Indices | None) -> Indices:
    """Return the indices of the smallest and the largest value of each bucket, sorted and unique; skip NaN."""
    if buckets is None:
        return np.arange(len(values))
    inside, missing, first = values[buckets], np.isnan(values), buckets[:, 0]
    if missing.all():
        return np.asarray(first)
    if missing.any():
        unknown = missing[buckets]
        low = _first_known(np.where(unknown, np.inf, inside).argmin(axis=1), unknown)
        high = _first_known(np.where(unknown, -np.inf, inside).argmax(axis=1), unknown)
    else:
        low, high = inside.argmin(axis=1), inside.argmax(axis=1)
    both = np.empty(2 * len(first), np.intp)
    np.add(first, np.minimum(low, high), out=both[::2])
    np.add(first, np.maximum(low, high), out=both[1::2])
    apart = low != high  # a bucket of equal values has one extreme
    if apart.all():
        return both
    distinct = np.ones(len(both), dtype=bool)
    distinct[1::2] = apart
    return both[distinct]


def _first_known(found: Indices, unknown: NDArray[np.bool_]) -> Indices:
    """Replace indices of missing values by the first known value: all known values are the same infinity there."""
    wrong = unknown[np.arange(len(found)), found]
    return np.where(wrong, (~unknown).argmax(axis=1), found)
