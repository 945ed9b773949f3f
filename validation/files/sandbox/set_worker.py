"""The child process that opens untrusted sets: it sends the tables of each run.

Parquet readers trust their input: they are large and fast, and a file can ask them for any amount of memory. So a set
is opened here, under limits, and the parent checks every table. set_client.py starts this file as `python -I -S -B`,
with the folders to import from as arguments and one line of JSON on stdin: the folder of the set, the parts to read
with the hashes of their files, the limits. The reply has for each part a line for each of its runs, and one that ends
the part:

    {"id": ID, "name": NAME, ..., "tables": {...}}   then the values of these tables, as sqlite_worker.py sends them
    {"end": null}                                    or the code and facts of the error
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from validation.files.run_file import RunFile

TEXTS, CHARACTERS = 100, 500  # of the notes of a run, and of its damage


def main() -> None:
    """Handle one request."""
    sys.path += sys.argv[1:]
    from prismatic.sandbox.limits import allow_seconds, set_limits
    from prismatic.sandbox.walls import enforce

    request = json.loads(sys.stdin.buffer.readline())
    limits = request["limits"]
    load_libraries()
    set_limits({"AS": limits["memory_bytes"], "FSIZE": 0, "NOFILE": 64, "CORE": 0})
    enforce(folders=[request["path"]], threads=True)
    for part, hashes in request["parts"]:
        allow_seconds(limits["seconds"])
        send({"end": send_part(request["path"], part, hashes, limits)})


def load_libraries() -> None:
    """Load what reading a set needs, because behind the walls no library can be loaded, and start no thread yet."""
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    from validation.files.parquet_set import RowsByRun
    from validation.files.sandbox import zip_worker  # noqa: F401

    pa.set_cpu_count(1)
    written = pa.BufferOutputStream()
    pq.write_table(pa.table({"run": ["a"], "step": [1], "name": ["b"]}), written, compression="zstd")
    hashlib.sha256(written.getvalue()).hexdigest()
    rows = RowsByRun(pa.BufferReader(written.getvalue())).take("a")
    columns = {"INTEGER": rows["step"], "REAL": rows["step"], "TEXT": rows["name"], "BLOB": pa.chunked_array([[[1.0]]])}
    for kind, column in columns.items():
        encoded(column, kind)


def send_part(path: str, part: str, hashes: dict[str, str], limits: dict[str, Any]) -> list[Any] | None:
    """Send every run of one part; return code and facts of the error that ends it: a hostile set provokes anything."""
    from validation.files.sandbox.zip_worker import Reject

    try:
        send_runs(path, part, hashes, limits)
    except Exception as error:
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            return ["too_large", {"limit": "memory_bytes"}]
        if isinstance(error, Reject):
            return [error.code, error.details]
        return ["bad_set", {"problem": str(getattr(error, "evidence", "") or error)[:200] or type(error).__name__}]
    return None


def send_runs(path: str, part: str, hashes: dict[str, str], limits: dict[str, Any]) -> None:
    """Send every run of one part. Raises Reject, NotASet, and whatever a damaged value provokes."""
    from validation.files.parquet_set import read_part
    from validation.files.sandbox.zip_worker import Reject
    from validation.files.set_manifest import Part, SetLocation

    spent = 0
    for run in read_part(SetLocation.parse(Path(path)), Part(part, hashes)):
        layouts, blobs = encode(run)
        spent += sum(memoryview(blob).nbytes for blob in blobs)
        values = sum(rows * len(columns) for rows, columns in layouts.values())
        for limit, size in {"rows": len(run.wide), "values": values, "unpacked_bytes": spent}.items():
            if size > limits[limit]:
                raise Reject("too_large", limit=limit)
        send(facts_of(run) | {"tables": layouts}, blobs)


def send(message: dict[str, Any], blobs: Iterable[Any] = ()) -> None:
    """Write a line of JSON, and the values that follow it."""
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    for blob in blobs:
        sys.stdout.buffer.write(blob)
    sys.stdout.buffer.flush()


def facts_of(run: RunFile) -> dict[str, Any]:
    """Return what a run has beside its tables."""
    facts: dict[str, Any] = {"id": str(run.id)[:100], "name": str(run.name)[:1000], "sha256": str(run.sha256)[:64]}
    facts |= {name: int(getattr(run, name)) for name in ("duplicates", "application_id", "version")}
    facts |= {name: [str(text)[:CHARACTERS] for text in getattr(run, name)[:TEXTS]] for name in ("notes", "damage")}
    unknown = [name for name in run.wide.column_names if not sql_type("dynamics", name)]
    return facts | {"ignored": [str(name)[:60] for name in (*run.ignored, *unknown)[:TEXTS]], "wal": bool(run.wal)}


def encode(run: RunFile) -> tuple[dict[str, Any], list[Any]]:
    """Return the layouts of a run's tables, and their values; columns that this program does not know are left out."""
    layouts, blobs = {}, []
    for name, table in tables_of(run):
        columns = []
        for column in table.column_names:
            if kind := sql_type(name, column):
                sent, values = encoded(table[column], kind)
                columns.append([column, sent])
                blobs += values
        if columns:
            layouts[name] = [len(table), columns]
    return layouts, blobs


def tables_of(run: RunFile) -> Iterator[tuple[str, pa.Table]]:
    """Yield the tables of a run by their names in a run file."""
    import pyarrow as pa

    from validation.files.run_file import RUN_TABLES

    yield "dynamics", run.wide
    yield "run", pa.table({"key": [*run.facts], "value": [json.dumps(value) for value in run.facts.values()]})
    yield from ((name, getattr(run, name)) for name in RUN_TABLES)


def sql_type(table: str, column: str) -> str:
    """Return the SQL type of a column in a run file; empty for an unknown one."""
    from prismatic.contract import schema

    if table == "dynamics":
        known = {known.name for known in (*schema.STEP_COLUMNS, *schema.ROUTING_COLUMNS)}
        real = column in known or schema.EXPERT_COLUMN.fullmatch(column) or schema.ROLE_COLUMN.fullmatch(column)
        return "INTEGER" if column == "step" else "REAL" if real else ""
    return next((known.type for known in schema.TABLES[table][0] if known.name == column), "")


def encoded(column: pa.ChunkedArray, kind: str) -> tuple[str, list[Any]]:
    """Return the kind and the values of a column of an SQL type. Raises ArrowException for values of another type."""
    import numpy as np
    import pyarrow as pa

    if kind == "REAL":
        floats = column.cast(pa.float64()).to_numpy()  # NULL becomes NaN
        return "d", [np.ascontiguousarray(floats)]
    if kind == "INTEGER":
        integers = column.cast(pa.int64())
        values = np.ascontiguousarray(integers.fill_null(0).to_numpy())
        if not column.null_count:
            return "q", [values]
        return "q?", [values, integers.is_valid().to_numpy().astype(np.uint8)]
    if kind == "BLOB":
        lists = column.cast(pa.list_(pa.float32())).combine_chunks()
        lists = lists if isinstance(lists, pa.ListArray) else pa.concat_arrays(lists.chunks)
        lengths = np.diff(lists.offsets.to_numpy()).astype(np.int32) * 4
        numbers = np.ascontiguousarray(lists.flatten().to_numpy(), dtype="<f4")
        return "b", [np.where(lists.is_valid().to_numpy(zero_copy_only=False), lengths, np.int32(-1)), numbers]
    texts = [None if text is None else text.encode() for text in column.cast(pa.string()).to_pylist()]
    lengths = np.array([-1 if text is None else len(text) for text in texts], np.int32)
    return "t", [lengths, b"".join(text for text in texts if text is not None)]


if __name__ == "__main__":
    main()
