"""Relations, a named set of tables that SQL is asked of, and the DuckDB database that holds them.

A process that asks in SQL of its own opens them by itself. SQL by the user is answered by another process
(sql_worker.py), which gets them through a pipe: so this file needs nothing but DuckDB and Arrow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

MEMORY = 4 << 30  # bytes that a database may take

# The view `routing`: the entropy of the experts' shares of tokens over that of even ones, the largest share over an
# even one minus 1 (MaxVio of Wang et al. 2024), and the number of experts without a token.
ROUTING = """
SELECT run, step, layer,
       -sum(CASE WHEN token_share > 0 THEN token_share * ln(token_share) ELSE 0 END)
           / nullif(ln(count(*)), 0) AS entropy,
       max(token_share) * count(*) - 1 AS violation,
       count(*) FILTER (token_share = 0) AS unused
FROM layers
WHERE source = 'merged' AND token_share IS NOT NULL
GROUP BY run, step, layer
"""


@dataclass(frozen=True)
class Relations:
    """Tables, the views over them, and the folders whose Parquet files the views read."""

    tables: Mapping[str, Callable[[], pa.RecordBatchReader]] = field(default_factory=dict)
    """The rows of each table by its name. They can be read more than once."""
    views: Mapping[str, str] = field(default_factory=dict)
    """The SELECT of each view."""
    folders: Sequence[str] = ()
    bytes: int = 0
    """About the size of the tables."""


def connect_relations(relations: Relations, memory: int = MEMORY) -> duckdb.DuckDBPyConnection:
    """Return an in-memory database of the relations, which can open nothing but their folders.

    memory: bytes. Raises duckdb.OutOfMemoryException if the tables do not fit into it.
    """
    con = empty_database(memory, threads=min(4, os.cpu_count() or 1))
    try:
        load(con, relations)
    except BaseException:
        con.close()
        raise
    return con


def empty_database(memory: int, *, threads: int) -> duckdb.DuckDBPyConnection:
    """Return a database without tables that may take so many bytes."""
    settings: dict[str, Any] = {
        "memory_limit": f"{memory // 2**20}MiB",
        "threads": str(threads),
        "async_threads": "0",  # for remote files; they would run before the walls are up
        "temp_directory": "",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    return duckdb.connect(":memory:", config=settings)


def load(con: duckdb.DuckDBPyConnection, relations: Relations) -> None:
    """Load the relations into a database, which can open nothing but their folders from then on."""
    for name, rows in relations.tables.items():
        con.register("loading", rows())
        con.execute(f"CREATE TABLE {name} AS SELECT * FROM loading")  # names and views are ours, not the user's
        con.unregister("loading")
    con.execute("SET allowed_directories = $folders", {"folders": [*relations.folders]})
    for name, select in relations.views.items():
        con.execute(f"CREATE VIEW {name} AS {select}")
    _lock(con)


def _lock(con: duckdb.DuckDBPyConnection) -> None:
    """Forbid the connection, permanently, to open anything outside itself."""
    for setting in ("python_enable_replacements=false", "enable_external_access=false", "lock_configuration=true"):
        con.execute(f"SET {setting}")


def batches_of(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of tables in batches of about so many rows."""
    pending: list[pa.Table] = []
    for table in tables:
        pending.append(table)
        if sum(map(len, pending)) >= rows:
            yield from _concatenated(pending)
            pending = []
    if pending:
        yield from _concatenated(pending)


def _concatenated(tables: Sequence[pa.Table]) -> list[pa.RecordBatch]:
    whole = pa.concat_tables(tables).combine_chunks() if len(tables) > 1 else tables[0]
    return list(whole.to_batches())
