"""The parent's end of set_worker.py: start the child process that opens sets, and check what it returns.

A hostile file may take control of the child. So names, types and sizes are checked again here before they are used, and
a child that exceeds its time is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from prismatic.sandbox.worker import LIBRARY_SETTINGS, PROJECT, start_worker
from validation.files.errors import RunFileError, rejection
from validation.files.limits import ReadLimits
from validation.files.sandbox.received import ProtocolError, ReceivedTables, read_line
from validation.files.sandbox.sqlite_client import GRACE_SECONDS
from validation.files.sandbox.turns import TURNS, NobodyWaits, in_turns
from validation.files.set_manifest import Part
from validation.text import printable

SET_WORKER = Path(__file__).with_name("set_worker.py")
PACKAGES = (PROJECT, Path(pa.__file__).parent.parent)  # the folders that the worker imports from
SHA256 = re.compile("[0-9a-f]{64}")
RUN_ID = re.compile(r"[0-9a-f]{6,9}(-[0-9]{1,6})?")
TEXTS, CHARACTERS = 100, 500  # as in set_worker.py


@dataclass(frozen=True)
class SetRun:
    """A run of a set: what the child says of it, which this program has not seen for itself."""

    id: str
    name: str
    sha256: str
    """Of the original file."""
    facts: dict[str, Any]
    """Fields of RunFile."""
    tables: dict[str, pa.Table]


@dataclass
class SetReading:
    """The runs that were read of a set, and the parts that are left."""

    folder: Path
    name: str
    """The name to show in errors."""
    parts: list[Part]
    limits: ReadLimits
    most: int | None = None
    """The number of runs that it may have; None without a limit."""
    runs: list[SetRun] = field(default_factory=list)

    def read(self) -> None:
        """Read all parts. Raises RunFileError, with the runs of the parts before the damage in `runs`."""
        try:
            in_turns(self._read_on)
        except NobodyWaits:
            raise rejection(self.name, "nobody_waits", self.limits) from None

    def _read_on(self, slice_seconds: float) -> None:
        """Read the parts that are left with one child."""
        if not self.parts:
            return
        parts = [[part.name, dict(part.hashes)] for part in self.parts]
        request = {"path": os.path.abspath(self.folder), "parts": parts, "limits": asdict(self.limits)}
        with TURNS.turn(slice_seconds) as turn, start_worker(SET_WORKER, PACKAGES, LIBRARY_SETTINGS) as process:
            turn.of(process.kill)
            assert process.stdin
            assert process.stdout
            try:
                with contextlib.suppress(BrokenPipeError):  # the missing reply tells
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.close()
                while self.parts:
                    self.runs += self._read_part(process)
                    del self.parts[0]
            finally:
                process.kill()  # nothing more is expected from it

    def _read_part(self, process: subprocess.Popen[bytes]) -> list[SetRun]:
        """Return the runs of the next part. Raises RunFileError."""
        assert process.stdout
        started, limits = time.monotonic(), self.limits
        most = None if self.most is None else self.most - len(self.runs)
        timer = threading.Timer(limits.seconds + GRACE_SECONDS, process.kill)
        timer.start()
        try:
            return _receive_part(process.stdout, self.name, limits, most)
        except RunFileError:
            raise
        except Exception as error:  # a child under a hostile file's control may send anything
            late = time.monotonic() - started > limits.seconds
            problem = str(error) or type(error).__name__
            raise rejection(self.name, "timeout" if late else "died", limits, problem=problem) from None
        finally:
            timer.cancel()


def _receive_part(stream: IO[bytes], name: str, limits: ReadLimits, most: int | None) -> list[SetRun]:
    """Return the runs of one part as the child sends them. Raises RunFileError for the error that it names."""
    runs: list[SetRun] = []
    spent = 0
    while "id" in (message := read_line(stream)):
        if most is not None and len(runs) == most:
            raise rejection(name, "too_large", limits, limit="members")
        tables = ReceivedTables(limits)
        for table, (rows, columns) in message["tables"].items():
            tables.page(stream, table, rows, columns)
        runs.append(_run(message, tables.finish()))
        spent += sum(table.nbytes for table in runs[-1].tables.values())
        if spent > 2 * limits.unpacked_bytes:
            raise ProtocolError("a reply beyond the limits")
    if message["end"]:
        code, details = message["end"]
        raise rejection(name, str(code), limits, **details)
    return runs


def _run(message: dict[str, Any], tables: dict[str, pa.Table]) -> SetRun:
    facts: dict[str, Any] = {
        name: tuple(printable(text, CHARACTERS) for text in message[name][:TEXTS])
        for name in ("ignored", "notes", "damage")
    }
    facts |= {name: int(message[name]) for name in ("duplicates", "application_id", "version")}
    facts["wal"] = bool(message["wal"])
    run, sha256 = str(message["id"]), str(message["sha256"])
    if not RUN_ID.fullmatch(run) or not SHA256.fullmatch(sha256):
        raise ProtocolError("a reply with an unknown run")
    return SetRun(run, printable(message["name"], 300), sha256, facts, tables)
