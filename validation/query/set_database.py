"""The relations of sets over their Parquet files, read when a question is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from prismatic.contract.schema import PACKED_TABLES
from validation.files.parquet_set import PACKED, RUN_COLUMNS, TABLES, SetLocation, list_parts, read_manifest
from validation.query.packed_rows import with_unpacked_rows
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

    def place_of(number: int, table: str) -> str | None:
        """Return what goes after FROM for a table of one set; None if it has no such files."""
        location = locations[number]
        if table in PACKED and not list_parts(location, table):
            return None
        if location.is_folder:
            return _parquet(location, table)
        tables[f"{table}_{number}"] = partial(_read, location, table)
        return f"{table}_{number}"

    views = {}
    for table in TABLES:
        selects = []
        for number in range(len(locations)):
            place = place_of(number, table)
            if place is None:
                continue
            if table == "facts":
                value = "coalesce(json_extract_string(value, '$'), value) AS value"
                selects.append(f"SELECT run, key, {value} FROM {place}")
            else:
                packed = place_of(number, PACKED_TABLES[table]) if table in PACKED_TABLES else None
                selects.append(with_unpacked_rows(table, place, packed))
        # A view of ours asks for it, and sets of earlier versions have no such column.
        selects += ["SELECT CAST(NULL AS DOUBLE) AS token_share WHERE false"] if table == "layers" else []
        if selects:
            views[table] = " UNION ALL BY NAME ".join(selects)
    views["routing"] = ROUTING
    return Relations(tables, views, [str(location.root) for location in locations if location.is_folder])


def _parquet(location: SetLocation, table: str) -> str:
    """Return the SQL that goes after FROM for one table of a set in a folder."""
    files = [f"{location.root}/{table}/{part}.parquet" for part in _parts(location, table)]
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"read_parquet([{quoted}], union_by_name = true, hive_partitioning = false)"


def _parts(location: SetLocation, table: str) -> list[str]:
    return list_parts(location, table) if table in PACKED else list_parts(location)


def _read(location: SetLocation, table: str) -> pa.RecordBatchReader:
    return _dataset(location, table).scanner().to_reader()


def _dataset(location: SetLocation, table: str) -> ds.Dataset:
    """Return one table of a set, to be scanned lazily."""
    files = [f"{location.root}/{table}/{part}.parquet" for part in _parts(location, table)]
    if not files:
        empty = RUN_COLUMNS.empty_table() if table == "runs" else pa.table({"run": pa.array([], pa.string())})
        return ds.dataset(empty)
    schemas = [pq.read_schema(file, filesystem=location.filesystem) for file in files]
    return ds.dataset(files, schema=pa.unify_schemas(schemas), format="parquet", filesystem=location.filesystem)
