"""Packed tables in memory: the experts of a layer as arrays over the steps, their rows, and their means over layers.

The tables `packed_layers` and `packed_pairs` hold lists of float32, one list for each step and layer. They become
blocks [E, T] of one layer and metric, so that thousands of experts are a few arrays and no objects.
Axis letters: L layers, E experts, N pairs, T steps, R rows of a packed table, V values of all lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prismatic.contract.packing import LAYOUTS
from validation.files.run_file import arrow_schema

Block = NDArray[np.float32]
Integers = NDArray[np.int64]
LAYERS, PAIRS = LAYOUTS["layers"], LAYOUTS["pairs"]
NORMS = ("top_norm", "bottom_norm", "middle_norm", "norm")  # always measured: NaN is a gradient's and makes a mean NaN
MEANS = (*NORMS, "routing_weight", "bottom_to_middle", "divergence", "relative_divergence", "gradient_cosine")
COMPARED = ("divergence", "relative_divergence", "gradient_cosine")  # with expert 0, which has none of them
EXPERTS = 10_000  # more than the largest number of an expert


@dataclass(frozen=True, eq=False)
class PackedLayer:
    """The experts of one layer by one source of gradients: each metric as a block [E, T], NaN where it is missing."""

    layer: int
    experts: int
    steps: Integers
    _table: pa.Table
    _rows_R: Integers
    """The rows of the table that belong to this layer."""
    _place_R: Integers
    """The place of each of these rows along T."""
    _blocks: dict[str, Block] = field(default_factory=dict)

    def block(self, metric: str) -> Block:
        """Return a metric of the table, [E, T]; it is made once."""
        if metric not in self._blocks:
            shape = self.experts, len(self.steps)
            self._blocks[metric] = _block(_lists(self._table, metric), self._rows_R, self._place_R, shape)
        return self._blocks[metric]

    def present(self) -> NDArray[np.bool_]:
        """Return True for each expert that has any value, [E]; the others have no row."""
        found = np.zeros(self.experts, dtype=bool)
        for metric in ("missing_gradients", *LAYERS.arrays):
            if found.all():
                break
            found |= (~np.isnan(self.block(metric))).any(axis=1)
        return found


def layers_of(table: pa.Table, source: str, steps: Integers) -> list[PackedLayer]:
    """Return the layers of `packed_layers` by one source of gradients, at these steps, which ascend.

    Rows of other steps are left out; of several rows of one step and layer, the last one counts.
    """
    rows_R = _rows(table, pc.equal(table["source"], source))
    step_R, layer_R, experts_R = (_integers(table, name)[rows_R] for name in ("step", "layer", LAYERS.length))
    there, place_R = _places(step_R, steps)
    rows_R, layer_R, experts_R = rows_R[there], layer_R[there], experts_R[there]
    found = []
    for layer in np.unique(layer_R):
        own = np.flatnonzero(layer_R == layer)
        found.append(PackedLayer(int(layer), int(experts_R[own].max()), steps, table, rows_R[own], place_R[own]))
    return found


def steps_of(table: pa.Table, source: str) -> Integers:
    """Return the steps of the rows of `packed_layers` from one source of gradients, ascending."""
    return np.unique(_integers(table, "step")[_rows(table, pc.equal(table["source"], source))])


def dense_values(table: pa.Table, steps: int) -> int:
    """Return the number of values of one metric in blocks of all layers, for a run of so many steps.

    A file may name many layers, experts and steps in few rows.
    """
    if not len(table):
        return 0
    largest = table.select(["layer", LAYERS.length]).group_by("layer").aggregate([(LAYERS.length, "max")])
    steps = max(steps, len(pc.unique(table["step"])))
    return int(pc.sum(largest[f"{LAYERS.length}_max"]).as_py() or 0) * steps


def _rows(table: pa.Table, wanted: pa.ChunkedArray) -> Integers:
    """Return the rows with a step and a layer for which `wanted` is true."""
    return np.flatnonzero(pc.fill_null(wanted, False).to_numpy() & _sound(table))


def _integers(table: pa.Table, name: str) -> Integers:
    """Return a column of integers, 0 for NULL."""
    return np.asarray(pc.fill_null(table[name], 0).to_numpy(), dtype=np.int64)


def _places(step_R: Integers, steps: Integers) -> tuple[Integers, Integers]:
    """Return the places in `step_R` of steps that are in `steps`, and their places there."""
    if not len(steps):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    places = np.minimum(np.searchsorted(steps, step_R), len(steps) - 1)
    there = np.flatnonzero(steps[places] == step_R)
    return there, places[there]


def _lists(table: pa.Table, name: str) -> pa.ListArray:
    """Return a column of lists as one array."""
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays([*column.chunks, pa.array([], column.type)])


def _block(lists: pa.ListArray, rows_R: Integers, place_R: Integers, shape: tuple[int, int]) -> Block:
    """Return the lists of some rows as columns of a block."""
    block_ET = np.full(shape, np.nan, dtype=np.float32)
    start, number_V = lists.offsets.to_numpy(), lists.values.to_numpy()
    length_R = np.where(lists.is_valid().to_numpy(zero_copy_only=False), np.diff(start), 0)[rows_R]
    for length in np.unique(length_R[length_R > 0]):
        own = np.flatnonzero(length_R == length)
        block_ET[:length, place_R[own]] = number_V[start[rows_R[own], None] + np.arange(length)].T
    return block_ET


# -- Means over layers: the columns of experts that `dynamics` lacks ---------------------------------------------------


def with_expert_means(wide: pa.Table, table: pa.Table) -> pa.Table:
    """Return the wide table with the columns of packed experts: means over their layers, as the logger takes them.

    A value that the file has itself stays.
    """
    if not len(table):
        return wide
    layers = layers_of(table, "merged", np.asarray(wide["step"].to_numpy(), dtype=np.int64))
    columns = dict(zip(wide.column_names, wide.columns, strict=True))
    for metric in MEANS if layers else ():
        for expert, values_T in enumerate(_means_over_layers(layers, metric)):
            if np.isnan(values_T).all() or (expert == 0 and metric in COMPARED):
                continue
            name, found = _wide_name(metric, expert), pa.array(values_T, from_pandas=True)  # NaN to NULL
            columns[name] = pc.coalesce(columns[name], found) if name in columns else found
    return pa.table(columns)


def _means_over_layers(layers: Sequence[PackedLayer], metric: str) -> NDArray[np.float64]:
    """Return each expert's mean over the layers that have a value, [E, T]; NaN without any."""
    shape = max(layer.experts for layer in layers), len(layers[0].steps)
    sum_ET, count_ET = np.zeros(shape), np.zeros(shape, dtype=np.int32)
    for layer in layers:
        block_ET = layer.block(metric)
        known_ET = ~np.isnan(block_ET)
        if metric in NORMS:
            known_ET = np.broadcast_to(layer.present()[:, None], block_ET.shape)
        sum_ET[: layer.experts] += np.where(known_ET, block_ET, 0.0)
        count_ET[: layer.experts] += known_ET
    mean_ET = sum_ET / np.where(count_ET > 0, count_ET, np.nan)
    return 1 - mean_ET if metric == "gradient_cosine" else mean_ET


def _wide_name(metric: str, expert: int) -> str:
    name = {"gradient_cosine": "direction", "norm": "perturbed_norm" if expert else "clean_norm"}.get(metric, metric)
    return f"expert_{expert}_{name}"


# -- Rows, for files that hold both forms ------------------------------------------------------------------------------


def unpacked(name: str, packed: pa.Table) -> pa.Table:
    """Return the rows of table `name` (layers or pairs) that a packed table stands for."""
    layout, want = LAYOUTS[name], arrow_schema(name)
    length_R = _integers(packed, layout.length)
    row_V = np.repeat(np.arange(len(packed)), length_R)
    columns = {key: packed[key].take(pa.array(row_V)) for key in layout.key}
    columns["expert"] = pa.array(np.arange(len(row_V)) - np.repeat(np.cumsum(length_R) - length_R, length_R))
    value_V = {array: _flat(packed, array, length_R) for array in layout.arrays}
    columns |= {array: pa.array(values.astype(np.float64), from_pandas=True) for array, values in value_V.items()}
    rows = pa.table([columns[field.name].cast(field.type, safe=False) for field in want], schema=want)
    return rows.filter(pa.array(np.any([~np.isnan(values) for values in value_V.values()], axis=0)))


def _flat(packed: pa.Table, name: str, length_R: Integers) -> Block:
    """Return the numbers of all rows one after the other, [V]; NaN for those of NULL."""
    lists = _lists(packed, name)
    value_V = np.full(int(length_R.sum()), np.nan, dtype=np.float32)
    there_V = np.repeat(lists.is_valid().to_numpy(zero_copy_only=False), length_R)
    value_V[there_V] = lists.flatten().to_numpy(zero_copy_only=False)
    return value_V


# -- Pairs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PackedPairs:
    """The compared pairs of experts of one layer: each metric as a block [N, T], NaN where it is missing."""

    layer: int
    pairs: Sequence[tuple[int, int]]
    """Two experts each, the smaller number first."""
    blocks: dict[str, Block]


def pairs_of(table: pa.Table, steps: Integers) -> list[PackedPairs]:
    """Return the pairs of each layer of `packed_pairs` at these steps, which ascend."""
    length_R = _integers(table, PAIRS.length)
    row_V = np.repeat(np.arange(len(table)), length_R)
    step_V, layer_V = (_integers(table, name)[row_V] for name in ("step", "layer"))
    value_V = {name: _flat(table, name, length_R) for name in PAIRS.arrays}
    expert_V, other_V = value_V["expert"], value_V["other"]
    known_V = (expert_V >= 0) & (expert_V < other_V) & (other_V < EXPERTS)
    paired = np.flatnonzero(known_V & _sound(table)[row_V])
    there, place_V = _places(step_V[paired], steps)
    paired = paired[there]
    pair_V = expert_V[paired].astype(np.int64) * EXPERTS + other_V[paired].astype(np.int64)
    found = []
    for layer in np.unique(layer_V[paired]):
        own = np.flatnonzero(layer_V[paired] == layer)
        pair_N, number = np.unique(pair_V[own], return_inverse=True)
        blocks = {name: np.full((len(pair_N), len(steps)), np.nan, dtype=np.float32) for name in PAIRS.arrays[2:]}
        for name, block_NT in blocks.items():
            block_NT[number, place_V[own]] = value_V[name][paired[own]]
        pairs = [(int(pair) // EXPERTS, int(pair) % EXPERTS) for pair in pair_N]
        found.append(PackedPairs(int(layer), pairs, blocks))
    return found


def _sound(table: pa.Table) -> NDArray[np.bool_]:
    """Return True for each row with a step and a layer, [R]."""
    return np.asarray(pc.and_(pc.is_valid(table["step"]), pc.is_valid(table["layer"])).to_numpy())
