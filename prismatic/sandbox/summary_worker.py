"""The child process in which the training side looks into run files: facts, number of rows, last step, version.

summary.py starts it as `python -I -S -B summary_worker.py PROJECT`. The first line on stdin is a JSON object with the
files that it may open, and each further line is the path of one. The reply is one line of JSON: the summary, or
`{"problem": ...}`. It reads the tables `dynamics` and `run` and no others, and only if they are plain tables.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import time
from typing import Any
from urllib.parse import quote

MEMORY_BYTES, MAX_VALUE = 512 << 20, 64 << 10
MAX_FACTS = 5000
BUSY_SECONDS = 2.0
# What a plain index may be: of columns, without an expression or a condition.
PLAIN_INDEX = re.compile(r'CREATE (UNIQUE )?INDEX "?\w+"? ON "?\w+"? ?\(["\w, ]+\)')
# In the text of a table: what SQLite would run when rows are copied to another table.
CODE = re.compile(r"\b(CHECK|DEFAULT|GENERATED|VIRTUAL|AS)\b\W*\(|\bCREATE\s+VIRTUAL\b", re.IGNORECASE)


class Unusable(Exception):
    """The file is not a run whose tables can be read."""


def main() -> None:
    """Answer requests until stdin ends."""
    sys.path += sys.argv[1:]
    from prismatic.sandbox import walls

    first = json.loads(sys.stdin.readline())
    limit_memory()
    walls.enforce(first["files"])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = summarize(request["path"], time.monotonic() + request["seconds"])
        except (Unusable, OSError, sqlite3.Error, MemoryError, UnicodeError, ValueError) as error:
            reply = {"problem": str(error)[:200] or type(error).__name__}
            reply["code"] = str(getattr(error, "sqlite_errorname", ""))
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def limit_memory(most_bytes: int = MEMORY_BYTES, *, threads: bool = False) -> None:
    """Cap memory; forbid writes and, unless it may start threads, new processes, where the system allows that."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {"AS": most_bytes, "FSIZE": 0, "CORE": 0} | ({} if threads else {"NPROC": 0})  # a thread counts there
    for name, value in limits.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        except (AttributeError, ValueError, OSError):
            continue


def summarize(path: str, deadline: float) -> dict[str, Any]:
    """Return the summary of a file. Raises Unusable, sqlite3.Error or OSError."""
    db = sqlite3.connect(url_of(path), uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        for name, value in {"LENGTH": 16 << 20, "SQL_LENGTH": 1 << 20, "ATTACHED": 0, "EXPR_DEPTH": 100}.items():
            db.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), value)
        db.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "query_only=ON"):
            db.execute(f"PRAGMA {pragma}")
        if "unix-none" in url_of(path):
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.set_authorizer(authorize)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        entries = db.execute("SELECT type, name, rootpage, sql FROM sqlite_master").fetchmany(1000)
        return {"version": version, "plain": all(map(is_plain, entries)), **contents(db, entries)}
    finally:
        db.close()


def url_of(path: str) -> str:
    """Return the address by which SQLite opens the file and writes nothing beside it, also where it is in WAL mode."""
    with open(path, "rb") as file:
        head = file.read(100)
    if not head.startswith(b"SQLite format 3\x00"):
        raise Unusable("file is not a database")
    wal, options = 2 in head[18:20], ""
    if wal and not os.path.exists(f"{path}-wal"):
        options = "&immutable=1"
    elif wal:
        unshared = not os.path.exists(f"{path}-shm") and os.name == "posix"
        options = "&vfs=unix-none" if unshared else "&readonly_shm=1"
    plain = path.replace("\\", "/") if os.sep == "\\" else path
    return f"file://{'' if plain.startswith('/') else '/'}{quote(os.fsencode(plain))}?mode=ro{options}"


def authorize(action: int, first: str | None, second: str | None, database: str | None, within: str | None) -> int:
    """Allow counting rows and reading facts; deny views, other functions and everything that writes."""
    allowed = {
        sqlite3.SQLITE_SELECT: True,
        sqlite3.SQLITE_READ: str(first).lower() in ("sqlite_master", "dynamics", "run") and within is None,
        sqlite3.SQLITE_FUNCTION: second in ("count", "max"),
        sqlite3.SQLITE_PRAGMA: str(first).lower() == "user_version",
    }
    return sqlite3.SQLITE_OK if allowed.get(action) else sqlite3.SQLITE_DENY


def is_plain(entry: tuple[Any, ...]) -> bool:
    """Return whether an entry of the schema is a table or index in which the author has put no code."""
    kind, _, root, sql = entry
    if kind == "index":
        return sql is None or bool(PLAIN_INDEX.fullmatch(str(sql)))
    return kind == "table" and bool(root) and str(sql).startswith("CREATE TABLE ") and not CODE.search(str(sql))


def contents(db: sqlite3.Connection, entries: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Return the number of rows, the last step and the facts as their JSON."""
    tables = {str(name).lower(): entry for entry in entries if (name := entry[1]) and entry[0] in ("table", "view")}
    for name in ("dynamics", "run"):
        kind, _, root, sql = tables.get(name, ("table", name, 1, "CREATE TABLE "))
        if kind != "table" or not root or not str(sql).startswith("CREATE TABLE "):
            raise Unusable(f"`{name}` is no plain table")
    if "dynamics" not in tables:
        found = ", ".join(sorted(tables)[:5]) or "nothing"
        raise Unusable(f"holds {found} but no table `dynamics`")
    rows, last = db.execute("SELECT count(*) FROM dynamics").fetchone()[0], last_step(db)
    facts = db.execute("SELECT key, value FROM run").fetchmany(MAX_FACTS) if "run" in tables else []
    known = {str(key)[:200]: None if value is None else str(value)[:MAX_VALUE] for key, value in facts}
    return {"rows": rows, "last_step": last, "facts": known}


def last_step(db: sqlite3.Connection) -> int | None:
    """Return the largest step; None for a table of another program that has none."""
    try:
        last = db.execute("SELECT max(step) FROM dynamics").fetchone()[0]
    except sqlite3.OperationalError as error:
        if "no such column" in str(error):
            return None
        raise
    return int(last) if isinstance(last, int | float) and abs(last) < 2**63 else None


if __name__ == "__main__":
    main()
