"""The relations of sets over their Parquet files, read when a question is asked."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from prismatic.contract.schema import PACKED_TABLES
from validation.files.read_sets import fetch_parts
from validation.files.set_manifest import PACKED, TABLES, Manifest, SetLocation, read_manifest
from validation.files.temporary import temporary_folder
from validation.query.packed_rows import with_unpacked_rows
from validation.query.relations import ROUTING, Relations


def relations_of_sets(uris: Sequence[str | Path]) -> Relations:
    """Return a relation for each table of the sets. Raises NotASet.

    They take no memory up front: a question reads only the columns and rows that it needs. Sets in an object store are
    copied to this machine, where they stay until this process ends.
    """
    sets = [_here(SetLocation.parse(uri)) for uri in uris]
    views = {}
    for table in TABLES:
        selects = [_select(folder, manifest, table) for folder, manifest in sets if _has(manifest, table)]
        # A view of ours asks for it, and sets of earlier versions have no such column.
        selects += ["SELECT CAST(NULL AS DOUBLE) AS token_share WHERE false"] if table == "layers" else []
        if selects:
            views[table] = " UNION ALL BY NAME ".join(selects)
    views["routing"] = ROUTING
    return Relations(views=views, folders=[str(folder) for folder, _ in sets])


def _here(location: SetLocation) -> tuple[Path, Manifest]:
    """Return the folder on this machine that holds a set, and its manifest."""
    manifest = read_manifest(location)
    if location.is_folder:
        return Path(location.root), manifest
    folder = Path(tempfile.mkdtemp(prefix="set-", dir=temporary_folder()))
    fetch_parts(location, manifest.parts, folder)
    return folder, manifest


def _has(manifest: Manifest, table: str) -> bool:
    return table not in PACKED or bool(manifest.files(table))


def _select(folder: Path, manifest: Manifest, table: str) -> str:
    """Return the SELECT of a table of one set."""
    place = _parquet(folder, manifest.files(table))
    if table == "facts":
        return f"SELECT run, key, coalesce(json_extract_string(value, '$'), value) AS value FROM {place}"
    packed = PACKED_TABLES.get(table)
    lists = _parquet(folder, manifest.files(packed)) if packed and _has(manifest, packed) else None
    return with_unpacked_rows(table, place, lists)


def _parquet(folder: Path, files: Sequence[str]) -> str:
    """Return the SQL that goes after FROM for some files of a set."""
    quoted = ", ".join("'" + f"{folder}/{file}".replace("'", "''") + "'" for file in files)
    return f"read_parquet([{quoted}], union_by_name = true, hive_partitioning = false)"
