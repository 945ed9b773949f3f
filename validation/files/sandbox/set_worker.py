"""The child process that opens sets of strangers: it turns each run of a set into a run file.

Parquet is a format for trusted places: its readers are large and fast, and a file can ask them for any amount of
memory. So an uploaded set is opened here, under limits, and what comes out is a plain run file for each run, which
reader.py then validates like one that was uploaded itself. `archives.py` starts this file as `python -I -S -B`, with
one line of JSON on stdin; the answer is made of the messages of unpacker.py. To a member belong the hash that the set
gives for the run's own file, and what was said when that was read.
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
SIDE = ("experts", "tiers", "events", "layers", "histograms")


def main() -> None:
    """Answers one request."""
    request = json.loads(sys.stdin.buffer.readline())
    sys.path += request["packages"]
    from validation.files.sandbox.zip_worker import Reject, confine, say

    confine(request["limits"], threads=True)
    try:
        say({"end": None, "zips": 0, **convert(request["path"], request["limits"])})
    except Exception as error:  # whatever a hostile set may provoke
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            error = Reject("too_large", limit="memory_bytes")
        problem = str(getattr(error, "evidence", "") or error)[:200] or type(error).__name__
        say({"end": [getattr(error, "code", "bad_set"), getattr(error, "details", {"problem": problem})]})
    sys.stdout.buffer.flush()


def convert(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Sends every run of the set as a run file; answers nothing more about the set."""
    import pyarrow as pa

    from validation.files.parquet_set import read_set
    from validation.files.sandbox.zip_worker import CHUNK, Reject, say

    pa.set_cpu_count(1)
    spent = 0
    for count, run in enumerate(read_set(Path(path))):
        if count == limits["members"]:
            raise Reject("too_large", limit="members")
        data = run_file(run)
        spent += len(data)
        for limit, size in (("file_bytes", len(data)), ("unpacked_bytes", spent)):
            if size > limits[limit]:
                raise Reject("too_large", limit=limit)
        about = {"sha256": str(run.sha256)[:64], "notes": [str(note)[:200] for note in run.notes[:20]]}
        say({"member": str(run.name)[:1000], "beside": [], **about})
        for start in range(0, len(data), CHUNK):
            chunk = data[start : start + CHUNK]
            say({"bytes": len(chunk)}, chunk)
        say({"done": None})
    return {}


def run_file(run: RunFile) -> bytes:
    """The run as a SQLite database, as far as the columns hold what a database can."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute(f"PRAGMA application_id = {int(run.application_id)}")
    db.execute(f"PRAGMA user_version = {int(run.version)}")
    write(db, "dynamics", run.wide)
    for name in SIDE:
        write(db, name, getattr(run, name))
    db.execute("CREATE TABLE run (key TEXT, value TEXT)")
    db.executemany("INSERT INTO run VALUES (?, ?)", [(key, json.dumps(value)) for key, value in run.facts.items()])
    data = db.serialize()
    db.close()
    return data[:18] + WAL + data[20:] if run.wal else data


def write(db: sqlite3.Connection, name: str, table: pa.Table) -> None:
    """A table with the columns that hold numbers or text; none where there are none."""
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
