"""The child process that opens uploaded sets: it turns each run of a set into a run file.

Parquet readers trust their input: they are large and fast, and a file can ask them for any amount of memory. So an
uploaded set is opened here, under limits, and sent as a plain run file for each run, which sqlite_worker.py then
validates like an uploaded run file. zip_client.py starts this file as `python -I -S -B`, with the folders to import
from as arguments and one line of JSON on stdin; the reply consists of the messages of zip_worker.py. A member comes
with the hash that the set gives for the run's original file, and with the notes and damage that were found in it.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from validation.files.run_file import RunFile

WAL = b"\x02\x02"  # bytes 18 and 19 of a SQLite file that was written in WAL mode


def main() -> None:
    """Handle one request."""
    sys.path += sys.argv[1:]
    from prismatic.sandbox.walls import enforce
    from validation.files.sandbox.zip_worker import Reject, confine, send

    request = json.loads(sys.stdin.buffer.readline())
    load_libraries()
    confine(request["limits"], threads=True)
    enforce(folders=[request["path"]], threads=True)
    try:
        send_runs(request["path"], request["limits"])
        send({"end": None, "zips": 0})
    except Exception as error:  # whatever a hostile set provokes
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            error = Reject("too_large", limit="memory_bytes")
        problem = str(getattr(error, "evidence", "") or error)[:200] or type(error).__name__
        send({"end": [getattr(error, "code", "bad_set"), getattr(error, "details", {"problem": problem})]})
    sys.stdout.buffer.flush()


def load_libraries() -> None:
    """Load what reading a set needs, because behind the walls no library can be loaded, and start no thread yet."""
    import pyarrow as pa
    import pyarrow.dataset
    import pyarrow.parquet as pq

    import validation.files.parquet_set  # noqa: F401

    pa.set_cpu_count(1)
    written = pa.BufferOutputStream()
    pq.write_table(pa.table({"run": ["a"], "step": [1], "norm": [0.5]}), written, compression="zstd")
    pq.ParquetFile(pa.BufferReader(written.getvalue())).read(use_threads=False).to_pylist()


def send_runs(path: str, limits: dict[str, Any]) -> None:
    """Send every run of the set as a run file."""
    from validation.files.parquet_set import read_set
    from validation.files.sandbox.zip_worker import CHUNK, Reject, send

    spent = 0
    for count, run in enumerate(read_set(Path(path))):
        if count == limits["members"]:
            raise Reject("too_large", limit="members")
        data = as_database(run)
        spent += len(data)
        for limit, size in (("file_bytes", len(data)), ("unpacked_bytes", spent)):
            if size > limits[limit]:
                raise Reject("too_large", limit=limit)
        about: dict[str, Any] = {"sha256": str(run.sha256)[:64]}
        about |= {name: [str(text)[:200] for text in getattr(run, name)[:20]] for name in ("notes", "damage")}
        send({"member": str(run.name)[:1000], "beside": [], **about})
        for start in range(0, len(data), CHUNK):
            chunk = data[start : start + CHUNK]
            send({"bytes": len(chunk)}, chunk)
        send({"done": None})


def as_database(run: RunFile) -> bytes:
    """Return the bytes of a SQLite database that holds the run."""
    from validation.files.run_file import RUN_TABLES

    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute(f"PRAGMA application_id = {int(run.application_id)}")
    db.execute(f"PRAGMA user_version = {int(run.version)}")
    write_table(db, "dynamics", run.wide)
    for name in RUN_TABLES:
        write_table(db, name, getattr(run, name))
    db.execute("CREATE TABLE run (key TEXT, value TEXT)")
    db.executemany("INSERT INTO run VALUES (?, ?)", [(key, json.dumps(value)) for key, value in run.facts.items()])
    data = db.serialize()
    db.close()
    return data[:18] + WAL + data[20:] if run.wal else data


def write_table(db: sqlite3.Connection, name: str, table: pa.Table) -> None:
    """Write a table's columns of numbers and text; write no table if it has none."""
    import pyarrow.types as types

    kinds = {types.is_integer: "INTEGER", types.is_floating: "REAL", types.is_string: "TEXT"}
    declared = {
        field.name: next((sql for holds, sql in kinds.items() if holds(field.type)), "") for field in table.schema
    }
    columns = [column for column, kind in declared.items() if kind]
    if not columns:
        return
    quoted = {column: '"' + column.replace('"', '""') + '"' for column in columns}
    db.execute(f"CREATE TABLE {name} ({', '.join(f'{quoted[column]} {declared[column]}' for column in columns)})")
    rows = zip(*(table[column].to_pylist() for column in columns), strict=True)
    db.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", rows)


if __name__ == "__main__":
    main()
