"""The in-memory DuckDB database of some runs: the relations that SQL questions are asked of, and its memory limit.

runs        a row per file: its name, its length, the options that runs are grouped by
dynamics    tidy: a row per run, step and expert
layers      a row per run, step, layer, expert and source
pairs       a row per run, step, layer and pair of experts, measured by the isolated probe
histograms  a row per run, step, layer, expert, tier and bin
facts       a row per run and fact; options are called config.NAME
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from validation.files.errors import rejection
from validation.files.limits import ReadLimits
from validation.files.run_file import RunFile
from validation.files.tidy import DYNAMICS, HISTOGRAMS, LAYERS, PAIRS, PER_STEP, RUNS, by_expert, expert_roles, summary

DUCKDB_MEMORY = "4GB"
# `dynamics` is a view: run, expert and role are stored once per series, in place of once per row.
SERIES = pa.schema([("series", pa.int32()), *(DYNAMICS.field(name) for name in ("run", "expert", "role"))])
MEASURED = pa.schema([SERIES.field("series"), *PER_STEP])
VIEW = f"CREATE VIEW dynamics AS SELECT {', '.join(DYNAMICS.names)} FROM measured JOIN series USING (series)"
BATCH_ROWS = 250_000  # loaded into DuckDB at once: smaller batches take longer, all rows at once twice the memory
FACTS = pa.schema([("run", pa.string()), ("key", pa.string()), ("value", pa.string())])
RELATIONS = {
    "runs": RUNS.names,
    "dynamics": DYNAMICS.names,
    "layers": LAYERS.names,
    "pairs": PAIRS.names,
    "histograms": HISTOGRAMS.names,
    "facts": FACTS.names,
}


def connect(runs: Sequence[RunFile]) -> duckdb.DuckDBPyConnection:
    """Return an in-memory database of the relations above, which can open nothing outside itself.

    Take `con.cursor()` in each thread, as `questions.ask` does. Raises TooLarge if the runs together do not fit into
    DUCKDB_MEMORY.
    """
    con = empty_connection()
    series = [{"run": run.id, "expert": expert, "role": role} for run in runs for expert, role in expert_roles(run)]
    tables: dict[str, tuple[pa.Schema, Iterable[pa.Table]]] = {
        "runs": (RUNS, [pa.Table.from_pylist([summary(run) for run in runs], schema=RUNS)]),
        "facts": (FACTS, [pa.Table.from_pylist([row for run in runs for row in _facts(run)], schema=FACTS)]),
        "series": (SERIES, [pa.Table.from_pylist([{"series": i, **row} for i, row in enumerate(series)], SERIES)]),
        "measured": (MEASURED, _measured(runs)),
        "layers": (LAYERS, (_with_run(run, run.layers, LAYERS) for run in runs)),
        "pairs": (PAIRS, (_with_run(run, run.pairs, PAIRS) for run in runs)),
        "histograms": (HISTOGRAMS, (_with_run(run, run.histograms, HISTOGRAMS) for run in runs)),
    }
    try:
        for name, (columns, parts) in tables.items():
            con.register("loading", pa.RecordBatchReader.from_batches(columns, _batches(parts)))
            con.execute(f"CREATE TABLE {name} AS SELECT * FROM loading")  # `name` is a key of `tables`, not user input
            con.unregister("loading")
        con.execute(VIEW)
    except duckdb.OutOfMemoryException:
        con.close()
        raise rejection("all runs together", "together", ReadLimits(), most=DUCKDB_MEMORY) from None
    lock(con)
    return con


def empty_connection() -> duckdb.DuckDBPyConnection:
    """Return an in-memory database with limits that can still load registered data; `lock` it afterwards."""
    settings: dict[str, Any] = {
        "memory_limit": DUCKDB_MEMORY,
        "threads": str(min(4, os.cpu_count() or 1)),
        "temp_directory": "",
    }
    settings |= {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    return duckdb.connect(":memory:", config=settings)


def lock(con: duckdb.DuckDBPyConnection) -> None:
    """Forbid the connection, permanently, to open anything outside itself."""
    for setting in ("python_enable_replacements=false", "enable_external_access=false", "lock_configuration=true"):
        con.execute(f"SET {setting}")


def _batches(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the tables in batches of about BATCH_ROWS."""
    pending: list[pa.Table] = []
    rows = 0
    for table in tables:
        pending.append(table)
        rows += len(table)
        if rows >= BATCH_ROWS:
            yield from _concatenated(pending)
            pending, rows = [], 0
    if pending:
        yield from _concatenated(pending)


def _concatenated(tables: Sequence[pa.Table]) -> list[pa.RecordBatch]:
    whole = pa.concat_tables(tables).combine_chunks() if len(tables) > 1 else tables[0]
    return list(whole.to_batches())


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


def _with_run(run: RunFile, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a side table with the run's id as its first column."""
    return pa.table([pa.repeat(pa.scalar(run.id), len(table)), *table.columns], schema=schema)
