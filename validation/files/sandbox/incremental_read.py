"""A run that is being trained is read on from where it was read before, and not again from its beginning.

Only files of this project's own logger, which appends rows and tells by an event when it does not. The rows that are
known are taken over only if nothing speaks against it: the file is the same one, no event since tells of a rewind, and
the last known row of each table is still there as it was. Otherwise, and when the run has ended, it is read whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from prismatic.contract import schema
from validation.files.sandbox import parallel_read as halves
from validation.files.sandbox.parallel_read import within
from validation.files.sandbox.sqlite_client import Answer, Child, Reached

REPLACING = ("rewind", "repeated_step")  # events after which rows that were read may have changed
MOST_EVENTS = 1_000  # since the last reading; the child answers with no more than the newest 10,000
MOST_FILES = 256
MANY_CHUNKS = 8


@dataclass(frozen=True, eq=False)
class _Reading:
    """What is known of a file that is being written."""

    place: tuple[int, int]
    reached: Reached
    tables: Mapping[str, pa.Table]
    notes: tuple[str, ...]


class Live:
    """The files that were being written when they were read: to be kept as long as somebody watches them."""

    def __init__(self) -> None:
        self._known: dict[Path, _Reading] = {}

    def ask(self, child: Child, path: Path, name: str) -> Answer:
        """The same as `child.ask` answers for a file in its place. Raises RunFileError as that does."""
        place, earlier = _place(path), self._known.pop(path, None)
        answer = _rest(child, path, name, earlier) if earlier and earlier.place == place else None
        about, tables = answer or halves.ask(child, path, name, immutable=False)
        if about["reached"] and is_running(about, tables):
            self._known[path] = _Reading(place, about["reached"], tables, about["notes"])
            while len(self._known) > MOST_FILES:
                del self._known[next(iter(self._known))]
        return about, tables


def _rest(child: Child, path: Path, name: str, earlier: _Reading) -> Answer | None:
    """The file by what is known of it and what is new; None where it has to be read whole."""
    about, tables = child.ask(path, name, immutable=False, since=earlier.reached.last)
    if not about["reached"] or not is_running(about, tables) or _went_back(tables, earlier.reached.mark):
        return None
    for table in earlier.reached.last:
        whole = _continued(earlier.tables[table], tables.get(table))
        if whole is None:
            return None
        tables[table] = whole
    if not within(tables, child.limits):
        return None
    # What was said of the whole file was not looked for again.
    about["notes"] = tuple(dict.fromkeys((*about["notes"], *earlier.notes)))
    return about, tables


def _continued(known: pa.Table, new: pa.Table | None) -> pa.Table | None:
    """The rows that are known and those that came after the last of them, which `new` begins with; None if it does not.

    A column that was added since is NULL in the rows before.
    """
    if new is None or not {*known.column_names} <= {*new.column_names}:
        return None
    whole = pa.concat_tables([known, new.slice(1)], promote_options="default").select(new.column_names)
    last = len(known) - 1
    if not whole.slice(last, 1).equals(new.slice(0, 1)):
        return None
    return whole.combine_chunks() if whole.column(0).num_chunks > MANY_CHUNKS else whole


def _went_back(tables: Mapping[str, pa.Table], mark: int) -> bool:
    """Whether rows may have been replaced after that event."""
    events = tables.get("events")
    if events is None or not {"id", "code"} <= {*events.column_names}:
        return mark > 0 or events is not None
    since = events.filter(pc.greater(events["id"], mark))
    return len(since) > MOST_EVENTS or any(code in REPLACING for code in since["code"].to_pylist())


def is_running(about: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> bool:
    """Whether it is our own file, of a run that has not ended."""
    facts = tables.get("run")
    if about["application_id"] != schema.APPLICATION_ID or facts is None or facts.num_columns < 2:
        return False
    said = facts.filter(pc.equal(facts["key"], "exit_state"))["value"].to_pylist()
    return bool(said == ['"running"'])


def _place(path: Path) -> tuple[int, int]:
    """Which file it is, whatever it is called."""
    try:
        found = os.stat(path)
    except OSError:  # who reads it next says so
        return 0, 0
    return found.st_dev, found.st_ino
