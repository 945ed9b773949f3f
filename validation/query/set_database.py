"""The relations of sets over their Parquet files, read when a question is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from validation.files.parquet_set import RUN_COLUMNS, TABLES, SetLocation, list_parts, read_manifest
from validation.query.relations import ROUTING, Relations


def relations_of_sets(uris: Sequence[str | Path]) -> Relations:
    """Return a relation for each table of the sets. Raises NotASet.

    Sets in folders take no memory up front: a question reads only the columns and rows that it needs. Sets in an object
    store are loaded.
    """
    locations = [SetLocation.parse(uri) for uri in uris]
    for location in locations:
        read_manifest(location)
    tables: dict[str, Callable[[], pa.RecordBatchReader]] = {}
    views = {}
    for table in TABLES:
        selects = []
        for number, location in enumerate(locations):
            if not location.is_folder:
                tables[f"{table}_{number}"] = partial(_read, location, table)
            columns = "*" if table != "facts" else "run, key, coalesce(json_extract_string(value, '$'), value) AS value"
            place = _parquet(location, table) if location.is_folder else f"{table}_{number}"
            selects.append(f"SELECT {columns} FROM {place}")
        views[table] = " UNION ALL BY NAME ".join(selects)
    views["routing"] = ROUTING
    return Relations(tables, views, [str(location.root) for location in locations if location.is_folder])


def _parquet(location: SetLocation, table: str) -> str:
    """Return the SQL that goes after FROM for one table of a set in a folder."""
    files = [f"{location.root}/{table}/{part}.parquet" for part in list_parts(location)]
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"read_parquet([{quoted}], union_by_name = true, hive_partitioning = false)"


def _read(location: SetLocation, table: str) -> pa.RecordBatchReader:
    return _dataset(location, table).scanner().to_reader()


def _dataset(location: SetLocation, table: str) -> ds.Dataset:
    """Return one table of a set, to be scanned lazily."""
    files = [f"{location.root}/{table}/{part}.parquet" for part in list_parts(location)]
    if not files:
        empty = RUN_COLUMNS.empty_table() if table == "runs" else pa.table({"run": pa.array([], pa.string())})
        return ds.dataset(empty)
    schemas = [pq.read_schema(file, filesystem=location.filesystem) for file in files]
    return ds.dataset(files, schema=pa.unify_schemas(schemas), format="parquet", filesystem=location.filesystem)
