"""A long file is read by two processes at once, half of the rows of `dynamics` each, where two may be at work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from validation.files.errors import RunFileError
from validation.files.limits import ReadLimits
from validation.files.sandbox.sqlite_client import Answer, Child, Reached

LONG_FILE = 4 << 20  # bytes; half of a shorter one is read about as soon as another process has started


def ask(child: Child, path: Path, name: str, *, immutable: bool) -> Answer:
    """The same as `child.ask` answers for the whole file. Raises RunFileError as that does."""
    other = child.another() if _size(path) >= LONG_FILE else None
    if other is None:
        return child.ask(path, name, immutable=immutable)
    with contextlib.closing(other):
        middle = child.middle(path, name, immutable=immutable)
        found = None if middle is None else _both(child, other, path, name, immutable, middle)
    # Who reads the whole file says what is wrong with its second half, or with both together.
    return found or child.ask(path, name, immutable=immutable)


def _both(child: Child, other: Child, path: Path, name: str, immutable: bool, middle: int) -> Answer | None:
    """The answer in two halves, the first with everything beside `dynamics`; None where they make no whole."""
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(other.ask, path, name, immutable=immutable, since={"dynamics": middle + 1}, beside=())
        try:
            about, tables = child.ask(path, name, immutable=immutable, until={"dynamics": middle})
        except RunFileError:
            other.close()  # nobody waits for a half
            raise
        try:
            later, rest = second.result()
        except RunFileError:
            return None
    if rest["dynamics"].schema != tables["dynamics"].schema:
        return None  # it was altered in between
    tables["dynamics"] = pa.concat_tables([tables["dynamics"], rest["dynamics"]]).combine_chunks()
    about["reached"] = _further(about["reached"], later["reached"])
    return (about, tables) if within(tables, child.limits) else None


def _further(first: Reached | None, second: Reached | None) -> Reached | None:
    """How far both came together. What happened since the earlier mark may have replaced rows of the other half."""
    if first is None or second is None:
        return None
    return Reached(min(first.mark, second.mark), {**first.last, **second.last})


def within(tables: Mapping[str, pa.Table], limits: ReadLimits) -> bool:
    """Whether they could have been read at once; who reads the whole file says which limit it is."""
    values = sum(len(table) * table.num_columns for table in tables.values())
    return values <= limits.values and max(map(len, tables.values())) <= limits.rows


def _size(path: Path) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # the child says so
        return 0
