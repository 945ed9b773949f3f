"""SQL by the user: one SELECT over the relations, answered by a child process."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa

from prismatic.sandbox.worker import LIBRARY_SETTINGS, start_worker
from validation.files.sandbox.received import ProtocolError
from validation.files.sandbox.set_client import PACKAGES
from validation.files.sandbox.turns import TURNS, NobodyWaits, Turn, in_turns
from validation.query.relations import Relations
from validation.query.result import CELL_BYTES, QueryResult, result_table
from validation.text import printable

WORKER = Path(__file__).with_name("sql_worker.py")
FOLDERS = dict.fromkeys(map(str, (*PACKAGES, Path(duckdb.__file__).parent.parent)))  # that the worker imports from
SQL_BYTES = 100_000
ROWS, SECONDS = 10_000, 30.0
RESULT_BYTES = 16 << 20
LOAD_SECONDS = 60.0
GRACE_SECONDS = 0.5  # the child stops itself at its deadline; one that is still alive after this is killed
LOOKS = 0.1  # seconds between two looks at the clock
MEMORY = 768 << 20  # bytes of the child beside the relations
SPARE = 256 << 20  # of these: what Python, the libraries and the result need
HEADER_BYTES = 4 << 20


class BadQuery(ValueError):
    """The SQL is not one SELECT, has a mistake, or takes too long or too much memory."""


class RelationsError(Exception):
    """The relations cannot be made from some run: a fault of this program, not of the question."""


def run_query(
    relations: Relations,
    sql: str,
    *,
    rows: int = ROWS,
    seconds: float = SECONDS,
) -> QueryResult:
    """Return the result of one SELECT. Raises BadQuery for anything else, a mistake in it, or one that takes too much,
    and RelationsError.

    seconds: for the statement itself; loading the relations comes before.
    """
    if rows < 0 or not 0 < seconds < math.inf:
        found = f"{rows} rows and {seconds:g} seconds"
        raise BadQuery(f"a query is limited to a number of rows and seconds, found {found}; give others.")
    try:
        size = len(sql.encode())
    except UnicodeEncodeError:
        raise BadQuery("the SQL holds a character that is no text (a lone surrogate); type it anew.") from None
    if size > SQL_BYTES:
        raise BadQuery(f"the SQL has more than {SQL_BYTES:,} bytes; shorten it.")

    def ask(slice_seconds: float) -> QueryResult:
        with TURNS.turn(slice_seconds) as turn, _Child(seconds, turn) as child:
            return child.ask(relations, sql, rows)

    try:
        return in_turns(ask)
    except NobodyWaits:
        raise BadQuery("nobody waits for the answer any more.") from None


class _Child:
    """A process that answers one question and is killed when its time is over."""

    def __init__(self, seconds: float, turn: Turn) -> None:
        self._seconds, self._turn = seconds, turn
        self._deadline = time.monotonic() + LOAD_SECONDS
        self._ended = threading.Event()
        self._loaded = False
        self._process = start_worker(WORKER, FOLDERS, LIBRARY_SETTINGS)
        turn.of(self._process.kill)
        self._watch = threading.Thread(target=self._kill_in_time, daemon=True)
        self._watch.start()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        self._process.wait()
        self._watch.join()

    def _kill_in_time(self) -> None:
        while not self._ended.wait(LOOKS):
            if time.monotonic() > self._deadline:
                self._process.kill()
            self._turn.end_if_abandoned()

    def ask(self, relations: Relations, sql: str, rows: int) -> QueryResult:
        """Return the result of one question. Raises BadQuery, RelationsError."""
        try:
            with contextlib.suppress(BrokenPipeError):  # the reply tells why
                self._send(relations, sql, rows)
            assert self._process.stdout
            reply = _read_line(self._process.stdout)
            if "loaded" in reply:
                self._loaded = True
                self._deadline = time.monotonic() + self._seconds + GRACE_SECONDS
                reply = _read_line(self._process.stdout)
            if "refused" in reply:
                raise BadQuery(_sentence(printable(str(reply["refused"]), 500)))
            if "late" in reply:
                raise BadQuery(_took_too_long(self._seconds))
            return _read_result(self._process.stdout, reply, rows)
        except (BadQuery, RelationsError):
            raise
        except Exception as error:  # a child that a question broke may end at any place, and send anything
            raise BadQuery(self._reason_of_end(error)) from None

    def _send(self, relations: Relations, sql: str, rows: int) -> None:
        """Write the question, and the rows of all tables."""
        assert self._process.stdin
        memory = MEMORY + 2 * relations.bytes
        limits = {
            "memory": memory,
            "database": memory - SPARE,
            "seconds": self._seconds,
            "rows": rows,
            "bytes": RESULT_BYTES,
            "cell_bytes": CELL_BYTES,
        }
        request = {"sql": sql, "limits": limits, "tables": [*relations.tables]}
        request |= {"views": dict(relations.views), "folders": [*relations.folders]}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        for read in relations.tables.values():
            schema, batches = _rows(read)
            with pa.ipc.new_stream(self._process.stdin, schema) as sink:
                for batch in batches:
                    sink.write_batch(batch)
        self._process.stdin.close()

    def _reason_of_end(self, error: Exception) -> str:
        """Return why the process ended without an answer."""
        late = time.monotonic() > self._deadline
        self._process.kill()
        code = self._process.wait()
        if late or code == -getattr(signal, "SIGXCPU", 0):
            return _took_too_long(self._seconds) if self._loaded else "loading the runs took too long; choose fewer."
        ended = str(error) or type(error).__name__
        if code < 0 and code != -signal.SIGKILL:
            ended = signal.Signals(-code).name
        return f"it broke the process that answers questions, and nothing else ({printable(ended, 100)}); simplify it."


def _rows(read: Callable[[], pa.RecordBatchReader]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema and the rows of a table. Raises RelationsError."""
    try:
        found = read()
    except Exception as error:
        raise RelationsError(f"{type(error).__name__}: {error}") from error

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from found
        except Exception as error:
            raise RelationsError(f"{type(error).__name__}: {error}") from error

    return found.schema, batches()


def _took_too_long(seconds: float) -> str:
    return f"it took longer than {seconds:g} seconds; ask for fewer runs, or aggregate first."


def _read_line(stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline(HEADER_BYTES)
    if not line.endswith(b"\n"):
        raise ProtocolError("no reply" if not line else "an unfinished reply")
    return dict(json.loads(line))


def _read_result(stream: IO[bytes], header: dict[str, Any], most: int) -> QueryResult:
    """Read the rows, which a child that a question took over may have made up."""
    columns, count = [(printable(str(name), 200), str(kind)) for name, kind in header["columns"]], int(header["rows"])
    if not 0 <= count <= most:
        raise ProtocolError("a reply beyond the limits")
    data = stream.read(RESULT_BYTES + 1)
    rows = [json.loads(line) for line in data.splitlines()]
    if len(data) > RESULT_BYTES or len(rows) != count or any(len(row) != len(columns) for row in rows):
        raise ProtocolError("a reply beyond the limits")
    return QueryResult(result_table(columns, rows), bool(header["more"]), int(header["cut"]))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
