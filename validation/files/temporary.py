"""The private folder of this process for uploads and unpacked archives, and what killed processes left behind.

A killed process removes nothing. So each folder holds a file that its process keeps locked: a folder whose lock can be
had belongs to a process that has ended.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX, ALIVE = "prismatic-", "alive.lock"
_STARTING = threading.Lock()
_own: tuple[int, Path, FileLock] | None = None


def temporary_folder() -> Path:
    """Return this process's own folder, which is removed at its end; the first call removes what others left behind.

    Raises OSError.
    """
    global _own
    with _STARTING:
        if _own is None or _own[0] != os.getpid() or not _own[1].exists():
            remove_leftovers()
            folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = FileLock(folder / ALIVE)
            lock.acquire(timeout=0)
            _own = os.getpid(), folder, lock
            atexit.register(_remove, os.getpid(), folder, lock)
        return _own[1]


def remove_temporary_folder() -> None:
    """Remove this process's folder now, with all that is in it."""
    if _own is not None:
        _remove(*_own)


def remove_leftovers() -> int:
    """Remove the folders of processes of this user that have ended, and return their number."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if not _is_ours(folder):
                continue
            with FileLock(folder / ALIVE).acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
            removed += 1
        except (Timeout, OSError):  # its process lives, or removed it a moment ago
            continue
    return removed


def _is_ours(folder: Path) -> bool:
    """Return whether a folder was made here, by this user: nobody else's must be opened or removed."""
    lock = folder / ALIVE
    if folder.is_symlink() or not folder.is_dir() or lock.is_symlink() or not lock.is_file():
        return False
    return os.name == "nt" or folder.stat().st_uid == os.geteuid()


def _remove(process: int, folder: Path, lock: FileLock) -> None:
    if process == os.getpid():  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
