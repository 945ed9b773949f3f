"""The limits of reading one run file: bytes, rows, columns, seconds, memory, members of an archive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReadLimits:
    """The most that one file may take. An error names the limit that the file exceeds."""

    file_bytes: int = 512 << 20
    rows: int = 2_000_000
    columns: int = 2000
    values: int = 60_000_000  # rows x columns that are read, all tables
    seconds: float = 20.0
    memory_bytes: int = 1 << 30  # of the child process, Python included
    expert_rows: int = 10_000_000  # rows x experts: the length of the tidy table
    members: int = 200  # run files in one zip archive
    unpacked_bytes: int = 2 << 30  # of all run files in one zip archive together
