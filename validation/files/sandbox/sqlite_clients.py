"""Two child processes that read the run files of one request, the second one while nobody else needs its place."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from validation.files.file_state import FileState
from validation.files.limits import ReadLimits
from validation.files.sandbox.sqlite_client import NO_ROWIDS, FileContents, SqliteClient
from validation.files.sandbox.turns import TurnLost

WORTH_A_SECOND = 32 << 20  # bytes: what is less is read in the time in which a process starts


class SqliteClients:
    """SqliteClient for threads: as many files are read at a time as there are processes, and further threads wait."""

    def __init__(self, limits: ReadLimits, paths: Sequence[Path], *, folder: Path | None = None) -> None:
        """paths, folder: the files to read, see SqliteClient."""
        self.limits = limits
        self._first = SqliteClient(limits, paths, folder=folder)
        self._second = SqliteClient(limits, paths, folder=folder, spare=True)
        self._first_works, self._second_works = threading.Lock(), threading.Lock()
        many = len(paths) > 1 and (os.cpu_count() or 1) > 1
        self._worth_a_second = many and sum(FileState.of(path).size for path in paths) > WORTH_A_SECOND

    def read(
        self,
        path: Path,
        name: str,
        *,
        immutable: bool,
        since: Mapping[str, int] = NO_ROWIDS,
    ) -> FileContents:
        """Return the facts and tables of one file, as SqliteClient does. Raises RunFileError."""
        if self._first_works.acquire(blocking=False):
            return self._read_first(path, name, immutable, since)
        if self._worth_a_second and self._second_works.acquire(blocking=False):
            try:
                return self._second.read(path, name, immutable=immutable, since=since)
            except TurnLost:
                pass
            finally:
                self._second_works.release()
        self._first_works.acquire()
        return self._read_first(path, name, immutable, since)

    def _read_first(self, path: Path, name: str, immutable: bool, since: Mapping[str, int]) -> FileContents:
        try:
            return self._first.read(path, name, immutable=immutable, since=since)
        finally:
            self._first_works.release()

    def close(self) -> None:
        """End the processes."""
        try:
            self._first.close()
        finally:
            self._second.close()
