"""What a heatmap of layers shows: one number for each layer, expert, tier and window of logged steps.

Differences are the verdict's own series (`analysis.series`), taken in each layer. Axis letters: T logged steps,
F frames, which are windows of equally many logged steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pandas as pd
import pyarrow.compute as pc
from numpy.typing import NDArray

from prismatic.contract.schema import TIERS
from validation.analysis import series
from validation.analysis.run import Run
from validation.analysis.statistics import Array
from validation.files.run_file import RunFile
from validation.query.questions import ask

MOST_FRAMES = 60
MOST_POINTS = 300
ALL_TIERS = "all tiers"


@dataclass(frozen=True)
class Measure:
    """Something that can be shown of a layer. centred: 0 is no difference; log: a ratio, kept as its logarithm."""

    title: str
    unit: str
    meaning: str
    centred: bool = True
    log: bool = True
    tiers: bool = True
    clean: bool = False
    """Whether expert 0 has it too: differences are taken from it."""


MEASURES = {
    "size": Measure(
        "Relative size", "× clean expert", "Gradient norm of the tier over expert 0's, beyond the shares of a router"
    ),
    "bottom": Measure(
        "Bottom beyond middle",
        "× clean expert",
        "What the bottom tier gained beyond the middle tier: the series of awakening",
        tiers=False,
    ),
    "direction": Measure(
        "Direction",
        "1 - cosine",
        "1 - cosine between this expert's gradient and expert 0's: 0 is parallel, 1 is at right angles",
        centred=False,
        log=False,
        tiers=False,
    ),
    "norm": Measure("Norm", "loss / weight", "Gradient norm of the tier, share included", centred=False, clean=True),
}


def seen_by(run: Run, source: str) -> Run:
    """The run as one source of gradients shows it: merged, or isolated where the probe has measured."""
    return run.isolated if source == "isolated" and run.isolated is not None else run


def layer_names(file: RunFile) -> list[int]:
    """The numbers that the file gives to its layers, in the order of `run.layers`."""
    return sorted(layer for layer in pc.unique(file.layers["layer"]).to_pylist() if layer is not None)


@dataclass(frozen=True, eq=False)
class Frames:
    """Every cell (K) of a heatmap at every frame (F)."""

    cells: pd.DataFrame
    """A row per cell: layer, expert, role, tier."""
    values_KF: Array
    """The mean over the frame's steps; NaN where none of them has a finite value."""
    first_F: NDArray[np.int64]
    last_F: NDArray[np.int64]
    """The first and the last step of each frame."""

    def at(self, frame: int) -> pd.DataFrame:
        """The cells with their value in one frame."""
        return self.cells.assign(value=self.values_KF[:, frame])


def frames(run: Run, measure: str, names: list[int], most: int = MOST_FRAMES) -> Frames:
    """A measure in every layer; a frame is one logged step where there are few, else a window of them."""
    edges = _edges(len(run.steps), most)
    found = [
        ((layer, expert, run.experts[expert].role, tier), _means(values_T, edges))
        for place, layer in enumerate(names)
        for expert, tier, values_T in _of_layer(run, place, measure)
        if expert in run.experts
    ]
    cells = pd.DataFrame([cell for cell, _ in found], columns=["layer", "expert", "role", "tier"])
    values_KF = np.stack([values for _, values in found]) if found else np.empty((0, len(edges) - 1))
    return Frames(cells, values_KF, run.steps[edges[:-1]], run.steps[edges[1:] - 1])


def reach(values: Array, measure: str, margin: float) -> tuple[float, float]:
    """From where to where the colours of all frames go: the same for every step, so that steps can be compared.

    The most extreme hundredth is cut off, so that one spike does not bleach the rest; and noise far below the margin
    that a difference is asked for stays pale.
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


def of_cell(run: Run, measure: str, place: int, expert: int, most: int = MOST_POINTS) -> pd.DataFrame:
    """The series of one expert in one layer: rows of step, tier, value (mean of the window), low and high in it."""
    edges = _edges(len(run.steps), most)
    parts = []
    for number, tier, values_T in _of_layer(run, place, measure):
        if number == expert and len(edges) > 1:
            low, high = _extremes(values_T, edges)
            part = pd.DataFrame({"step": run.steps[edges[:-1]], "value": _means(values_T, edges)})
            parts.append(part.assign(low=low, high=high, tier=tier))
    return (
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["step", "value", "low", "high", "tier"])
    )


def histogram(con: duckdb.DuckDBPyConnection, run: Run, layer: int, expert: int, tier: str) -> pd.DataFrame:
    """Rows of step, last_step, bin (log2 of |gradient|), share: of the entries of one tier by size, over time."""
    found = ask(con, "cell_histogram", run=run.id, layer=layer, expert=expert, tier=tier, windows=MOST_FRAMES)
    table: pd.DataFrame = found.to_pandas()
    return table


def _of_layer(run: Run, place: int, measure: str) -> Iterator[tuple[int, str, Array]]:
    """Expert, tier and series, of one layer."""
    layer = run.layers[place]
    if measure == "norm":
        for number, expert in layer.items():
            for tier in TIERS:
                yield number, tier, _log(expert[f"{tier}_norm"])
        return
    if 0 not in layer:
        return
    one_layer = replace(run, layers=[layer])
    for number, expert in layer.items():
        if number == 0:
            continue
        if measure == "size":
            for tier, values_T in series.adjusted(one_layer, number).items():
                yield number, tier, values_T
        else:
            yield number, ALL_TIERS, expert["direction"] if measure == "direction" else series.did(expert, layer[0])


def _log(values_T: Array) -> Array:
    return np.asarray(np.log(np.where(values_T > 0, values_T, np.nan)))


def _edges(rows: int, most: int) -> NDArray[np.int64]:
    """Where each of at most so many windows begins, and where the last one ends."""
    return np.linspace(0, rows, min(rows, most) + 1).astype(np.int64)


def _means(values_T: Array, edges: NDArray[np.int64]) -> Array:
    """The mean of the finite values in each window."""
    known = np.isfinite(values_T)
    starts = edges[:-1]
    counts = np.add.reduceat(known, starts, dtype=np.int64) if len(starts) else np.empty(0)
    sums = np.add.reduceat(np.where(known, values_T, 0.0), starts) if len(starts) else np.empty(0)
    return np.asarray(np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0))


def _extremes(values_T: Array, edges: NDArray[np.int64]) -> tuple[Array, Array]:
    """The smallest and the largest finite value in each window."""
    starts = edges[:-1]
    finite_T = np.where(np.isfinite(values_T), values_T, np.nan)
    return np.fmin.reduceat(finite_T, starts), np.fmax.reduceat(finite_T, starts)
