"""The parent's end of sqlite_worker.py: start the child process that opens run files, and check what it returns.

A hostile file may take control of the child. So names, types and sizes are checked again here before
they are used, and a child that exceeds its time is killed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import pyarrow as pa

from prismatic.contract import schema
from prismatic.sandbox.sqlite_file import places_of
from prismatic.sandbox.worker import PROJECT, start_worker
from validation.files.errors import RunFileError, explain, rejection
from validation.files.file_state import FileState
from validation.files.limits import ReadLimits
from validation.files.sandbox.received import COLUMN_TYPES, LONG_TABLES, ReceivedTables, read_line
from validation.files.sandbox.turns import TURNS, NobodyWaits, Turn, TurnLost, in_turns
from validation.files.tables.dialects import LAYER_METRICS
from validation.text import pluralize, printable

WORKER = Path(__file__).with_name("sqlite_worker.py")
GRACE_SECONDS = 3.0  # the child ends itself at its deadline; one that is still alive after this is killed

FileContents = tuple[dict[str, Any], dict[str, pa.Table]]
"""Facts about a run file, and its tables by name."""

NO_ROWIDS: Mapping[str, int] = MappingProxyType({})
# The request for a whole file.
WHOLE_FILE = {
    "columns": [column.name for column in (*schema.STEP_COLUMNS, *schema.ROUTING_COLUMNS)],
    "layer_metrics": [*LAYER_METRICS],
    "tables": COLUMN_TYPES,
    "since": {},
}


@dataclass(frozen=True)
class ReadPosition:
    """The position up to which a growing file was read."""

    last_event: int  # id of the newest event before any row was read
    last_rowids: Mapping[str, int]  # of each table that has rows


class SqliteClient:
    """A child process that runs sqlite_worker.py for many files; one that a file killed or hung is replaced."""

    def __init__(
        self, limits: ReadLimits, paths: Iterable[Path] = (), *, folder: Path | None = None, spare: bool = False
    ) -> None:
        """paths, folder: the files to read. The process may read no others, and is replaced to read another one.

        spare: work only at a place that nobody else needs; `read` raises TurnLost without one.
        """
        self.limits = limits
        self._spare = spare
        self._folder = folder
        self._paths = {Path(os.path.abspath(path)): None for path in paths}
        self._named: dict[str, FileState] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._turn: Turn | None = None

    def _start(self, slice_seconds: float) -> subprocess.Popen[bytes]:
        if self._turn and self._process and not TURNS.resume(self._turn, slice_seconds):
            self.close()
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._turn = TURNS.spare() if self._spare else TURNS.begin(slice_seconds)
            try:
                self._process = start_worker(WORKER, [PROJECT, *driver_library()])
            except BaseException:
                TURNS.finish(self._turn)
                raise
            self._turn.of(self._process.kill)
        return self._process

    def close(self) -> None:
        """End the process, if there is one: close its stdin, and kill it if it does not exit then."""
        process, self._process, self._named = self._process, None, None
        if process is None:
            return
        assert process.stdin
        assert process.stdout
        try:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        finally:
            assert self._turn
            TURNS.finish(self._turn)

    def read(
        self,
        path: Path,
        name: str,
        *,
        immutable: bool,
        since: Mapping[str, int] = NO_ROWIDS,
    ) -> FileContents:
        """Return the facts and tables of one file. Raises RunFileError if it is rejected or breaks the child.

        since: by table, the first rowid to read.
        """
        path = Path(os.path.abspath(path))
        file = {"path": str(path), "immutable": immutable, "since": dict(since)}
        before = _states_of(path)
        try:
            return self._in_turns(path, name, file)
        except RunFileError:
            # A writer may have made or removed a -wal meanwhile, and a new one is closed to the process.
            if self._process is None or before == _states_of(path):
                raise
            return self._in_turns(path, name, file)

    def _name_files(self, stream: IO[bytes]) -> None:
        """Send the paths that the process may read from its first file on, and what all requests have in common."""
        self._named = {place: state for path in self._paths for place, state in _states_of(path).items()}
        folders = [str(self._folder)] if self._folder else []
        first = {"files": [*self._named], "folders": folders, "limits": asdict(self.limits), "options": WHOLE_FILE}
        stream.write(json.dumps(first).encode() + b"\n")

    def _may_read(self, path: Path) -> bool:
        """Return whether the process may read the file, and everything that SQLite has put beside it by now."""
        named = self._named or {}
        if self._folder in path.parents:
            return True
        return all(place in named and named[place].same_file(now) for place, now in _states_of(path).items())

    def _in_turns(self, path: Path, name: str, request: dict[str, Any]) -> FileContents:
        """Return the contents of one file, however often its process has to give way to others."""
        if self._spare:
            return self._request(path, name, request, 0.0)
        try:
            return in_turns(lambda slice_seconds: self._request(path, name, request, slice_seconds))
        except NobodyWaits:
            raise rejection(name, "nobody_waits", self.limits) from None

    def _request(self, path: Path, name: str, request: dict[str, Any], slice_seconds: float) -> FileContents:
        if not self._may_read(path):
            self.close()
            self._paths[path] = None
        process, started = self._start(slice_seconds), time.monotonic()
        timer = threading.Timer(self.limits.seconds + GRACE_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdin
            assert process.stdout
            if self._named is None:
                self._name_files(process.stdin)
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            return _read_contents(process.stdout, self.limits)
        except RunFileError as error:
            raise error.renamed(name) from None
        except Exception as error:  # a child under a hostile file's control may send anything
            lost = self._turn is not None and self._turn.lost
            self.close()
            if lost:
                raise TurnLost from None
            late = time.monotonic() - started > self.limits.seconds
            problem = f"{str(error) or type(error).__name__}, exit code {process.returncode}"
            code = "timeout" if late else "died"
            raise rejection(name, code, self.limits, problem=problem) from None
        finally:
            timer.cancel()
            if self._turn and self._process:
                TURNS.rest(self._turn)


def _states_of(path: Path) -> dict[str, FileState]:
    """Return the state of a database and of the files that SQLite has put beside it, by path."""
    states = {place: FileState.of(Path(place)) for place in places_of(str(path))}
    return {place: state for place, state in states.items() if state.inode}


def driver_library() -> list[str]:
    """Return the path of the library of Arrow's SQLite driver; [] if the package is missing."""
    found = importlib.util.find_spec("adbc_driver_sqlite")
    places = (found and found.submodule_search_locations) or ()
    return [os.path.join(place, "libadbc_driver_sqlite.so") for place in places][:1]


def _read_contents(stream: IO[bytes], limits: ReadLimits) -> FileContents:
    """Read one reply: pages of tables, then a header."""
    tables = ReceivedTables(limits)
    while "ok" not in (message := read_line(stream)):
        if "drop" in message:
            tables.drop(message["drop"])
        else:
            tables.page(stream, message["page"], message["rows"], message["columns"])
    if message["ok"] is not True:
        kind, evidence, cause, fix = explain(message["code"], message["details"], limits=limits)
        raise kind("", evidence, cause, fix)
    return _facts(message, limits), tables.finish()


def _facts(header: dict[str, Any], limits: ReadLimits) -> dict[str, Any]:
    """Return the fields of RunFile that the header gives, and the `position` that was read up to."""
    notes: list[str] = []
    damage: list[str] = []
    for table, code, details in header["notes"][: len(schema.TABLES)]:
        _, evidence, _, _ = explain(code, details, limits=limits, table=printable(table))
        # The table of another program is no loss, and no verdict depends on histograms.
        harmless = code == "no_known_columns" or (table == "histograms" and code in ("too_large", "timeout", "locked"))
        kind = notes if harmless else damage
        kind.append(f"table `{printable(table)}` was not read: {evidence}")
    if header["damage"] is not None:
        code, problem = header["damage"]
        if code == "timeout":
            notes.append(
                "the file was not checked for damage outside its tables: it is too large to be checked in time"
            )
        else:
            damage.append(f"outside the tables that were read, the file is damaged: {printable(problem, 200)}")
    if (unnamed := int(header["ignored_count"]) - 50) > 0:
        notes.append(f"not read either: {pluralize(unnamed, 'more column')}")
    if (version := int(header["version"])) > schema.SCHEMA_VERSION:
        known = f"this program knows version {schema.SCHEMA_VERSION}"
        notes.append(f"the file was written by schema version {printable(version)}; {known}")
    return {
        "ignored": tuple(printable(column) for column in header["ignored"][:50]),
        "notes": tuple(notes),
        "damage": tuple(damage),
        "wal": bool(header["lost"]),
        "application_id": int(header["application_id"]),
        "version": version,
        "position": _position(header),
    }


def _position(header: dict[str, Any]) -> ReadPosition | None:
    """Return the position that was read up to; None if a later reading cannot continue from it."""
    event, last = header["last_event"], header["last_rowids"]
    if header["notes"] or type(event) is not int or any(type(last.get(name, 0)) is not int for name in LONG_TABLES):
        return None
    return ReadPosition(event, {name: last[name] for name in LONG_TABLES if name in last})
