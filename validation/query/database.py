"""The relations over some runs that SQL questions are asked of, and the in-memory DuckDB database of them.

runs        a row per file: its name, its length, the options that runs are grouped by
dynamics    tidy: a row per run, step and expert
steps       a row per run and step: loss, learning rate, time, and how evenly tokens are routed over all layers
layers      a row per run, step, layer, expert and source
routing     a row per run, step and layer: how evenly its router sent tokens (a view of `layers`)
pairs       a row per run, step, layer and pair of experts, measured by the isolated probe; of runs with many experts
            it and `layers` are views, which unpack their lists when they are asked
histograms  a row per run, step, layer, expert, tier and bin
facts       a row per run and fact; options are called config.NAME or option.NAME
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import duckdb
import pyarrow as pa

from prismatic.contract.schema import PACKED_TABLES
from validation.files.errors import rejection
from validation.files.limits import ReadLimits
from validation.files.run_file import RunFile, arrow_schema
from validation.files.tables.tidy import (
    DYNAMICS,
    HISTOGRAMS,
    LAYERS,
    PAIRS,
    PER_STEP,
    RUNS,
    STEPS,
    by_expert,
    expert_roles,
    of_steps,
    summary,
)
from validation.query.packed_rows import with_unpacked_rows
from validation.query.relations import MEMORY, ROUTING, Relations, batches_of, connect_relations

# `dynamics` is a view: run, expert and role are stored once per series, in place of once per row.
SERIES = pa.schema([("series", pa.int32()), *(DYNAMICS.field(name) for name in ("run", "expert", "role"))])
MEASURED = pa.schema([SERIES.field("series"), *PER_STEP])
VIEW = f"SELECT {', '.join(DYNAMICS.names)} FROM measured JOIN series USING (series)"
BATCH_ROWS = 250_000  # loaded into DuckDB at once: smaller batches take longer, all rows at once twice the memory
FACTS = pa.schema([("run", pa.string()), ("key", pa.string()), ("value", pa.string())])
RELATIONS = {
    "runs": RUNS.names,
    "dynamics": DYNAMICS.names,
    "steps": STEPS.names,
    "layers": LAYERS.names,
    "routing": ["run", "step", "layer", "entropy", "violation", "unused"],
    "pairs": PAIRS.names,
    "histograms": HISTOGRAMS.names,
    "facts": FACTS.names,
}


def relations_of(runs: Sequence[RunFile]) -> Relations:
    """Return the relations above."""
    series = [{"run": run.id, "expert": expert, "role": role} for run in runs for expert, role in expert_roles(run)]
    rows: dict[str, tuple[pa.Schema, Callable[[], Iterable[pa.Table]]]] = {
        "runs": (RUNS, lambda: [pa.Table.from_pylist([summary(run) for run in runs], schema=RUNS)]),
        "facts": (FACTS, lambda: [pa.Table.from_pylist([row for run in runs for row in _facts(run)], schema=FACTS)]),
        "series": (
            SERIES,
            lambda: [pa.Table.from_pylist([{"series": i, **row} for i, row in enumerate(series)], SERIES)],
        ),
        "measured": (MEASURED, lambda: _measured(runs)),
        "steps": (STEPS, lambda: map(of_steps, runs)),
        "histograms": (HISTOGRAMS, partial(_side_tables, runs, "histograms", HISTOGRAMS)),
    }
    views = {"dynamics": VIEW}
    for table, columns in (("layers", LAYERS), ("pairs", PAIRS)):
        packed = PACKED_TABLES[table]
        if any(len(getattr(run, packed)) for run in runs):
            rows[f"{table}_as_rows"] = (columns, partial(_side_tables, runs, table, columns))
            lists = pa.schema([("run", pa.string()), *arrow_schema(packed)])
            rows[packed] = (lists, partial(_side_tables, runs, packed, lists))
            views[table] = with_unpacked_rows(table, f"{table}_as_rows", packed)
        else:
            rows[table] = (columns, partial(_side_tables, runs, table, columns))
    tables = {name: partial(_reader, *parts) for name, parts in rows.items()}
    large = ("wide", "layers", "packed_layers", "pairs", "packed_pairs", "histograms")
    held = (getattr(run, table) for run in runs for table in large)
    size = sum(table.nbytes for table in held if len(table))
    return Relations(tables, {**views, "routing": ROUTING}, bytes=size)


def connect(runs: Sequence[RunFile]) -> duckdb.DuckDBPyConnection:
    """Return an in-memory database of the relations above, which can open nothing outside itself.

    Take `con.cursor()` in each thread, as `questions.ask` does. Raises TooLarge if the runs together do not fit into
    its memory.
    """
    return open_database(relations_of(runs))


def open_database(relations: Relations, memory: int = MEMORY) -> duckdb.DuckDBPyConnection:
    """Return an in-memory database of the relations. Raises TooLarge if they do not fit into so many bytes."""
    try:
        return connect_relations(relations, memory)
    except duckdb.OutOfMemoryException:
        most = f"{memory >> 20:,} MiB"
        raise rejection("all runs together", "together", ReadLimits(), most=most) from None


def _reader(columns: pa.Schema, parts: Callable[[], Iterable[pa.Table]]) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(columns, batches_of(iter(parts()), BATCH_ROWS))


def _measured(runs: Sequence[RunFile]) -> Iterator[pa.Table]:
    """Yield the rows of `measured`: the values per step, with the number of their series (one per run and expert)."""
    count = 0
    for run in runs:
        for _, _, rows in by_expert(run):
            yield rows.add_column(0, MEASURED.field("series"), pa.repeat(pa.scalar(count, pa.int32()), len(rows)))
            count += 1


def _facts(run: RunFile) -> Iterator[dict[str, str]]:
    """Yield the rows of `facts`: texts as they are, other values as JSON."""
    for key, value in run.facts.items():
        yield {"run": run.id, "key": key, "value": value if isinstance(value, str) else json.dumps(value)}


def _side_tables(runs: Sequence[RunFile], table: str, schema: pa.Schema) -> Iterator[pa.Table]:
    return (_with_run(run, getattr(run, table), schema) for run in runs)


def _with_run(run: RunFile, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a side table with the run's id as its first column."""
    return pa.table([pa.repeat(pa.scalar(run.id), len(table)), *table.columns], schema=schema)
