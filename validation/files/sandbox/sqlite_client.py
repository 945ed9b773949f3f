"""The parent's side of reader.py: a child process opens run files, and what it answers is not trusted either.

A file that takes the child over could make it answer anything: names, kinds and sizes are checked again here before
they are used, and the child is ended when it outlasts its time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa

from prismatic.contract import schema
from validation.files.dialects import LAYER_COLUMN, LAYER_METRICS
from validation.files.errors import RunFileError, explained, rejection
from validation.files.limits import ReadLimits
from validation.text import printable

READER = Path(__file__).with_name("sqlite_worker.py")
GRACE_SECONDS = 3.0  # the child ends itself at its deadline; what is still alive after this is killed
# What is read beside `dynamics`, and of that what may have as many rows.
SIDE_TABLES = ("run", "experts", "tiers", "events", "scalars", "layers", "histograms")
LONG_TABLES = ("dynamics", "layers", "scalars", "histograms")
HEADER_BYTES = 1 << 20
TEXT_BYTES, SIDE_ROWS = 64 << 20, 100_000  # of one side table, as in reader.py
INHERITED = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # what Python needs to start

Answer = tuple[dict[str, Any], dict[str, pa.Table]]
T = TypeVar("T")
Listen = Callable[[IO[bytes], str, ReadLimits], T]

NOWHERE: Mapping[str, int] = MappingProxyType({})
KINDS = {table: {column.name: column.type for column in schema.TABLES[table][0]} for table in SIDE_TABLES}
# Of what a request may say: the columns that are read, and the whole file.
WHOLE = {
    "columns": [column.name for column in schema.STEP_COLUMNS],
    "layer_metrics": [*LAYER_METRICS],
    "tables": KINDS,
    "since": {},
    "until": {},
    "middle": False,
}

# However many sessions read at once: each reader may take as much memory and time as its limits allow.
READERS = threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class Reached:
    """How far a file that may grow was read."""

    mark: int  # the newest event before any row was read
    last: Mapping[str, int]  # rowid of the last row by table; a table without rows is not in it


class _Broken(Exception):
    """The child's answer ended early or breaks the protocol."""


class Child:
    """A process that runs reader.py: one for a whole batch, replaced after a file that kills or hangs it."""

    def __init__(self, limits: ReadLimits) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def another(self) -> Child | None:
        """One more reader; None where two are at work already."""
        self._start()  # first: two that have a second one already would wait for each other
        child = Child(self.limits)
        return child if child._start(wait=False) else None

    def _start(self, *, wait: bool = True) -> subprocess.Popen[bytes] | None:
        if self._process is None or self._process.poll() is not None:
            self.close()
            environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
            command = [sys.executable, "-I", "-S", "-B", str(READER)]
            if not READERS.acquire(blocking=wait):
                return None
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    cwd=os.path.abspath(os.sep),
                )
            except BaseException:
                READERS.release()
                raise
        return self._process

    def close(self) -> None:
        """Ends the process, if there is one: it leaves when its stdin ends, unless it hangs."""
        process, self._process = self._process, None
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
            READERS.release()

    def ask(
        self,
        path: Path,
        name: str,
        *,
        immutable: bool,
        since: Mapping[str, int] = NOWHERE,
        until: Mapping[str, int] = NOWHERE,
        beside: Sequence[str] = SIDE_TABLES,
    ) -> Answer:
        """Facts and tables of one file; RunFileError if it is rejected or the child does not survive it.

        since, until: of these tables only the rows from this rowid on, or up to it. beside: the tables to read beside
        `dynamics`.
        """
        wanted = {"since": dict(since), "until": dict(until), "tables": {table: KINDS[table] for table in beside}}
        return self._talk(path, name, immutable, wanted, _answer)

    def middle(self, path: Path, name: str, *, immutable: bool) -> int | None:
        """The rowid up to which about half of the rows of `dynamics` lie; None where that cannot be told."""
        return self._talk(path, name, immutable, {"middle": True}, _middle)

    def _talk(self, path: Path, name: str, immutable: bool, wanted: dict[str, Any], listen: Listen[T]) -> T:
        process, started = self._start(), time.monotonic()
        assert process
        timer = threading.Timer(self.limits.seconds + GRACE_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdin
            assert process.stdout
            file = {"path": os.path.abspath(path), "immutable": immutable, "limits": asdict(self.limits)}
            process.stdin.write(json.dumps(WHOLE | file | wanted).encode() + b"\n")
            process.stdin.flush()
            return listen(process.stdout, name, self.limits)
        except RunFileError:
            raise
        except Exception as error:  # a child that was taken over may answer anything
            self.close()
            late = time.monotonic() - started > self.limits.seconds
            problem = f"{str(error) or type(error).__name__}, exit code {process.returncode}"
            code = "timeout" if late else "died"
            raise rejection(name, code, self.limits, problem=problem) from None
        finally:
            timer.cancel()


def _middle(stream: IO[bytes], name: str, limits: ReadLimits) -> int | None:
    """What is answered to the question for the middle."""
    header = _header(stream)
    return header["middle"] if type(header["middle"]) is int else None


def _header(stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline(HEADER_BYTES)
    if not line.endswith(b"\n"):
        raise _Broken("no answer" if not line else "an answer without end")
    header: dict[str, Any] = json.loads(line)
    return header


def _answer(stream: IO[bytes], name: str, limits: ReadLimits) -> Answer:
    """Reads one answer: a header that is believed only where it can be checked, then as many bytes as that implies."""
    header = _header(stream)
    if header["ok"] is not True:
        kind, evidence, cause, fix = explained(header["code"], header["details"], limits=limits)
        raise kind(name, evidence, cause, fix)
    layouts = header["tables"]
    for table, (rows, columns) in layouts.items():
        _check_layout(table, rows, columns, limits)
    if sum(rows * len(columns) for rows, columns in layouts.values()) > limits.values:
        raise _Broken("an answer beyond the limits")
    tables = {
        table: pa.table({column: _read_column(stream, kind, rows) for column, kind in columns})
        for table, (rows, columns) in layouts.items()
    }
    if "dynamics" not in tables or "step" not in tables["dynamics"].column_names:
        raise _Broken("an answer without steps")
    return _facts_about(header, limits), tables


def _facts_about(header: dict[str, Any], limits: ReadLimits) -> dict[str, Any]:
    """What a header says beside the tables, as RunFile keeps it."""
    notes = []
    for table, code, details in header["notes"][: len(schema.TABLES)]:
        _, evidence, _, _ = explained(code, details, limits=limits, table=printable(table))
        notes.append(f"table `{printable(table)}` was left out: {evidence}")
    if header["damage"] is not None:
        problem = printable(header["damage"], 200)
        notes.append(f"outside the tables that were read the file is not known to be sound: {problem}")
    if (unnamed := int(header["ignored_count"]) - 50) > 0:
        notes.append(f"{unnamed:,} more columns were not read")
    if (version := int(header["version"])) > schema.SCHEMA_VERSION:
        notes.append(
            f"written by schema version {printable(version)}, newer than the {schema.SCHEMA_VERSION} known here"
        )
    ignored = tuple(printable(column) for column in header["ignored"][:50])
    lost, application = bool(header["lost"]), int(header["application_id"])
    known = {"ignored": ignored, "notes": tuple(notes), "wal": lost, "application_id": application, "version": version}
    return known | {"reached": _reached(header)}


def _reached(header: dict[str, Any]) -> Reached | None:
    """How far the reading came; None where nobody could go on there."""
    mark, last = header["mark"], header["last"]
    if header["notes"] or type(mark) is not int or any(type(last.get(name, 0)) is not int for name in LONG_TABLES):
        return None
    return Reached(mark, {name: last[name] for name in LONG_TABLES if name in last})


def _type_of(table: str, name: str) -> str:
    """SQL type that the project gives a column of a file; _Broken for a column it does not know."""
    if table == "dynamics":
        known = {column.name: "REAL" for column in schema.STEP_COLUMNS} | {"step": "INTEGER"}
        found = "REAL" if _is_of_an_expert(name) else known.get(name)
    else:
        found = next((column.type for column in schema.TABLES[table][0] if column.name == name), None)
    if found is None:
        raise _Broken("an answer with an unknown column")
    return found


def _is_of_an_expert(name: str) -> bool:
    """Whether a column of `dynamics` belongs to an expert, or to one in a layer; numbers have one spelling only."""
    match = schema.EXPERT_COLUMN.fullmatch(name)
    if in_layer := LAYER_COLUMN.fullmatch(name):
        match = in_layer if in_layer[3] in LAYER_METRICS else None
    plain = match is not None and all(number == str(int(number)) for number in match.groups()[:-1])
    return plain and name.isascii() and len(name) < 100


def _check_layout(table: str, rows: int, columns: list[list[str]], limits: ReadLimits) -> None:
    """What a header says of one table: everything that is read afterwards follows from it."""
    names, kinds = [name for name, _ in columns], {"INTEGER": "q", "REAL": "d", "TEXT": "t"}
    most = limits.rows if table in LONG_TABLES else SIDE_ROWS
    if type(rows) is not int or not 0 <= rows <= most or len(set(names)) < len(names) or len(names) > limits.columns:
        raise _Broken("an answer beyond the limits")
    if any(kind != kinds[_type_of(table, name)] for name, kind in columns):
        raise _Broken("an answer with wrong columns")


def _read_column(stream: IO[bytes], kind: str, rows: int) -> pa.Array:
    """One column, as the head of reader.py describes it."""
    if kind == "d":
        return pa.array(_take(stream, rows, np.float64), from_pandas=True)  # NaN to NULL
    if kind == "q":
        values, present = _take(stream, rows, np.int64), _take(stream, rows, np.uint8)
        return pa.array(values, mask=present == 0)
    lengths = _take(stream, rows, np.int32)
    ends = np.cumsum(np.maximum(lengths, 0), dtype=np.int64)
    total = int(ends[-1]) if rows else 0
    if total > TEXT_BYTES:
        raise _Broken("an answer beyond the limits")
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    valid = pa.array(lengths >= 0).buffers()[1]
    texts = pa.StringArray.from_buffers(
        rows, pa.py_buffer(offsets), pa.py_buffer(_take(stream, total, np.uint8)), valid
    )
    texts.validate(full=True)  # that it is UTF-8
    return texts


def _take(stream: IO[bytes], count: int, dtype: type[np.generic]) -> np.ndarray:
    """The next `count` numbers of the stream."""
    values = np.empty(count, dtype)
    view, filled = values.data.cast("B") if count else memoryview(b""), 0
    while filled < len(view):
        got = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not got:
            raise _Broken("an answer that ends early")
        filled += got
    return values
