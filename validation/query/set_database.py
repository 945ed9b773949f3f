"""The relations of sets over their Parquet files, read when a question is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prismatic.contract.schema import PACKED_TABLES
from validation.files.parquet_set import RUN_COLUMNS, open_table
from validation.files.set_manifest import PACKED, TABLES, Manifest, SetLocation, read_manifest
from validation.query.packed_rows import with_unpacked_rows
from validation.query.relations import ROUTING, Relations


def relations_of_sets(uris: Sequence[str | Path]) -> Relations:
    """Return a relation for each table of the sets. Raises NotASet.

    Sets in folders take no memory up front: a question reads only the columns and rows that it needs. Sets in an object
    store are loaded.
    """
    locations = [SetLocation.parse(uri) for uri in uris]
    manifests = [read_manifest(location) for location in locations]
    tables: dict[str, Callable[[], pa.RecordBatchReader]] = {}

    def place_of(number: int, table: str) -> str | None:
        """Return what goes after FROM for a table of one set; None if it has no such files."""
        location, manifest = locations[number], manifests[number]
        if table in PACKED and not manifest.files(table):
            return None
        if location.is_folder:
            return _parquet(location, manifest.files(table))
        tables[f"{table}_{number}"] = partial(_read, location, manifest, table)
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


def _parquet(location: SetLocation, files: Sequence[str]) -> str:
    """Return the SQL that goes after FROM for some files of a set in a folder."""
    quoted = ", ".join("'" + f"{location.root}/{file}".replace("'", "''") + "'" for file in files)
    return f"read_parquet([{quoted}], union_by_name = true, hive_partitioning = false)"


def _read(location: SetLocation, manifest: Manifest, table: str) -> pa.RecordBatchReader:
    """Return the rows of one table of a set, whose files are fetched and checked one after the other."""
    parts = [part for part in manifest.parts if table in part.hashes]
    names = [f"{location.root}/{part.file(table)}" for part in parts]
    schemas = [pq.read_schema(name, filesystem=location.filesystem) for name in names]
    columns = pa.unify_schemas(schemas or [RUN_COLUMNS if table == "runs" else pa.schema([("run", pa.string())])])

    def batches() -> Iterator[pa.RecordBatch]:
        for part in parts:
            with open_table(location, part, table) as file:
                found = [columns.empty_table(), pq.read_table(file)]
                yield from pa.concat_tables(found, promote_options="default").to_batches()

    return pa.RecordBatchReader.from_batches(columns, batches())
