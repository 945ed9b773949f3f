"""Cells of the Layers page: each measure's title, unit and value by layer, expert, tier and window of logged steps.

Differences are the series of the verdict (`analysis.series`), computed in each layer. Axis letters: T logged steps,
F frames (windows of equally many logged steps), E experts, K cells, or tiers of an expert.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd
import pyarrow.compute as pc
from numpy.typing import NDArray

from prismatic.contract.schema import TIERS
from validation.analysis import series
from validation.analysis.run import Run, columns_of
from validation.analysis.statistics import Array
from validation.files.run_file import RunFile
from validation.frames.downsample import CELL_POINTS, MAX_FRAMES
from validation.query.questions import ask

ALL_TIERS = "all tiers"
MAX_ROWS = 32  # experts of a heatmap with a row each; of more, neighbours share a row
GROUPS = 8  # rows of each tier then, and one for each other role: more cells take a browser too long


@dataclass(frozen=True)
class Measure:
    """A quantity of a layer that the heatmap can show."""

    title: str
    unit: str
    meaning: str
    centred: bool = True
    """0 means no difference from expert 0."""
    log: bool = True
    """Values are natural logarithms of ratios or norms."""


MEASURES = {
    "size": Measure(
        "Relative size",
        "× expert 0",
        "Gradient norm of the tier divided by that of expert 0, corrected for the routing shares",
    ),
    "bottom": Measure(
        "Bottom beyond middle",
        "× expert 0",
        "Gain of the bottom tier beyond the middle tier: the series of the claim awakening",
    ),
    "direction": Measure(
        "Direction",
        "1 - cosine",
        "1 - cosine between this expert's gradient and that of expert 0: 0 is parallel, 1 is at right angles",
        centred=False,
        log=False,
    ),
    "weights": Measure(
        "Weight distance",
        "share of |w|",
        "Distance between the weights of this expert and of expert 0, as a share of their norm, |w - w_0| / |w_0|; "
        "it is measured every weight_freq steps, and the last value stands until then",
        centred=False,
        log=False,
    ),
    "norm": Measure("Norm", "loss / weight", "Gradient norm of the tier, routing share included", centred=False),
}


BEYOND_MIDDLE = (
    "Gradient norm of the tier divided by that of expert 0, as a multiple of the same ratio of the middle tier"
)
"""The meaning of the relative size where no routing share corrects it."""


def meaning_of(measure: str, run: Run) -> str:
    """Return the meaning of a measure in a run: only where parameters are merged do routing shares correct sizes."""
    shares = any(np.isfinite(expert["routing_weight"]).any() for expert in run.experts.values())
    by_middle = measure == "size" and not (run.merges_parameters and shares)
    return BEYOND_MIDDLE if by_middle else MEASURES[measure].meaning


def layer_names(file: RunFile) -> list[int]:
    """Return the layer numbers of the file, in the order of `run.layers`."""
    numbers = {*pc.unique(file.layers["layer"]).to_pylist(), *pc.unique(file.packed_layers["layer"]).to_pylist()}
    return sorted(numbers - {None})


@dataclass(frozen=True, eq=False)
class HeatmapFrames:
    """The values of all cells of a heatmap in all frames."""

    cells: pd.DataFrame
    """One row per cell: layer, expert (the first of several), experts (their numbers in words), role, tier."""
    values_KF: Array
    """Mean over the steps of the frame, and over the experts of a cell; NaN without a finite value."""
    first_F: NDArray[np.int64]
    last_F: NDArray[np.int64]
    """First and last step of each frame."""
    first_of: Mapping[int, int]
    """By expert, the first expert of its cell: itself, unless neighbours share a cell."""

    @property
    def shared(self) -> int:
        """The most experts that share a cell."""
        return max(Counter(self.first_of.values()).values(), default=1)

    def at(self, frame: int) -> pd.DataFrame:
        """Return the cells with their value in one frame."""
        return self.cells.assign(value=self.values_KF[:, frame])


def heatmap_frames(run: Run, measure: str, names: list[int], most: int = MAX_FRAMES) -> HeatmapFrames:
    """Return a measure in every layer and frame. A short run has one logged step per frame.

    Of more than MAX_ROWS experts, neighbours of one role share a cell, the mean over them.
    """
    edges = _edges(len(run.steps), most)
    cells: list[tuple[int, int, str, str]] = []
    means = [np.empty((0, len(edges) - 1))]
    for place, layer in enumerate(names):
        tiers, numbers, values_KET = _of_layer(run, place, measure)
        cells += [(layer, expert, run.experts[expert].role, tier) for expert in numbers for tier in tiers]
        means.append(_means(values_KET, edges).swapaxes(0, 1).reshape(-1, len(edges) - 1))
    values_KF = np.concatenate(means)
    table = pd.DataFrame(cells, columns=["layer", "expert", "role", "tier"])
    first_of = _first_of({int(e): run.experts[int(e)].role for e in sorted(table["expert"].unique())})
    table, values_KF = _shared_cells(table, values_KF, first_of)
    return HeatmapFrames(table, values_KF, run.steps[edges[:-1]], run.steps[edges[1:] - 1], first_of)


def _first_of(roles: Mapping[int, str]) -> dict[int, int]:
    """Return by expert the first expert of its cell."""
    size = 1 if len(roles) <= MAX_ROWS else -(-len(roles) // GROUPS)
    found: dict[int, int] = {}
    for role in dict.fromkeys(roles.values()):
        own = [expert for expert, other in roles.items() if other == role]
        found |= {expert: own[place - place % size] for place, expert in enumerate(own)}
    return found


def _shared_cells(cells: pd.DataFrame, values_KF: Array, first_of: Mapping[int, int]) -> tuple[pd.DataFrame, Array]:
    """Return the cells with the mean over the experts that share one, in words."""
    members: dict[int, list[int]] = {}
    for expert, first in first_of.items():
        members.setdefault(first, []).append(expert)
    named = {first: f"{first}" if len(own) == 1 else f"{own[0]} to {own[-1]}" for first, own in members.items()}
    cells = cells.assign(expert=cells["expert"].map(first_of).astype(cells["expert"].dtype))
    if len(members) < len(first_of):
        keys = ["layer", "expert", "role", "tier"]
        frames = pd.DataFrame(values_KF).assign(**{key: cells[key] for key in keys})
        means = frames.groupby(keys, sort=False).mean().reset_index()
        cells, values_KF = means[keys], means.drop(columns=keys).to_numpy()
    return cells.assign(experts=cells["expert"].map(named)), values_KF


def color_range(values: Array, measure: str, margin: float) -> tuple[float, float]:
    """Return the values at both ends of the colour scale, the same for all frames, so that steps can be compared.

    Cut off the most extreme hundredth, so that one spike does not make the rest pale. A centred scale reaches at least
    to the margin, so that noise far below it stays pale.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return (-margin, margin) if MEASURES[measure].centred else (0.0, 1.0)
    if MEASURES[measure].centred:
        largest = max(float(np.quantile(np.abs(finite), 0.99)), margin)
        return -largest, largest
    if MEASURES[measure].log:
        low, high = (float(value) for value in np.quantile(finite, (0.01, 0.99)))
        return low, high if high > low else low + 1.0
    return 0.0, max(float(np.quantile(finite, 0.99)), margin)


def cell_rows(run: Run, measure: str, place: int, expert: int, most: int = CELL_POINTS) -> pd.DataFrame:
    """Return the series of one expert in one layer: rows of step, value (mean of a window), low, high and tier."""
    edges = _edges(len(run.steps), most)
    tiers, numbers, values_KET = _of_layer(run, place, measure, expert)
    if not numbers or len(edges) < 2:
        return pd.DataFrame(columns=["step", "value", "low", "high", "tier"])
    parts = []
    for tier, (values_T,) in zip(tiers, values_KET, strict=True):
        low, high = _extremes(values_T, edges)
        part = pd.DataFrame({"step": run.steps[edges[:-1]], "value": _means(values_T, edges)})
        parts.append(part.assign(low=low, high=high, tier=tier))
    return pd.concat(parts, ignore_index=True)


def histogram_rows(con: duckdb.DuckDBPyConnection, run: Run, layer: int, expert: int, tier: str) -> pd.DataFrame:
    """Return rows of step, last_step, bin (log2 of |gradient|) and share of the gradient entries of one tier."""
    found = ask(con, "cell_histogram", run=run.id, layer=layer, expert=expert, tier=tier, windows=MAX_FRAMES)
    table: pd.DataFrame = found.to_pandas()
    return table


def _of_layer(
    run: Run, place: int, measure: str, only: int | None = None
) -> tuple[Sequence[str], Sequence[int], Array]:
    """Return the tiers, the experts and their series of a measure in one layer, [K, E, T]; of all experts or one."""
    layer, tiers = run.layers[place], TIERS if measure in ("norm", "size") else (ALL_TIERS,)
    numbers = [e for e in layer if e in run.experts and only in (None, e)]
    if measure != "norm":  # all others are compared with expert 0
        numbers = [expert for expert in numbers if expert and 0 in layer]
    if not numbers:
        return tiers, numbers, np.empty((len(tiers), 0, len(run.steps)))
    if measure == "norm":
        found = [_log(columns_of(layer, numbers, f"{tier}_norm")) for tier in tiers]
    elif measure == "size":
        ratios = series.ratios_in_layer(run, layer, numbers)
        found = [ratios[tier] for tier in tiers]
    elif measure == "weights":
        found = [_last_known(columns_of(layer, numbers, "weight_distance"))]
    elif measure == "direction":
        found = [columns_of(layer, numbers, "direction")]
    else:
        found = [series.bottom_gains(layer, numbers)]
    return tiers, numbers, np.stack(found)


def _log(values_T: Array) -> Array:
    return np.asarray(np.log(np.where(values_T > 0, values_T, np.nan)))


def _last_known(values: Array) -> Array:
    """Return at each row, along the last axis, the newest finite value so far; NaN before the first."""
    if not values.shape[-1]:
        return values
    rows = np.where(np.isfinite(values), np.arange(values.shape[-1]), -1)
    place = np.maximum.accumulate(rows, axis=-1)
    return np.where(place >= 0, np.take_along_axis(values, np.maximum(place, 0), axis=-1), np.nan)


def _edges(rows: int, most: int) -> NDArray[np.int64]:
    """Return the first row of each of at most `most` windows, and the end of the last window."""
    return np.linspace(0, rows, min(rows, most) + 1).astype(np.int64)


def _means(values: Array, edges: NDArray[np.int64]) -> Array:
    """Return the mean of the finite values in each window of the last axis."""
    starts = edges[:-1]
    if not len(starts):
        return np.empty((*values.shape[:-1], 0))
    known = np.isfinite(values)
    counts = np.add.reduceat(known, starts, axis=-1, dtype=np.int64)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts, axis=-1)
    return np.asarray(np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0))


def _extremes(values_T: Array, edges: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the smallest and the largest finite value in each window."""
    starts = edges[:-1]
    finite_T = np.where(np.isfinite(values_T), values_T, np.nan)
    return np.fmin.reduceat(finite_T, starts), np.fmax.reduceat(finite_T, starts)
