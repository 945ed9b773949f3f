"""The child process in which the training side looks into run files: facts, number of rows, last step, version.

summary.py starts it as `python -I -S -B summary_worker.py PROJECT`. The first line on stdin is a JSON object with the
files that it may open, and each further line is the path of one. The reply is one line of JSON: the summary, or
`{"problem": ...}`. It reads the tables `dynamics` and `run` and no others, and only if they are plain tables.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import time
from typing import Any

if __name__ == "__main__":
    sys.path += sys.argv[1:2]  # the project's folder, which a script does not know by itself
from prismatic.sandbox.limits import set_limits
from prismatic.sandbox.sqlite_file import Unusable, open_hardened, url_in_place

MEMORY_BYTES, MAX_VALUE = 512 << 20, 64 << 10
MAX_FACTS = 5000
BUSY_SECONDS = 2.0
# What a plain index may be: of columns, without an expression or a condition.
COLUMN = r'\s*"?\w+"?(\s+(ASC|DESC))?\s*'
PLAIN_INDEX = re.compile(rf'CREATE (UNIQUE )?INDEX "?\w+"?\s+ON\s+"?\w+"?\s*\({COLUMN}(,{COLUMN})*\)', re.IGNORECASE)
# In the text of a table: what SQLite would run when rows are copied to another table.
CODE = re.compile(r"\b(CHECK|DEFAULT|GENERATED|VIRTUAL|AS)\b\W*\(|\bCREATE\s+VIRTUAL\b", re.IGNORECASE)


def main() -> None:
    """Answer requests until stdin ends."""
    from prismatic.sandbox import walls

    first = json.loads(sys.stdin.readline())
    set_limits({"AS": MEMORY_BYTES, "FSIZE": 0, "NPROC": 0, "CORE": 0})
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


def summarize(path: str, deadline: float) -> dict[str, Any]:
    """Return the summary of a file. Raises Unusable, sqlite3.Error or OSError."""
    most = {"LENGTH": 16 << 20, "SQL_LENGTH": 1 << 20, "ATTACHED": 0, "EXPR_DEPTH": 100}
    db = open_hardened(url_in_place(path), most, deadline=deadline, busy_seconds=BUSY_SECONDS)
    try:
        db.set_authorizer(authorize)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        entries = db.execute("SELECT type, name, rootpage, sql FROM sqlite_master").fetchmany(1000)
        return {"version": version, "plain": all(map(is_plain, entries)), **contents(db, entries)}
    finally:
        db.close()


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
