"""The cache of runs, keyed by the hash of their files' bytes: a file that was read once is not opened again.

One Arrow file per run holds its wide table, with everything small in its metadata; `layers`, `pairs`, their packed
forms and `histograms` lie beside it if the run has any. The tables are uncompressed and memory-mapped: norms hardly
repeat, so compressing them would save little space and cost time. The cache never makes a reading fail: an entry that
cannot be written or read counts as missing.

Whoever can write to the cache decides what runs hold, and can end this process by shortening a file that it maps. So
only folders and files of this user that no other user can write to are used.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from platformdirs import user_cache_path

from prismatic.contract import packing, schema
from validation.files.run_file import RUN_TABLES, RunFile, arrow_schema, empty_table

MAX_BYTES = 2 << 30
LARGE_TABLES = ("layers", "packed_layers", "pairs", "packed_pairs", "histograms")
SMALL_TABLES = tuple(table for table in RUN_TABLES if table not in LARGE_TABLES)
PLAIN_FIELDS = ("id", "sha256", "facts", "duplicates", "ignored", "notes", "damage", "wal", "application_id", "version")
METADATA_KEY = b"prismatic"


def default_folder() -> Path:
    """Return the folder that PRISMATIC_CACHE names, or the user's cache folder."""
    return Path(os.environ.get("PRISMATIC_CACHE") or user_cache_path("prismatic") / "runs")


@cache
def _reader_version() -> str:
    """Return a hash of the code that reads files, so that an entry of other code is never used."""
    here = Path(__file__).parent
    code = [file.read_bytes() for file in [*sorted(here.rglob("*.py")), Path(schema.__file__), Path(packing.__file__)]]
    return hashlib.sha256(b"\0".join(code)).hexdigest()[:12]


class Cache:
    """A folder of runs by the sha256 of their files; over `max_bytes`, the ones used longest ago are removed."""

    def __init__(self, folder: Path | None = None, *, max_bytes: int = MAX_BYTES):
        self.folder = (folder or default_folder()) / _reader_version()
        self._max_bytes = max_bytes
        self._bytes: int | None = None

    @cached_property
    def problem(self) -> str:
        """The reason why the folder is not used; empty if it is."""
        for folder in (self.folder.parent, self.folder):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                if not _is_own(os.stat(folder)):
                    return f"{folder} belongs to another user, or others can write to it"
            except OSError as error:
                return f"{folder} cannot be used: {error.strerror}"
        return ""

    def get(self, sha256: str) -> RunFile | None:
        """Return the run whose file had these bytes, without name and path; None if there is no entry."""
        if self.problem:
            return None
        path = self._path(sha256)
        try:
            wide = _read(path)
            metadata = json.loads(wide.schema.metadata[METADATA_KEY])
            side = {table: pa.Table.from_pylist(metadata[table], schema=arrow_schema(table)) for table in SMALL_TABLES}
            for table in LARGE_TABLES:
                there = table in metadata["beside"]
                side[table] = _read(self._table_path(path, table)) if there else empty_table(table)
            os.utime(path)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None
        known: dict[str, Any] = {name: metadata[name] for name in PLAIN_FIELDS}
        known |= {name: tuple(metadata[name]) for name in ("ignored", "notes", "damage")}
        return RunFile(name="", path=Path(), wide=wide.replace_schema_metadata(None), **known, **side)

    def knows_size(self, size: int) -> bool:
        """Return whether it holds, or once held, the run of a file of so many bytes."""
        return not self.problem and self._size_path(size).exists()

    def put(self, run: RunFile, *, size: int) -> None:
        """Add a run. Do not add one that is still being written: each state of its file would become an entry.

        size: the bytes of its file.
        """
        if self.problem:
            return
        large = {table: getattr(run, table) for table in LARGE_TABLES if len(getattr(run, table))}
        metadata: dict[str, Any] = {name: getattr(run, name) for name in PLAIN_FIELDS}
        metadata |= {table: getattr(run, table).to_pylist() for table in SMALL_TABLES}
        metadata["beside"] = list(large)
        path = self._path(run.sha256)
        with suppress(OSError, ValueError, TypeError, pa.ArrowException):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The wide table comes last: an entry exists only once all its files do.
            for table, content in large.items():
                _write(content, self._table_path(path, table))
            _write(run.wide.replace_schema_metadata({METADATA_KEY: json.dumps(metadata)}), path)
            self._limit_size([path, *(self._table_path(path, table) for table in large)])
            self._size_path(size).touch()

    def _size_path(self, size: int) -> Path:
        return self.folder / f"{size}.bytes"

    def _path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.arrow"

    def _table_path(self, path: Path, table: str) -> Path:
        return path.with_name(f"{path.stem}.{table}.arrow")

    def _limit_size(self, added: Sequence[Path]) -> None:
        """Keep the folder below the limit after files were added; the folder is listed once per process."""
        if self._bytes is None:
            self._bytes = sum(file.stat().st_size for file in self.folder.parent.rglob("*.arrow"))
        else:
            self._bytes += sum(file.stat().st_size for file in added)
        if self._bytes > self._max_bytes:
            self._prune()

    def _prune(self) -> None:
        """Remove the files used longest ago, also those of other versions of the reader, until a tenth is free."""
        files = sorted(
            (file.stat().st_mtime, file.stat().st_size, file) for file in self.folder.parent.rglob("*.arrow")
        )
        self._bytes = sum(size for _, size, _ in files)
        for _, size, file in files:
            if self._bytes <= 0.9 * self._max_bytes:
                return
            file.unlink(missing_ok=True)
            self._bytes -= size


def _read(path: Path) -> pa.Table:
    with open(path, "rb") as file:
        if not _is_own(os.fstat(file.fileno())):
            raise OSError("another user can write to this file")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    table = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).read_all()
    table.validate(full=True)  # invalid offsets can make Arrow read beyond the file
    return table


def _is_own(found: os.stat_result) -> bool:
    """Return whether a file or folder is this user's, and no other can write to it. Windows has other rights."""
    return os.name == "nt" or (found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _write(table: pa.Table, path: Path) -> None:
    """Write a file atomically: it is complete or absent, also if several processes write it at the same time."""
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".new")
    try:
        with os.fdopen(handle, "wb") as stream, pa.ipc.new_file(stream, table.schema) as file:
            file.write_table(table.combine_chunks())
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
