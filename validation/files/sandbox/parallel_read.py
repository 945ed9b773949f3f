"""Read a long run file with two child processes at once, half of the rows of `dynamics` each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from validation.files.errors import RunFileError
from validation.files.limits import ReadLimits
from validation.files.sandbox.sqlite_client import FileContents, ReadPosition, SqliteClient

LONG_FILE = 4 << 20  # bytes; in a shorter file, starting a second process takes as long as reading half of the rows


def read_whole(client: SqliteClient, path: Path, name: str, *, immutable: bool) -> FileContents:
    """Return the same as `client.read` for the whole file, faster if the file is long. Raises RunFileError."""
    second = client.start_second(path) if _size(path) >= LONG_FILE else None
    if second is None:
        return client.read(path, name, immutable=immutable)
    with contextlib.closing(second):
        middle = client.middle_rowid(path, name, immutable=immutable)
        contents = None if middle is None else _read_halves(client, second, path, name, immutable, middle)
    # Reading the whole file finds the error in its second half, or in both halves together.
    return contents or client.read(path, name, immutable=immutable)


def _read_halves(
    client: SqliteClient, second: SqliteClient, path: Path, name: str, immutable: bool, middle: int
) -> FileContents | None:
    """Return the contents from two halves, the first with all side tables; None if they do not fit together."""
    with ThreadPoolExecutor(1) as pool:
        since = {"dynamics": middle + 1}
        future = pool.submit(second.read, path, name, immutable=immutable, since=since, side_tables=())
        try:
            facts, tables = client.read(path, name, immutable=immutable, until={"dynamics": middle})
        except RunFileError:
            second.close()  # the second half is of no use now
            raise
        try:
            later, rest = future.result()
        except RunFileError:
            return None
    if rest["dynamics"].schema != tables["dynamics"].schema:
        return None  # the table was altered between the two readings
    tables["dynamics"] = pa.concat_tables([tables["dynamics"], rest["dynamics"]]).combine_chunks()
    facts["position"] = _joint_position(facts["position"], later["position"])
    return (facts, tables) if within_limits(tables, client.limits) else None


def _joint_position(first: ReadPosition | None, second: ReadPosition | None) -> ReadPosition | None:
    """Return the position of both halves. An event since the earlier one may have replaced rows of the other half."""
    if first is None or second is None:
        return None
    return ReadPosition(min(first.last_event, second.last_event), {**first.last_rowids, **second.last_rowids})


def within_limits(tables: Mapping[str, pa.Table], limits: ReadLimits) -> bool:
    """Return whether the tables together are small enough to have been read in one piece."""
    values = sum(len(table) * table.num_columns for table in tables.values())
    return values <= limits.values and max(map(len, tables.values())) <= limits.rows


def _size(path: Path) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # the child reports it
        return 0
