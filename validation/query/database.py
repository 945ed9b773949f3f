"""Runs in, one DuckDB connection out: the relations that every question is asked of.

runs        a row per file: what it is called, how long it is, the options that runs are grouped by
dynamics    tidy: a row per run, step and expert
layers      a row per run, step, layer, expert and source
histograms  a row per run, step, layer, expert, tier and bin
facts       a row per run and fact; options are called config.NAME
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from prismatic.contract import schema
from validation.files.errors import Limits, rejection
from validation.files.read_files import RunFile, arrow_schema
from validation.text import printable

DUCKDB_MEMORY = "4GB"
COPIED = ("top_norm", "bottom_norm", "middle_norm", "routing_weight", "bottom_to_middle")
COMPARED = ("divergence", "relative_divergence", "direction")  # with expert 0, which has none itself

RUNS = pa.schema(
    [(name, pa.string()) for name in ("run", "name", "file", "sha256")]
    + [(name, pa.int64()) for name in ("steps", "first_step", "last_step")]
    + [("experts", pa.int32()), ("seed", pa.int64()), ("perturbation_scale", pa.float64()), ("sparsity", pa.float64())]
    + [("merge", pa.string()), ("routing", pa.string())]
)
DYNAMICS = pa.schema(
    [("run", pa.string()), ("step", pa.int64()), ("expert", pa.int32()), ("role", pa.string())]
    + [(name, pa.float64()) for name in (*COPIED[:3], "norm", *COPIED[3:], *COMPARED, "loss")]
)
LAYERS = pa.schema([("run", pa.string()), *arrow_schema("layers")])
HISTOGRAMS = pa.schema([("run", pa.string()), *arrow_schema("histograms")])
# What `dynamics` is kept as: numbers, and once per run and expert what is the same in all of its rows.
SERIES = pa.schema([("series", pa.int32()), *(DYNAMICS.field(name) for name in ("run", "expert", "role"))])
OF_A_STEP = pa.schema([field for field in DYNAMICS if field.name not in SERIES.names])
MEASURED = pa.schema([SERIES.field("series"), *OF_A_STEP])
VIEW = f"CREATE VIEW dynamics AS SELECT {', '.join(DYNAMICS.names)} FROM measured JOIN series USING (series)"
ROWS_AT_ONCE = 250_000  # that are put together for DuckDB: short pieces take it longer, all at once twice the memory

FACTS = pa.schema([("run", pa.string()), ("key", pa.string()), ("value", pa.string())])


def connect(runs: Sequence[RunFile]) -> duckdb.DuckDBPyConnection:
    """An in-memory database of the relations above.

    It can open nothing outside itself. Take `con.cursor()` in each thread, as `queries.ask` does. Raises TooLarge where
    the runs do not fit into memory together.
    """
    con = empty_connection()
    series = [{"run": run.run, "expert": expert, "role": role} for run in runs for expert, role in _experts(run)]
    tables: dict[str, tuple[pa.Schema, Iterable[pa.Table]]] = {
        "runs": (RUNS, [pa.Table.from_pylist([summary(run) for run in runs], schema=RUNS)]),
        "facts": (FACTS, [pa.Table.from_pylist([row for run in runs for row in _facts(run)], schema=FACTS)]),
        "series": (SERIES, [pa.Table.from_pylist([{"series": i, **row} for i, row in enumerate(series)], SERIES)]),
        "measured": (MEASURED, _measured(runs)),
        "layers": (LAYERS, (_named(run, run.layers, LAYERS) for run in runs)),
        "histograms": (HISTOGRAMS, (_named(run, run.histograms, HISTOGRAMS) for run in runs)),
    }
    try:
        for name, (columns, parts) in tables.items():
            con.register("loading", pa.RecordBatchReader.from_batches(columns, _together(parts)))
            con.execute(f"CREATE TABLE {name} AS SELECT * FROM loading")  # the names above: none is a file's
            con.unregister("loading")
        con.execute(VIEW)
    except duckdb.OutOfMemoryException:
        con.close()
        raise rejection("all runs together", "together", Limits(), most=DUCKDB_MEMORY) from None
    shut(con)
    return con


def _together(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    """Their rows in pieces that are worth the walk, made one by one."""
    pending: list[pa.Table] = []
    rows = 0
    for table in tables:
        pending.append(table)
        rows += len(table)
        if rows >= ROWS_AT_ONCE:
            yield from _in_one(pending)
            pending, rows = [], 0
    if pending:
        yield from _in_one(pending)


def _in_one(tables: Sequence[pa.Table]) -> list[pa.RecordBatch]:
    whole = pa.concat_tables(tables).combine_chunks() if len(tables) > 1 else tables[0]
    return list(whole.to_batches())


def _measured(runs: Sequence[RunFile]) -> Iterator[pa.Table]:
    """The rows of `dynamics` by the number of their series, of which there is one for each run and expert."""
    count = 0
    for run in runs:
        for _, _, rows in by_expert(run):
            yield rows.add_column(0, MEASURED.field("series"), pa.repeat(pa.scalar(count, pa.int32()), len(rows)))
            count += 1


def empty_connection() -> duckdb.DuckDBPyConnection:
    """An in-memory database with limits, still open to what is registered."""
    settings: dict[str, Any] = {
        "memory_limit": DUCKDB_MEMORY,
        "threads": str(min(4, os.cpu_count() or 1)),
        "temp_directory": "",
    }
    settings |= {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    return duckdb.connect(":memory:", config=settings)


def shut(con: duckdb.DuckDBPyConnection) -> None:
    """From here on it opens nothing outside itself, and nothing can change that."""
    for setting in ("python_enable_replacements=false", "enable_external_access=false", "lock_configuration=true"):
        con.execute(f"SET {setting}")


def _facts(run: RunFile) -> Iterator[dict[str, str]]:
    """Rows of `facts`; texts as they are, everything else as JSON says it."""
    for key, value in run.facts.items():
        yield {"run": run.run, "key": key, "value": value if isinstance(value, str) else json.dumps(value)}


def summary(run: RunFile) -> dict[str, object]:
    """The row of `runs`."""
    steps, options = run.wide["step"], {**run.facts, **run.config}
    return {
        "run": run.run,
        "name": run.name,
        "file": run.path.name,
        "sha256": run.sha256,
        "steps": len(steps),
        "first_step": steps[0].as_py() if len(steps) else None,
        "last_step": steps[-1].as_py() if len(steps) else None,
        "experts": run.num_experts,
        "seed": _integer(options.get("seed")),
        "perturbation_scale": _real(options.get("perturbation_scale")),
        "sparsity": _real(options.get("sparsity")),
        "merge": _text(options.get("merge")),
        "routing": _text(options.get("routing")),
    }


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def _real(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > sys.float_info.max:
        return None
    return float(value)


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _named(run: RunFile, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A side table with the run before each row."""
    return pa.table([pa.repeat(pa.scalar(run.run), len(table)), *table.columns], schema=schema)


RELATIONS = {
    "runs": RUNS.names,
    "dynamics": DYNAMICS.names,
    "layers": LAYERS.names,
    "histograms": HISTOGRAMS.names,
    "facts": FACTS.names,
}

# Of one wide table: Arrow's own look-up by name takes milliseconds at 2000 columns.
Columns = dict[str, pa.ChunkedArray]


def _columns(run: RunFile) -> Columns:
    return dict(zip(run.wide.column_names, run.wide.columns, strict=True))


def tidy(run: RunFile) -> Iterator[pa.Table]:
    """The rows of `dynamics`, a table for each expert."""
    for expert, role, rows in by_expert(run):
        own = {"run": pa.scalar(run.run), "expert": pa.scalar(expert, pa.int32()), "role": pa.scalar(role)}
        columns = {name: pa.repeat(value, len(rows)) for name, value in own.items()}
        columns |= dict(zip(rows.column_names, rows.columns, strict=True))
        yield pa.table([columns[name] for name in DYNAMICS.names], schema=DYNAMICS)


def by_expert(run: RunFile) -> Iterator[tuple[int, str, pa.Table]]:
    """Each expert with its role and what `dynamics` has of each step; NULL where the file lacks a column."""
    wide, nothing = _columns(run), pa.nulls(len(run.wide), pa.float64())
    for expert, role in _experts(run):
        names = (*COPIED, *COMPARED) if expert else COPIED
        found = {name: wide.get(f"expert_{expert}_{name}") for name in names}
        found |= {"step": wide["step"], "norm": _whole_norm(wide, expert), "loss": wide.get("loss")}
        if expert and (found["divergence"] is None or found["divergence"].null_count == len(run.wide)):
            found["divergence"] = _derived_divergence(wide, expert)
        columns = [found.get(name) for name in OF_A_STEP.names]
        yield expert, role, pa.table([nothing if one is None else one for one in columns], schema=OF_A_STEP)


def _experts(run: RunFile) -> list[tuple[int, str]]:
    """Each expert with the role that the file names, if it is one: expert 0, and no other, is the clean one."""
    named = zip(run.experts["expert"].to_pylist(), run.experts["role"].to_pylist(), strict=True)
    roles = {expert: role for expert, role in named if expert and role in schema.ROLES[1:]}
    return [(expert, roles.get(expert, "perturbed" if expert else "clean")) for expert in run.expert_ids]


def _tiers(wide: Columns, expert: int) -> dict[str, np.ndarray]:
    """The tier norms that the file has of this expert; NaN is NULL."""
    names = {tier: f"expert_{expert}_{tier}_norm" for tier in schema.TIERS}
    return {tier: wide[name].to_numpy() for tier, name in names.items() if name in wide}


def _whole_norm(wide: Columns, expert: int) -> pa.ChunkedArray | pa.Array | None:
    """Norm of the whole gradient: as logged, else of the three tiers, which part the weights among them."""
    for whole in ("perturbed_norm", "clean_norm") if expert else ("clean_norm", "perturbed_norm"):
        if f"expert_{expert}_{whole}" in wide:
            return wide[f"expert_{expert}_{whole}"]
    tiers = _tiers(wide, expert)
    if len(tiers) < len(schema.TIERS):
        return None
    with np.errstate(over="ignore"):  # hypot, not squares: the square of 1e200 is infinite, that norm is not
        return pa.array(np.hypot(np.hypot(tiers["top"], tiers["bottom"]), tiers["middle"]), from_pandas=True)


def _derived_divergence(wide: Columns, expert: int) -> pa.Array | None:
    """Mean over the tiers that both experts have of |norm_i - norm_0|, as the documentation defines it."""
    own, clean = _tiers(wide, expert), _tiers(wide, 0)
    shared = [tier for tier in own if tier in clean]
    if not shared:
        return None
    with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity is NaN, and NULL
        return pa.array(np.mean([np.abs(own[tier] - clean[tier]) for tier in shared], axis=0), from_pandas=True)
