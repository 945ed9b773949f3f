"""Experts and pairs of layers with many experts, as views of the blocks of their layer.

An expert has no column of its own: it is made of the block when it is read, and not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from validation.analysis.run import METRICS, PAIR_METRICS, Expert, Pair
from validation.analysis.statistics import Array
from validation.files.tables.packed import PackedLayer, PackedPairs, layers_of, pairs_of


class _Columns(Mapping[str, Array]):
    """The columns of one expert. alone: measured without routing, so that it has the whole layer."""

    def __init__(self, layer: PackedLayer, expert: int, *, alone: bool) -> None:
        self._layer, self._expert, self._alone = layer, expert, alone

    def __getitem__(self, metric: str) -> Array:
        if metric not in METRICS:
            raise KeyError(metric)
        if metric == "routing_weight" and self._alone:
            return np.ones(len(self._layer.steps))
        if metric == "direction":
            return np.asarray(1.0 - self._layer.block("gradient_cosine")[self._expert].astype(np.float64))
        return np.asarray(self._layer.block(metric)[self._expert], dtype=np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(METRICS)

    def __len__(self) -> int:
        return len(METRICS)


class _PairColumns(Mapping[Pair, Mapping[str, Array]]):
    """The columns of each compared pair of experts of one layer."""

    def __init__(self, layer: PackedPairs) -> None:
        self._blocks = {name: layer.blocks[name].astype(np.float64) for name in PAIR_METRICS}
        self._place = {pair: place for place, pair in enumerate(layer.pairs)}

    def __getitem__(self, pair: Pair) -> Mapping[str, Array]:
        place = self._place[pair]
        return {name: block_NT[place] for name, block_NT in self._blocks.items()}

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


def packed_experts(
    table: pa.Table, source: str, roles: Mapping[int, str], steps: NDArray[np.int64], *, other: str
) -> list[dict[int, Expert]]:
    """Return the experts of each layer of `packed_layers`. other: the role of those that `roles` does not name."""
    return [
        {
            number: Expert(
                number,
                roles.get(number, other),
                _Columns(layer, number, alone=source == "isolated"),
                one_of_many=True,
            )
            for number in np.flatnonzero(layer.present()).tolist()
        }
        for layer in layers_of(table, source, steps)
    ]


def packed_pairs(table: pa.Table, steps: NDArray[np.int64]) -> list[Mapping[Pair, Mapping[str, Array]]]:
    """Return the pairs of each layer of `packed_pairs`."""
    return [_PairColumns(layer) for layer in pairs_of(table, steps)]
