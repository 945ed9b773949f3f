"""Which of many run files are being trained, without reading their rows.

A file that was written a moment ago is asked for the state that its writer keeps in it; for all others the time of the
last write is answer enough. The child that reads run files answers, and leaves out the rows.
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
from validation.files.sandbox.sqlite_client import LONG_TABLES, Child

STALE_AFTER = 600.0  # seconds without a new row
MOST = 50  # files that are asked, those first that were written last
NO_ROWS = dict.fromkeys(LONG_TABLES, 2**62)


@dataclass(frozen=True)
class Glance:
    """What is seen of a file from outside."""

    path: Path
    written: float  # seconds since the epoch
    size: int  # bytes
    training: bool = False


def glance(paths: Iterable[Path], *, limits: ReadLimits | None = None) -> list[Glance]:
    """The files that are there, the one that was written last first."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            state = path.stat()
            found.append(Glance(path, state.st_mtime, state.st_size))
    found.sort(key=lambda one: (-one.written, one.path))
    recent = [one for one in found if time.time() - one.written < STALE_AFTER][:MOST]
    with contextlib.closing(Child(limits or ReadLimits(seconds=5.0))) as child:
        live = {one.path for one in recent if _says_running(child, one.path)}
    return [Glance(one.path, one.written, one.size, training=one.path in live) for one in found]


def _says_running(child: Child, path: Path) -> bool:
    try:
        return is_running(*child.ask(path, path.name, immutable=False, since=NO_ROWS))
    except RunFileError:
        return False
