"""Opening a SQLite file that may be hostile, in a worker behind walls; standard library only."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from stat import S_ISREG
from urllib.parse import quote

MAGIC = b"SQLite format 3\x00"
HARDENED = ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "query_only=ON", "temp_store=MEMORY")
BESIDE = ("-journal", "-wal", "-shm")  # the files that SQLite opens with a database


class Unusable(Exception):
    """The file is not one whose tables can be read."""


def places_of(path: str) -> list[str]:
    """Return the paths of a database and of the files beside it, also where a link leads: SQLite follows it first."""
    return [place + end for place in dict.fromkeys((path, os.path.realpath(path))) for end in ("", *BESIDE)]


def special_beside(path: str) -> str:
    """Return the first file beside a database at which SQLite would wait for ever: a pipe or a device; "" if none."""
    for place in {*places_of(path)} - {path, os.path.realpath(path)}:
        with suppress(OSError):
            if not S_ISREG(os.stat(place).st_mode):
                return place
    return ""


def how_to_open(path: str, immutable: bool, wal: bool) -> str:
    """Return URI options that write nothing beside the file and still read the rows in its -wal."""
    if immutable or (wal and not os.path.exists(path + "-wal")):
        return "&immutable=1"
    if wal and not os.path.exists(path + "-shm") and os.name == "posix":
        return "&vfs=unix-none"  # a copied pair without a writer: in exclusive mode SQLite needs no -shm
    return "&readonly_shm=1" if wal else ""


def url_of(path: str, options: str) -> str:
    """Return the URL by which SQLite opens a file read-only."""
    path = path.replace("\\", "/") if os.sep == "\\" else path
    return f"file://{'' if path.startswith('/') else '/'}{quote(os.fsencode(path))}?mode=ro{options}"


def url_in_place(path: str) -> str:
    """Return the URL of a file that others may be writing. Raises Unusable for another file, OSError."""
    with open(path, "rb") as file:
        head = file.read(100)
    if not head.startswith(MAGIC):
        raise Unusable("file is not a database")
    return url_of(path, how_to_open(path, immutable=False, wal=2 in head[18:20]))


def pragmas(url: str) -> list[str]:
    """Return the settings of a connection."""
    return [*HARDENED, *(["locking_mode=EXCLUSIVE"] if "unix-none" in url else [])]


def open_hardened(url: str, most: Mapping[str, int], *, deadline: float, busy_seconds: float) -> sqlite3.Connection:
    """Return a connection that only reads; the caller sets the authorizer.

    most: SQLite's own limits, by their names without SQLITE_LIMIT_. deadline: the time.monotonic() at which statements
    end. busy_seconds: how long to wait for a writer.
    """
    db = sqlite3.connect(url, uri=True, timeout=busy_seconds, isolation_level=None)
    for name, value in most.items():
        db.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), value)
    if sys.version_info >= (3, 12):
        db.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
    db.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    for pragma in pragmas(url):
        db.execute(f"PRAGMA {pragma}")
    return db
