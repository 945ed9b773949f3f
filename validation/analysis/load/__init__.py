"""Loading of run files: Arrow tables of a RunFile as a Run with one array per expert and column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prismatic.contract.schema import PACKED_TABLES, PEER, ROUTING_COLUMNS, STEP_COLUMNS, TIERS
from validation.analysis.load.packed import packed_experts, packed_pairs
from validation.analysis.run import METRICS, PAIR_METRICS, Expert, Pair, Run, align
from validation.analysis.statistics import Array
from validation.files.run_file import RunFile
from validation.files.tables.packed import steps_of, unpacked
from validation.files.tables.tidy import by_expert


def load_runs(files: Sequence[RunFile]) -> list[Run]:
    """Return the runs of these files, in the same order."""
    return [_load_run(file) for file in files]


def _load_run(file: RunFile) -> Run:
    steps = file.wide["step"].to_numpy().astype(np.int64)
    experts = {
        number: Expert(number, role, _columns(rows, len(steps), lambda values: values))
        for number, role, rows in by_expert(file)
    }
    of_step = (*STEP_COLUMNS[1:], *ROUTING_COLUMNS)
    shared = [column.name for column in of_step if column.name in file.wide.column_names]
    run = Run(
        id=file.id,
        name=file.name,
        steps=steps,
        experts=experts,
        step_columns={name: _floats(file.wide[name]) for name in shared},
        facts=file.facts,
        weights=_tier_weights(file),
        untiered=frozenset(row["layer"] for row in file.tiers.to_pylist() if row["weights"] == 0),
        tier_hashes=_tier_hashes(file),
        perturbation_seeds=tuple(row["seed"] for row in file.experts.to_pylist() if row["seed"] is not None),
        changed=_changed(file),
        scales={
            row["expert"]: row["scale"] for row in file.experts.to_pylist() if None not in (row["expert"], row["scale"])
        },
        events=Counter(code for code in file.events["code"].to_pylist() if code),
        duplicates=file.duplicates,
        wal=file.wal,
        damage=file.damage,
        failure=file.failure,
    )
    roles = {number: expert.role for number, expert in experts.items()}
    merged, probes, alone, pairs = _layers_of(file, roles, steps)
    run = replace(run, layers=merged)
    return replace(run, isolated=_isolated(run, probes, alone, pairs)) if alone else run


Layers = list[dict[int, Expert]]
"""The experts of each layer."""
Pairs = list[Mapping[Pair, Mapping[str, Array]]]
"""The pairs of experts of each layer."""


def _layers_of(
    file: RunFile, roles: Mapping[int, str], steps: NDArray[np.int64]
) -> tuple[Layers, NDArray[np.int64], Layers, Pairs]:
    """Return the layers by merged gradients, and the steps, layers and pairs of the isolated probe."""
    packed, other = file.packed_layers, _other_role(roles)
    if len(packed) and not len(file.layers):
        probes = steps_of(packed, "isolated")
        merged, alone = (
            packed_experts(packed, source, roles, at, other=other)
            for source, at in (("merged", steps), ("isolated", probes))
        )
        if not len(file.pairs):
            return merged, probes, alone, packed_pairs(file.packed_pairs, probes)
        return merged, probes, alone, _pairs(_rows_of(file, "pairs"), probes)
    rows = _rows_of(file, "layers")
    if not len(rows):
        return [], steps[:0], [], []
    table, probed = (_of_source(rows, source) for source in ("merged", "isolated"))
    probes = np.unique(_steps(probed))
    pairs = _pairs(_rows_of(file, "pairs"), probes) if len(probed) else []
    return _layers(table, roles, steps), probes, _layers(probed, roles, probes), pairs


def _rows_of(file: RunFile, name: str) -> pa.Table:
    """Return the rows of `layers` or `pairs`, those that its file holds packed included."""
    rows, packed = getattr(file, name), getattr(file, PACKED_TABLES[name])
    return pa.concat_tables([rows, unpacked(name, packed)]) if len(packed) else rows


def _of_source(layers: pa.Table, source: str) -> pa.Table:
    """Return the rows of `layers` from one source of gradients, with the direction, by layer, expert and step."""
    rows = layers.filter(pc.equal(layers["source"], source))
    rows = rows.append_column("direction", pc.subtract(1.0, rows["gradient_cosine"]))
    return rows.sort_by([("layer", "ascending"), ("expert", "ascending"), ("step", "ascending")])


def _isolated(
    run: Run,
    steps: NDArray[np.int64],
    layers: Layers,
    pairs: Pairs,
) -> Run:
    """Return the run by its isolated gradients: at the steps of the probe, by layer and as means over layers."""
    # Each expert alone has the whole layer, so its share is 1.
    if not any(x.one_of_many for layer in layers for x in layer.values()):
        layers = [
            {e: Expert(e, x.role, {**x.columns, "routing_weight": np.ones(len(steps))}) for e, x in layer.items()}
            for layer in layers
        ]
    with np.errstate(over="ignore"):  # of a damaged file; infinity counts as missing
        experts = {
            e: Expert(e, x.role, {m: np.mean([layer[e][m] for layer in layers if e in layer], axis=0) for m in METRICS})
            for e, x in layers[0].items()
        }
    return replace(run, steps=steps, experts=experts, layers=layers, pairs=pairs, source="isolated", step_columns={})


def _pairs(table: pa.Table, steps: NDArray[np.int64]) -> Pairs:
    """Return the pairs of experts of each layer, each column with a value (or NaN) for every step of the probe."""
    sound = pc.and_(pc.is_valid(table["step"]), pc.less(table["expert"], table["other"]))
    keys = [(name, "ascending") for name in ("layer", "expert", "other", "step")]
    layers = _parted(table.filter(sound).sort_by(keys), "layer")
    return [
        {
            (expert, other): {name: align(_steps(rows), _floats(rows[name]), steps) for name in PAIR_METRICS}
            for expert, of_expert in _parted(layer, "expert")
            for other, rows in _parted(of_expert, "other")
        }
        for _, layer in layers
    ]


def _layers(table: pa.Table, roles: Mapping[int, str], steps: NDArray[np.int64]) -> list[dict[int, Expert]]:
    """Return the experts of each layer of a tidy table."""
    return [_experts(rows, roles, steps) for _, rows in _parted(table, "layer")]


def _experts(table: pa.Table, roles: Mapping[int, str], steps: NDArray[np.int64]) -> dict[int, Expert]:
    """Return the experts of a tidy table, each column with a value (or NaN) for every step of the run."""
    experts, other = {}, _other_role(roles)
    for expert, rows in _parted(table, "expert"):
        columns = _columns(rows, len(steps), partial(align, _steps(rows), onto_T=steps))
        experts[expert] = Expert(expert, roles.get(expert, other), columns)
    return experts


def _other_role(roles: Mapping[int, str]) -> str:
    """Return the role of experts whose role is unknown."""
    return PEER if {*roles.values()} == {PEER} else "perturbed"


def _columns(table: pa.Table, rows: int, aligned: Callable[[Array], Array]) -> dict[str, Array]:
    """Return every metric as floats; NaN in every row if the table does not have it."""
    found = {name: aligned(_floats(table[name])) for name in METRICS if name in table.column_names}
    return dict.fromkeys(METRICS, np.full(rows, np.nan)) | found


def _parted(table: pa.Table, by: str) -> Iterator[tuple[int, pa.Table]]:
    """Yield each value of the column that sorts the table, with its rows; filtering by each value takes far longer."""
    whole, start = table.combine_chunks(), 0
    keys = pc.run_end_encode(whole[by].combine_chunks()) if len(whole) else None
    for key, end in zip(keys.values.to_pylist(), keys.run_ends.to_pylist(), strict=True) if keys else ():
        if key is not None:
            yield key, whole.slice(start, end - start)
        start = end


def _steps(table: pa.Table) -> NDArray[np.int64]:
    return np.asarray(table["step"].to_numpy(), dtype=np.int64)


def _floats(column: pa.ChunkedArray) -> Array:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _tier_weights(file: RunFile) -> dict[str, float]:
    """Return the mean number of weights per tier over the layers, from the table `tiers`."""
    sizes: dict[str, list[float]] = {}
    for row in file.tiers.to_pylist():
        if row["tier"] in TIERS and row["weights"]:
            sizes.setdefault(row["tier"], []).append(float(row["weights"]))
    return {tier: float(np.mean(values)) for tier, values in sizes.items()} if len(sizes) == len(TIERS) else {}


def _tier_hashes(file: RunFile) -> tuple[str, ...]:
    rows = [(row["layer"], row["tier"], row["hash"]) for row in file.tiers.to_pylist() if row["hash"]]
    return tuple(digest for _, _, digest in sorted(rows, key=str))


def _changed(file: RunFile) -> dict[int, dict[str, float]]:
    return {
        int(row["expert"]): {tier: row[f"changed_{tier}"] for tier in TIERS}
        for row in file.experts.to_pylist()
        if row["expert"] is not None and all(row[f"changed_{tier}"] is not None for tier in TIERS)
    }
