"""IncrementalReader: read a run that is being trained from where the last reading ended.

It works for files of this project's logger, which appends rows and records an event when it replaces some. The known
rows are kept only if the file is the same one, no event since reports a rewind, and the last known row of each table is
unchanged. Otherwise, and once the run has ended, the whole file is read.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from prismatic.contract import schema
from validation.files.file_state import FileState
from validation.files.limits import ReadLimits
from validation.files.sandbox.sqlite_client import FileContents, ReadPosition
from validation.files.sandbox.sqlite_clients import SqliteClients

REPLACING_EVENTS = ("rewind", "repeated_step")  # after these, rows that were read may have changed
MAX_EVENTS = 1_000  # since the last reading; the child returns no more than the newest 10,000
MAX_FILES = 256
MAX_CHUNKS = 8


@dataclass(frozen=True, eq=False)
class _Reading:
    """The contents of a growing file at its last reading."""

    state: FileState
    position: ReadPosition
    tables: Mapping[str, pa.Table]
    notes: tuple[str, ...]
    damage: tuple[str, ...]


class IncrementalReader:
    """The readings of files that were being written; keep it as long as the files are watched. Any thread may read."""

    def __init__(self) -> None:
        self._known: dict[Path, _Reading] = {}
        self._changing = threading.Lock()

    def read(self, client: SqliteClients, path: Path, name: str) -> FileContents:
        """Return the same as `client.read` for a file that may be written meanwhile. Raises RunFileError."""
        with self._changing:
            state, earlier = FileState.of(path), self._known.pop(path, None)
        grown = _read_new_rows(client, path, name, earlier) if earlier and earlier.state.same_file(state) else None
        facts, tables = grown or client.read(path, name, immutable=False)
        if facts["position"] and is_running(facts, tables):
            with self._changing:
                self._known[path] = _Reading(state, facts["position"], tables, facts["notes"], facts["damage"])
                while len(self._known) > MAX_FILES:
                    del self._known[next(iter(self._known))]
        return facts, tables


def _read_new_rows(client: SqliteClients, path: Path, name: str, earlier: _Reading) -> FileContents | None:
    """Return the known rows with the new ones appended; None if the whole file must be read."""
    position = earlier.position
    facts, tables = client.read(path, name, immutable=False, since=position.last_rowids)
    if not facts["position"] or not is_running(facts, tables) or _was_rewound(tables, position.last_event):
        return None
    for table in position.last_rowids:
        whole = _append(earlier.tables[table], tables.get(table))
        if whole is None:
            return None
        tables[table] = whole
    if not _within_limits(tables, client.limits):
        return None
    # A reading of the new rows does not repeat what is known of the whole file.
    facts["notes"] = tuple(dict.fromkeys((*facts["notes"], *earlier.notes)))
    facts["damage"] = tuple(dict.fromkeys((*facts["damage"], *earlier.damage)))
    return facts, tables


def _append(known: pa.Table, new: pa.Table | None) -> pa.Table | None:
    """Return the known rows and the new ones; None unless `new` begins with the last known row.

    A column that was added since is NULL in the known rows.
    """
    if new is None or not {*known.column_names} <= {*new.column_names}:
        return None
    whole = pa.concat_tables([known, new.slice(1)], promote_options="default").select(new.column_names)
    last = len(known) - 1
    if repr(whole.slice(last, 1).to_pydict()) != repr(new.slice(0, 1).to_pydict()):  # NaN in an array equals itself
        return None
    return whole.combine_chunks() if whole.column(0).num_chunks > MAX_CHUNKS else whole


def _within_limits(tables: Mapping[str, pa.Table], limits: ReadLimits) -> bool:
    """Return whether the tables together are small enough to have been read at once."""
    values = sum(len(table) * table.num_columns for table in tables.values())
    values += sum(tables[table].nbytes // 8 for table in schema.PACKED_TABLES.values() if table in tables)
    return values <= limits.values and max(map(len, tables.values())) <= limits.rows


def _was_rewound(tables: Mapping[str, pa.Table], last_event: int) -> bool:
    """Return whether rows may have been replaced after that event."""
    events = tables.get("events")
    if events is None or not {"id", "code"} <= {*events.column_names}:
        return last_event > 0 or events is not None
    since = events.filter(pc.greater(events["id"], last_event))
    return len(since) > MAX_EVENTS or any(code in REPLACING_EVENTS for code in since["code"].to_pylist())


def is_running(facts: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> bool:
    """Return whether this project's logger wrote the file, and its run has not ended."""
    rows = tables.get("run")
    if facts["application_id"] != schema.APPLICATION_ID or rows is None or rows.num_columns < 2:
        return False
    state = rows.filter(pc.equal(rows["key"], "exit_state"))["value"].to_pylist()
    return bool(state == ['"running"'])
