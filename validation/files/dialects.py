"""Run files by other writers, brought to the names of the schema: what is the same quantity, and nothing guessed.

layer_{n}_expert_{i}_{metric}   columns of the wide table become rows of `layers`, and their means over the layers the
                                wide columns where the file has none of its own, as DynamicsLogger takes them
expert_{i}_grad_norm            is the norm of the whole gradient
expert_{i}_{tier}_mean          is no norm, whatever the tier: entries of opposite sign cancel in a mean
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from prismatic.contract.schema import EXPERT_COLUMN, LAYERS_COLUMNS, TIERS

LAYER_COLUMN = re.compile(r"layer_(\d{1,4})_expert_(\d{1,4})_([a-z][a-z_]*)")
TIER_NORMS = tuple(f"{tier}_norm" for tier in TIERS)
WHOLE_NORMS = ("norm", "perturbed_norm", "clean_norm", "grad_norm")  # names of one quantity; the first that is there
# Metric of a per-layer column -> column of `layers`.
LAYER_METRICS = {
    **{column.name: column.name for column in LAYERS_COLUMNS[4:] if column.type == "REAL"},
    **dict.fromkeys(WHOLE_NORMS, "norm"),
    "direction": "gradient_cosine",
}
# Column of `layers` -> metric of the wide table; the norm has another name for expert 0.
MEANS = (*TIER_NORMS, "norm", "routing_weight", "bottom_to_middle", "divergence", "relative_divergence")
WITH_ITSELF = ("divergence", "relative_divergence", "gradient_cosine")  # of expert 0 they say nothing

Values = np.ndarray
Cells = dict[tuple[int, int], dict[str, Values]]  # by layer and expert: a series for each column of `layers`


def in_our_words(wide: pa.Table, layers: pa.Table, most_rows: int) -> tuple[pa.Table, pa.Table, tuple[str, ...]]:
    """The wide table and `layers` as DynamicsLogger would have named them, and a note for whatever was not plain."""
    notes: list[str] = []
    columns = dict(zip(wide.column_names, wide.columns, strict=True))
    found = {name: match for name in columns if (match := LAYER_COLUMN.fullmatch(name))}
    per_layer = _cells({match.group(0): columns.pop(name) for name, match in found.items()})
    if per_layer and len(layers):
        notes.append("the columns layer_{n}_expert_{i}_... were not used: the file has a table `layers` as well")
    elif per_layer:
        columns |= _means(per_layer, columns)
        if missing := {*TIER_NORMS} & {*_metrics(per_layer)} - {*_metrics_of(columns)}:
            told = ", ".join(sorted(missing))
            notes.append(
                f"no means over layers were taken of {told}: the file aggregates its other tiers in a way of its own"
            )
        if len(wide) * len(per_layer) > most_rows:
            told = f"expected at most {most_rows:,} rows (limit `rows`), found {len(wide) * len(per_layer):,}"
            notes.append(f"of the columns layer_{{n}}_expert_{{i}}_... only the means over layers were kept: {told}")
        else:
            layers = _rows(per_layer, wide["step"], layers.schema)
    notes += _whole_norms(columns)
    notes += _only_means(columns)
    return pa.table(columns), layers, tuple(notes)


def _cells(columns: dict[str, pa.ChunkedArray]) -> Cells:
    """Per-layer columns by layer and expert. Of several names of one quantity the first in LAYER_METRICS is taken."""
    cells: Cells = {}
    ordered = list(LAYER_METRICS)
    taken = [(match, column) for name, column in columns.items() if (match := LAYER_COLUMN.fullmatch(name))]
    for match, column in sorted(taken, key=lambda one: ordered.index(one[0][3])):
        place, values = (int(match[1]), int(match[2])), column.to_numpy().astype(np.float64)
        values = 1 - values if match[3] == "direction" else values
        cells.setdefault(place, {}).setdefault(LAYER_METRICS[match[3]], values)
    return dict(sorted(cells.items()))


def _rows(cells: Cells, steps: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    """A row of `layers` for each step, layer and expert."""
    places, count = list(cells), len(steps)
    nothing = np.full(count, np.nan)
    tables = {
        "step": np.repeat(steps.to_numpy(), len(places)),
        "layer": np.tile([layer for layer, _ in places], count),
        "expert": np.tile([expert for _, expert in places], count),
        "source": pa.repeat(pa.scalar("merged"), count * len(places)),
    }
    for field in schema:
        if field.name not in tables and any(field.name in cell for cell in cells.values()):
            series = np.stack([cell.get(field.name, nothing) for cell in cells.values()], axis=1)
            tables[field.name] = pa.array(series.reshape(-1), pa.float64(), from_pandas=True)  # NaN to NULL
    empty = count * len(places)
    return pa.table([tables.get(field.name, pa.nulls(empty, field.type)) for field in schema], schema=schema)


def _means(cells: Cells, columns: dict[str, pa.ChunkedArray]) -> dict[str, pa.Array]:
    """Means over the layers of what the file has no wide column of.

    All tiers or none: the file's own ones may be aggregated in another way, and tiers are compared with each other.
    """
    own = _metrics_of(columns)
    own |= {*TIER_NORMS} if own & {*TIER_NORMS} else set()
    own |= {"norm"} if own & {*WHOLE_NORMS} else set()
    own |= {"gradient_cosine"} if "direction" in own else set()
    names = [name for name in (*MEANS, "gradient_cosine") if name not in own]
    means = {}
    for expert in sorted({expert for _, expert in cells}):
        for name in names:
            layers = [cell[name] for (_, e), cell in cells.items() if e == expert and name in cell]
            if layers and not (expert == 0 and name in WITH_ITSELF):
                means[_wide_name(name, expert)] = _mean(layers, name)
    return means


def _metrics(cells: Cells) -> set[str]:
    return {name for cell in cells.values() for name, values in cell.items() if not np.isnan(values).all()}


def _metrics_of(columns: dict[str, pa.ChunkedArray]) -> set[str]:
    """The metrics that at least one expert has a value of."""
    return {match[2] for name in columns if (match := EXPERT_COLUMN.fullmatch(name)) and _holds(columns[name])}


def _mean(layers: list[Values], name: str) -> pa.Array:
    """NULL where a layer that has values elsewhere has none: a mean over fewer layers would show as a jump."""
    there = [values for values in layers if not np.isnan(values).all()] or layers[:1]
    with np.errstate(over="ignore", invalid="ignore"):  # infinity minus infinity is NaN, and NULL
        mean = np.mean(there, axis=0)
    return pa.array(1 - mean if name == "gradient_cosine" else mean, from_pandas=True)


def _wide_name(name: str, expert: int) -> str:
    metric = {"gradient_cosine": "direction", "norm": "perturbed_norm" if expert else "clean_norm"}.get(name, name)
    return f"expert_{expert}_{metric}"


def _holds(column: pa.ChunkedArray) -> bool:
    return bool(column.null_count < len(column))


def _whole_norms(columns: dict[str, pa.ChunkedArray]) -> Iterator[str]:
    """Gives grad_norm the name that the schema has for it, in `columns`; says what a file without tiers cannot show."""
    matches = [match for name in columns if (match := EXPERT_COLUMN.fullmatch(name))]
    known = {(int(match[1]), match[2]) for match in matches if _holds(columns[match.group(0)])}
    renamed = [
        e for e, metric in known if metric == "grad_norm" and not {(e, name) for name in WHOLE_NORMS[1:3]} & known
    ]
    for expert in sorted(renamed):
        columns[_wide_name("norm", expert)] = columns[f"expert_{expert}_grad_norm"]
    if renamed:
        yield "expert_{i}_grad_norm was read as the norm of expert i's whole gradient"
    if known and not {metric for _, metric in known} & {*TIER_NORMS}:
        yield (
            "the file has no norm of any tier: awakening, divergence and sustainment compare tiers and cannot be judged"
        )


def _only_means(columns: dict[str, pa.ChunkedArray]) -> Iterator[str]:
    """Says that means of gradient entries were not taken for norms."""
    names = [
        f"expert_{match[1]}_{tier}_" for name in columns for tier in TIERS if (match := EXPERT_COLUMN.fullmatch(name))
    ]
    unused = sorted({f"{name}mean" for name in names if f"{name}mean" in columns and f"{name}norm" not in columns})
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        yield f"{unused[0]}{more} was not used: a mean is no norm, entries of opposite sign cancel in it"
