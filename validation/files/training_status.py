"""Find the run files that are being trained at the moment: time of the last write, size, exit state.

For a file that was written recently, the sandboxed reader is asked for the exit state that the writer keeps in it,
without its rows. Any other file is not being trained.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from validation.files.errors import RunFileError
from validation.files.limits import ReadLimits
from validation.files.sandbox.incremental_read import is_running
from validation.files.sandbox.received import LONG_TABLES
from validation.files.sandbox.sqlite_client import SqliteClient

STALE_AFTER = 600.0  # seconds without a new row
MAX_ASKED = 50  # files whose exit state is read, the most recently written first
NO_ROWS = dict.fromkeys(LONG_TABLES, 2**62)


@dataclass(frozen=True)
class FileStatus:
    """A run file as seen from outside."""

    path: Path
    written: float  # seconds since the epoch
    size: int  # bytes
    training: bool = False


def training_status(paths: Iterable[Path], *, limits: ReadLimits | None = None) -> list[FileStatus]:
    """Return the status of each file that exists, the most recently written first."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append(FileStatus(path, stat.st_mtime, stat.st_size))
    found.sort(key=lambda file: (-file.written, file.path))
    recent = [file for file in found if time.time() - file.written < STALE_AFTER][:MAX_ASKED]
    with contextlib.closing(SqliteClient(limits or ReadLimits(seconds=5.0), [file.path for file in recent])) as client:
        training = {file.path for file in recent if _is_training(client, file.path)}
    return [FileStatus(file.path, file.written, file.size, training=file.path in training) for file in found]


def _is_training(client: SqliteClient, path: Path) -> bool:
    try:
        return is_running(*client.read(path, path.name, immutable=False, since=NO_ROWS))
    except RunFileError:
        return False
