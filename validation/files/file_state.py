"""FileState: the identity, size and time of a file, which show if it was written or replaced since the last reading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class FileState(NamedTuple):
    """The identity, time and size of a file; it changes when the file is written or replaced."""

    device: int
    inode: int
    modified_ns: int
    changed_ns: int
    """Also changes when the file gets another name, and cannot be set."""
    size: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Return the state of a file; zeros if there is no such file, which the reader then reports."""
        try:
            return cls.of_stat(os.stat(path))
        except OSError:
            return cls(0, 0, 0, 0, 0)

    @classmethod
    def of_stat(cls, found: os.stat_result) -> FileState:
        """Return the state that the system tells."""
        return cls(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)

    def same_file(self, other: FileState) -> bool:
        """Return whether both are states of one file, which may have grown in between."""
        return (self.device, self.inode) == (other.device, other.inode)
