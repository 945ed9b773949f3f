"""Matrices of pairs of experts: how far each two are apart, by layer and window of probes, ordered by similarity.

Axis letters: E compared experts, N pairs, L layers, T probes that compared pairs, F frames (windows of these probes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from validation.analysis.distinct import DIRECTION, LAST, OUTPUTS, WEIGHTS, PairLevels
from validation.analysis.run import Pair, Run
from validation.analysis.statistics import Array

MAX_FRAMES = 24
PROBES = 4  # in a frame, at least: the direction is a ratio of means, and noise of single probes biases it
MEASURED, NOISE, MISSING = "measured", "mostly noise", "not compared"


@dataclass(frozen=True)
class PairMeasure:
    """A quantity of each two experts."""

    title: str
    unit: str
    meaning: str
    column: str


PAIR_MEASURES = {
    DIRECTION: PairMeasure(
        "Direction",
        "1 - cosine",
        "1 - cosine between the gradients of two experts on the same batch, corrected for the noise of the batch: 0 is "
        "parallel, 1 is at right angles",
        "half_product",
    ),
    WEIGHTS: PairMeasure(
        "Weights",
        "share of |w|",
        "Distance between the weights of two experts, as a share of their norms: 0 for equal weights, 1.41 for "
        "orthogonal ones",
        "weight_distance",
    ),
    OUTPUTS: PairMeasure(
        "Outputs",
        "1 - cosine",
        "1 - cosine between the layer's outputs when every token goes to the one or to the other expert: 0 for equal "
        "outputs",
        "output_distance",
    ),
}


@dataclass(frozen=True, eq=False)
class PairFrames:
    """A measure of each two compared experts in all frames. The experts are in the order of their similarity."""

    experts: tuple[int, ...]
    values_EEF: Array
    """Mean over the probes of a frame and over the chosen layers; NaN on the diagonal and where it is unknown."""
    noisy_EF: NDArray[np.bool_]
    """True for experts whose gradient is mostly noise in a frame, so that no direction is measured."""
    first_F: NDArray[np.int64]
    last_F: NDArray[np.int64]
    """First and last step of each frame."""
    probes_F: NDArray[np.int64]
    """The number of probes of each frame."""

    def at(self, frame: int) -> pd.DataFrame:
        """Return a row for each ordered pair: expert, other, value and state."""
        size = len(self.experts)
        row, column = np.divmod(np.arange(size * size), size)
        apart = row != column
        row, column = row[apart], column[apart]
        experts, noisy_E = np.array(self.experts, dtype=np.int64), self.noisy_EF[:, frame]
        value = self.values_EEF[row, column, frame]
        state = np.where(noisy_E[row] | noisy_E[column], NOISE, MISSING)
        return pd.DataFrame(
            {
                "expert": experts[row],
                "other": experts[column],
                "value": value,
                "state": np.where(np.isfinite(value), MEASURED, state),
            }
        )

    def pairs_at(self, frame: int) -> pd.DataFrame:
        """Return a row for each pair with a value, the closest first."""
        rows = self.at(frame)
        rows = rows[(rows["expert"] < rows["other"]) & (rows["state"] == MEASURED)]
        return rows.sort_values(["value", "expert", "other"], ignore_index=True)


def last_third(levels: PairLevels, measure: str) -> PairFrames | None:
    """Return one frame with the means that the verdict rests on, of the last third and all layers; None if unknown."""
    matrix_EE = levels.last_third(measure)
    known = np.flatnonzero(np.isfinite(matrix_EE).any(axis=0))
    if not len(known):
        return None
    matrix_EEF = matrix_EE[np.ix_(known, known)][..., None]
    order = similarity_order(matrix_EEF)
    steps = np.round(levels.bins.edges[[-1 - LAST, -1]]).astype(np.int64)
    return PairFrames(
        tuple(levels.experts[known[place]] for place in order),
        matrix_EEF[np.ix_(order, order)],
        np.zeros((len(known), 1), dtype=bool),
        steps[:1],
        steps[1:],
        levels.bins.rows_K[-LAST:].sum()[None],
    )


def has_pairs(run: Run) -> bool:
    """Return whether the probe compared any two experts in some layer."""
    return run.isolated is not None and any(len(layer) for layer in run.isolated.pairs)


def pair_frames(
    run: Run, measure: str, place: int | None, *, reliability: float, most: int = MAX_FRAMES
) -> PairFrames | None:
    """Return a measure of the pairs that were compared in one layer, or in all layers; None without any.

    run: by its isolated gradients. place: of a layer; None for the mean over layers. reliability: the least share of
    the squared norm that both halves of a batch must agree on for a direction.
    """
    places = [*range(len(run.pairs))] if place is None else [place]
    pairs = sorted(set.intersection(*({*run.pairs[p]} for p in places))) if places else []
    name = PAIR_MEASURES[measure].column
    columns_LNT = np.array([[run.pairs[p][pair][name] for pair in pairs] for p in places])
    rows = np.flatnonzero(np.isfinite(columns_LNT).any(axis=(0, 1))) if pairs else np.empty(0, dtype=np.intp)
    if not len(rows):
        return None
    edges = np.linspace(0, len(rows), min(max(len(rows) // PROBES, 1), most) + 1).astype(np.int64)
    experts = sorted({expert for pair in pairs for expert in pair})
    mean_LNF = _means(columns_LNT[..., rows], edges)
    noisy_EF = np.zeros((len(experts), len(edges) - 1), dtype=bool)
    level_NF = mean_LNF.mean(axis=0)
    if measure == DIRECTION:
        own_LEF, whole_LEF = (_means(column, edges) for column in _own(run, places, experts, rows))
        noisy_EF = np.asarray((own_LEF < reliability * whole_LEF).any(axis=0))
        level_NF = _directions(mean_LNF, own_LEF, _ends(experts, pairs), noisy_EF)
    matrix_EEF = _matrices(len(experts), _ends(experts, pairs), level_NF)
    order = similarity_order(matrix_EEF)
    return PairFrames(
        tuple(experts[place] for place in order),
        matrix_EEF[np.ix_(order, order)],
        noisy_EF[order],
        run.steps[rows[edges[:-1]]],
        run.steps[rows[edges[1:] - 1]],
        np.diff(edges),
    )


def similarity_order(matrix_EEF: Array) -> list[int]:
    """Return the experts so that similar ones are neighbours, the same order for all frames.

    It is the order of the leaves of a tree of clusters (average linkage of the mean over frames), of which neighbours
    are as close as they can be (Bar-Joseph et al. 2001). Unknown distances count as the mean of the others.
    """
    known = np.isfinite(matrix_EEF)
    count_EE = known.sum(axis=-1)
    total_EE = np.where(known, matrix_EEF, 0.0).sum(axis=-1)
    if len(matrix_EEF) < 3 or not count_EE.any():
        return [*range(len(matrix_EEF))]
    distance_EE = np.where(count_EE > 0, total_EE / np.maximum(count_EE, 1), total_EE.sum() / count_EE.sum())
    # Slow to load, and needed on one page only.
    from scipy.cluster.hierarchy import leaves_list, linkage

    upper = np.triu_indices(len(distance_EE), 1)
    # A corrected direction of equal experts may be a little below zero, which is no distance.
    tree = linkage(distance_EE[upper].clip(min=0), "average", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)]


def pair_range(frames: PairFrames, margin: float) -> tuple[float, float]:
    """Return the values at both ends of the colour scale: 0 and all but the largest hundredth, at least the margin."""
    finite = frames.values_EEF[np.isfinite(frames.values_EEF)]
    return 0.0, max(float(np.quantile(finite, 0.99)) if len(finite) else 0.0, margin)


def _means(values: Array, edges: NDArray[np.int64]) -> Array:
    """Return the means over the windows of the last axis; NaN where a window lacks a value."""
    return np.asarray(np.add.reduceat(values, edges[:-1], axis=-1) / np.diff(edges))


def _own(run: Run, places: Sequence[int], experts: Sequence[int], rows: NDArray[np.intp]) -> tuple[Array, Array]:
    """Return each expert's product with itself and its squared norm, [L, E, T]; NaN for an expert without rows."""
    nothing = np.full(len(run.steps), np.nan)

    def column(place: int, expert: int, name: str) -> Array:
        layer = run.layers[place] if place < len(run.layers) else {}
        return layer[expert][name] if expert in layer else nothing

    own, norm = (
        np.array([[column(place, e, name) for e in experts] for place in places])[..., rows]
        for name in ("half_product", "norm")
    )
    return own, norm**2


def _ends(experts: Sequence[int], pairs: Sequence[Pair]) -> NDArray[np.intp]:
    """Return the places of both experts of each pair, [N, 2]."""
    place = {expert: number for number, expert in enumerate(experts)}
    return np.array([[place[e], place[f]] for e, f in pairs], dtype=np.intp)


def _directions(product_LNF: Array, own_LEF: Array, ends_N2: NDArray[np.intp], noisy_EF: NDArray[np.bool_]) -> Array:
    """Return the corrected direction of each pair, [N, F]: means over layers; NaN where an expert's is noise."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine_LNF = product_LNF / (np.sqrt(own_LEF[:, ends_N2[:, 0]]) * np.sqrt(own_LEF[:, ends_N2[:, 1]]))
    clear_NF = ~noisy_EF[ends_N2].any(axis=1)
    return np.asarray(np.where(clear_NF, 1 - cosine_LNF.mean(axis=0), np.nan))


def _matrices(experts: int, ends_N2: NDArray[np.intp], level_NF: Array) -> Array:
    """Return the levels of the pairs as symmetric matrices, [E, E, F]."""
    matrix_EEF = np.full((experts, experts, level_NF.shape[1]), np.nan)
    matrix_EEF[ends_N2[:, 0], ends_N2[:, 1]] = matrix_EEF[ends_N2[:, 1], ends_N2[:, 0]] = level_NF
    return matrix_EEF
