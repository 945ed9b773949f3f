"""Column names of other writers, converted to those of the schema where they mean the same quantity.

layer_{n}_expert_{i}_{metric}   columns of the wide table become rows of `layers`; their means over the layers become
                                wide columns if the file has none, as DynamicsLogger computes them
expert_{i}_grad_norm            is read as the norm of the whole gradient
expert_{i}_{tier}_mean          is not used: it is not a norm, because entries of opposite sign cancel in a mean
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from prismatic.contract.schema import EXPERT_COLUMN, LAYERS_COLUMNS, TIERS

LAYER_COLUMN = re.compile(r"layer_(\d{1,4})_expert_(\d{1,4})_([a-z][a-z_]*)")
TIER_NORMS = tuple(f"{tier}_norm" for tier in TIERS)
WHOLE_NORMS = ("norm", "perturbed_norm", "clean_norm", "grad_norm")  # of one quantity; the first one present is used
# Metric of a per-layer column -> column of `layers`.
LAYER_METRICS = {
    **{column.name: column.name for column in LAYERS_COLUMNS[4:] if column.type == "REAL"},
    **dict.fromkeys(WHOLE_NORMS, "norm"),
    "direction": "gradient_cosine",
}
# Columns of `layers` whose means over the layers become metrics of the wide table, the norm under another name.
MEANS = (*TIER_NORMS, "norm", "routing_weight", "bottom_to_middle", "divergence", "relative_divergence")
COMPARED = ("divergence", "relative_divergence", "gradient_cosine")  # with expert 0, which has none of them

Values = np.ndarray
Cells = dict[tuple[int, int], dict[str, Values]]  # by layer and expert, then by column of `layers`


def normalize_columns(wide: pa.Table, layers: pa.Table, most_rows: int) -> tuple[pa.Table, pa.Table, tuple[str, ...]]:
    """Return the wide table and `layers` with the schema's column names, and notes about columns not used as named."""
    notes: list[str] = []
    columns = dict(zip(wide.column_names, wide.columns, strict=True))
    found = [name for name in columns if LAYER_COLUMN.fullmatch(name)]
    cells = _layer_cells({name: columns.pop(name) for name in found})
    if cells and len(layers):
        notes.append("the columns layer_{n}_expert_{i}_... were not used: the file has a table `layers` as well")
    elif cells:
        columns |= _means(cells, columns)
        if missing := {*TIER_NORMS} & {*_cell_metrics(cells)} - {*_wide_metrics(columns)}:
            names = ", ".join(sorted(missing))
            notes.append(f"no means over layers were taken of {names}: the file aggregates its other tiers differently")
        if len(wide) * len(cells) > most_rows:
            limit = f"expected at most {most_rows:,} rows (limit `rows`), found {len(wide) * len(cells):,}"
            notes.append(f"of the columns layer_{{n}}_expert_{{i}}_... only the means over layers were kept: {limit}")
        else:
            layers = _layer_rows(cells, wide["step"], layers.schema)
    notes += _rename_whole_norms(columns)
    notes += _unused_means(columns)
    return pa.table(columns), layers, tuple(notes)


def _layer_cells(columns: dict[str, pa.ChunkedArray]) -> Cells:
    """Return the per-layer columns by layer and expert. Of several names of one quantity, LAYER_METRICS' first wins."""
    cells: Cells = {}
    order = list(LAYER_METRICS)
    matched = [(match, column) for name, column in columns.items() if (match := LAYER_COLUMN.fullmatch(name))]
    for match, column in sorted(matched, key=lambda pair: order.index(pair[0][3])):
        cell, values = (int(match[1]), int(match[2])), column.to_numpy().astype(np.float64)
        values = 1 - values if match[3] == "direction" else values
        cells.setdefault(cell, {}).setdefault(LAYER_METRICS[match[3]], values)
    return dict(sorted(cells.items()))


def _layer_rows(cells: Cells, steps: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    """Return a row of `layers` for each step, layer and expert."""
    keys, count = list(cells), len(steps)
    rows = count * len(keys)
    missing = np.full(count, np.nan)
    columns = {
        "step": np.repeat(steps.to_numpy(), len(keys)),
        "layer": np.tile([layer for layer, _ in keys], count),
        "expert": np.tile([expert for _, expert in keys], count),
        "source": pa.repeat(pa.scalar("merged"), rows),
    }
    for field in schema:
        if field.name not in columns and any(field.name in cell for cell in cells.values()):
            series = np.stack([cell.get(field.name, missing) for cell in cells.values()], axis=1)
            columns[field.name] = pa.array(series.reshape(-1), pa.float64(), from_pandas=True)  # NaN to NULL
    return pa.table([columns.get(field.name, pa.nulls(rows, field.type)) for field in schema], schema=schema)


def _means(cells: Cells, columns: dict[str, pa.ChunkedArray]) -> dict[str, pa.Array]:
    """Return wide columns with means over the layers, for the metrics that have no wide column.

    All tiers or none: the file's own tiers may be aggregated differently, and tiers are compared with each other.
    """
    present = _wide_metrics(columns)
    present |= {*TIER_NORMS} if present & {*TIER_NORMS} else set()
    present |= {"norm"} if present & {*WHOLE_NORMS} else set()
    present |= {"gradient_cosine"} if "direction" in present else set()
    names = [name for name in (*MEANS, "gradient_cosine") if name not in present]
    means = {}
    for expert in sorted({expert for _, expert in cells}):
        for name in names:
            layers = [cell[name] for (_, other), cell in cells.items() if other == expert and name in cell]
            if layers and not (expert == 0 and name in COMPARED):
                means[_wide_name(name, expert)] = _mean(layers, name)
    return means


def _cell_metrics(cells: Cells) -> set[str]:
    return {name for cell in cells.values() for name, values in cell.items() if not np.isnan(values).all()}


def _wide_metrics(columns: dict[str, pa.ChunkedArray]) -> set[str]:
    """Return the metrics of which at least one expert has a value."""
    return {match[2] for name in columns if (match := EXPERT_COLUMN.fullmatch(name)) and _has_values(columns[name])}


def _mean(layers: list[Values], name: str) -> pa.Array:
    """Return the mean per step; NULL if a layer misses a step, because a mean over fewer layers would be a jump."""
    measured = [values for values in layers if not np.isnan(values).all()] or layers[:1]
    with np.errstate(over="ignore", invalid="ignore"):  # infinity minus infinity is NaN, and NULL
        mean = np.mean(measured, axis=0)
    return pa.array(1 - mean if name == "gradient_cosine" else mean, from_pandas=True)


def _wide_name(name: str, expert: int) -> str:
    metric = {"gradient_cosine": "direction", "norm": "perturbed_norm" if expert else "clean_norm"}.get(name, name)
    return f"expert_{expert}_{metric}"


def _has_values(column: pa.ChunkedArray) -> bool:
    return bool(column.null_count < len(column))


def _rename_whole_norms(columns: dict[str, pa.ChunkedArray]) -> Iterator[str]:
    """Add grad_norm to `columns` under its name in the schema; yield notes, also if the file has no tier norms."""
    matches = [match for name in columns if (match := EXPERT_COLUMN.fullmatch(name))]
    known = {(int(match[1]), match[2]) for match in matches if _has_values(columns[match.group(0)])}
    renamed = [
        expert
        for expert, metric in known
        if metric == "grad_norm" and not {(expert, name) for name in WHOLE_NORMS[1:3]} & known
    ]
    for expert in sorted(renamed):
        columns[_wide_name("norm", expert)] = columns[f"expert_{expert}_grad_norm"]
    if renamed:
        yield "expert_{i}_grad_norm was read as the norm of expert i's whole gradient"
    if known and not {metric for _, metric in known} & {*TIER_NORMS}:
        yield "the file has no tier norms: awakening, divergence and sustainment compare tiers and cannot be judged"


def _unused_means(columns: dict[str, pa.ChunkedArray]) -> Iterator[str]:
    """Yield a note if the file has means of gradient entries, which are not used as norms."""
    names = [
        f"expert_{match[1]}_{tier}_" for name in columns for tier in TIERS if (match := EXPERT_COLUMN.fullmatch(name))
    ]
    unused = sorted({f"{name}mean" for name in names if f"{name}mean" in columns and f"{name}norm" not in columns})
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        yield f"{unused[0]}{more} was not used: a mean is not a norm, because entries of opposite sign cancel in it"
