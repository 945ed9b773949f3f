"""The DuckDB database of sets: relations over their Parquet files, read when a question is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from validation.files.parquet_set import RUN_COLUMNS, TABLES, SetLocation, list_parts, read_manifest
from validation.query.database import empty_connection, lock


def connect_sets(uris: Sequence[str | Path]) -> duckdb.DuckDBPyConnection:
    """Return a database with a relation for each table of the sets. Raises NotASet.

    Sets in folders take no memory up front: a question reads only the columns and rows that it needs. Sets in an object
    store are loaded.
    """
    locations = [SetLocation.parse(uri) for uri in uris]
    for location in locations:
        read_manifest(location)
    con = empty_connection()
    folders = [location.root for location in locations if location.is_folder]
    con.execute("SET allowed_directories = $folders", {"folders": folders})
    for table in TABLES:
        columns = "*" if table != "facts" else "run, key, coalesce(json_extract_string(value, '$'), value) AS value"
        relations = [f"SELECT {columns} FROM {_relation(con, each, table, i)}" for i, each in enumerate(locations)]
        con.execute(f"CREATE VIEW {table} AS {' UNION ALL BY NAME '.join(relations)}")
    lock(con)
    return con


def _relation(con: duckdb.DuckDBPyConnection, location: SetLocation, table: str, number: int) -> str:
    """Return the SQL that goes after FROM for one table of a set."""
    if location.is_folder:
        files = [f"{location.root}/{table}/{part}.parquet" for part in list_parts(location)]
        quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        return f"read_parquet([{quoted}], union_by_name = true, hive_partitioning = false)"
    con.register("loading", _dataset(location, table))
    con.execute(f"CREATE TABLE {table}_{number} AS SELECT * FROM loading")
    con.unregister("loading")
    return f"{table}_{number}"


def _dataset(location: SetLocation, table: str) -> ds.Dataset:
    """Return one table of a set, to be scanned lazily."""
    files = [f"{location.root}/{table}/{part}.parquet" for part in list_parts(location)]
    if not files:
        empty = RUN_COLUMNS.empty_table() if table == "runs" else pa.table({"run": pa.array([], pa.string())})
        return ds.dataset(empty)
    schemas = [pq.read_schema(file, filesystem=location.filesystem) for file in files]
    return ds.dataset(files, schema=pa.unify_schemas(schemas), format="parquet", filesystem=location.filesystem)
