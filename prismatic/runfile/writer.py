"""The thread that writes: training hands records to it and never waits for the disk.

Everything the training thread calls may be interrupted by a signal handler that calls it again, so there is no lock on
its side: `SimpleQueue.put` is re-entrant, a Lock or an Event that others set is not.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import compress
from queue import Empty, SimpleQueue
from typing import Any

from prismatic.contract.schema import dynamics_columns
from prismatic.runfile.database import Store, columns_of, is_fault_of_statement
from prismatic.runfile.records import (
    Columns,
    Emptied,
    Flush,
    Measured,
    Refused,
    Rewound,
    Shapes,
    Told,
    Widened,
    plain,
    wide_row,
)

MAX_WAITING = 2_000_000  # values; about 150 MB of Python numbers
CLOSE_SECONDS = 10.0  # how long the last rows try to reach the file
VALUES_AT_ONCE = 200_000  # of one transaction, some tenth of a second
ROWS_AT_ONCE = 100  # rows that exist as Python objects: so few stay in the processor's cache
NAME_RULE = "a column's name has lower-case letters, digits and underscores, at most 63, and is not `step`"

RETRY_SECONDS = 0.5

Item = Measured | Told | Rewound | Widened | Emptied | Flush


class Writer:
    """Writes records to a store from a thread of its own, a transaction at least every `flush_seconds`.

    When the file cannot be written the records wait; measurements beyond MAX_WAITING values are dropped and counted.
    `sayings`: what the user should be told, for the training thread to say.
    """

    def __init__(self, store: Store, *, flush_seconds: float):
        self.dropped = 0
        self.sayings: deque[str] = deque()
        self._store = store
        # Half of it, so that what has just missed one transaction is in the next one in time.
        self._interval = min(flush_seconds / 2, threading.TIMEOUT_MAX)
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._urgent: SimpleQueue[None] = SimpleQueue()
        self._waiting: deque[Item] = deque()  # taken from the queue and not in the file yet: the thread's own
        # Values taken in and values no longer held: each is changed by one thread only.
        self._taken, self._done = 0, 0
        self._shapes = Shapes()
        self._said: set[str] = set()
        self._dropped_before = 0
        self._deadline: float | None = None
        self._whole = False
        self._thread = threading.Thread(target=self._run, name="prismatic writer", daemon=True)
        self._thread.start()

    # -- Called by the training thread ---------------------------------------------------------------------------------

    def measured(self, record: Measured) -> None:
        """Take a record in, unless memory is full of records that could not be written."""
        size = record.size
        waiting = self._taken + size - self._done
        if waiting > MAX_WAITING:
            self.dropped += 1
            return
        self._taken += size
        self._queue.put(record)
        if not self._interval or waiting > MAX_WAITING // 4:
            self._urgent.put(None)

    def tell(self, item: Told | Rewound | Widened | Emptied) -> None:
        """Take in what is small and rare, and explains the measurements: it goes last when memory is full."""
        if self._taken - self._done > 2 * MAX_WAITING:
            return
        self._taken += 1
        self._queue.put(item)
        if not self._interval:
            self._urgent.put(None)

    def flush(self, seconds: float | None = None) -> bool:
        """Wait until all that was taken in is in the file; False where it could not be written, or not in time."""
        if not self._thread.is_alive():
            return False
        token = Flush()
        self._queue.put(token)
        self._urgent.put(None)
        return token.done.wait(seconds) and token.written

    def finish(self, seconds: float) -> None:
        """Get what waits into the file before the process ends, also where close() was interrupted."""
        if self._deadline is None:
            self.flush(seconds)
        else:
            self._thread.join(seconds)

    def close(self) -> bool:
        """Write what waits, for up to CLOSE_SECONDS, and close the file; False if something was lost."""
        self._deadline = self._deadline or time.monotonic() + CLOSE_SECONDS
        self._urgent.put(None)
        self._thread.join()
        return self._whole

    # -- The thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._deadline is None:
                with suppress(Empty):
                    # Without an interval each record is urgent; but what could not be written is tried again.
                    self._urgent.get(timeout=self._interval or (RETRY_SECONDS if self._waiting else None))
                    while True:
                        self._urgent.get_nowait()
                self._write()
            while self._write() is False or not self._queue.empty():
                if time.monotonic() > self._deadline:
                    break
                time.sleep(0.01)
            self._whole = not self._waiting
        except Exception as error:
            self.sayings.append(f"nothing is written any more ({type(error).__name__}: {error}); training goes on.")
        finally:
            with suppress(Empty):
                while True:
                    self._waiting.append(self._queue.get_nowait())
            _answer(self._waiting, False)
            self.dropped += sum(isinstance(item, Measured) for item in self._waiting)
            self._store.close()

    def _write(self) -> bool:
        """Everything that waits, oldest first; False if the file could not be written, and the rest waits on."""
        with suppress(Empty):
            while True:
                self._waiting.append(self._queue.get_nowait())
        written = True
        while self._waiting and written:
            batch = self._oldest()
            written = self._try_to_write([item for item in batch if not isinstance(item, Flush)])
            if written:
                _answer(batch, written)
                for item in batch:
                    self._waiting.popleft()
                    self._done += _size(item)
        _answer(self._waiting, False)
        self._waiting = deque(item for item in self._waiting if not isinstance(item, Flush))
        return written

    def _oldest(self) -> list[Item]:
        """As many records as one short transaction takes: the first of many must not wait for the last."""
        batch: list[Item] = []
        values = 0
        for item in self._waiting:
            values += _size(item)
            if batch and values > VALUES_AT_ONCE:
                break
            batch.append(item)
        return batch

    def _try_to_write(self, items: list[Item]) -> bool:
        dropped = self.dropped
        if not items and dropped == self._dropped_before:
            return True
        try:
            with self._store.transaction():
                batch = _Batch(self._store, self._shapes)
                batch.write(items)
                if dropped > self._dropped_before:
                    said = f"{dropped} logged steps were dropped until now: the file could not be written"
                    row = event("dropped", said, "error")
                    self._store.insert("events", tuple(row), [tuple(row.values())])
        except Exception as error:
            if isinstance(error, OSError) or (isinstance(error, sqlite3.Error) and not is_fault_of_statement(error)):
                self._say_once("file", f"cannot be written now ({error}); training goes on and rows wait in memory.")
                return False
            # A record that nobody foresaw must not keep the others from the file.
            if len(items) > 1:
                return all(self._try_to_write([item]) for item in items)
            self.dropped += sum(isinstance(item, Measured) for item in items)
            self._refuse(f"a row or column is not logged: {type(error).__name__}: {error}", "refused_row")
            return True
        self._dropped_before = dropped
        self.dropped += batch.refused
        self._dropped_before += batch.refused  # they have events of their own
        for fault, code in batch.faults.items():
            self._refuse(fault, code)
        return True

    def _refuse(self, fault: str, code: str) -> None:
        """What can be no column, no number or no row becomes an event and a warning, once; training never stops."""
        if self._say_once(fault, fault):
            self._done -= 1  # it was not taken in from outside
            self._queue.put(Told("events", event(code, fault, "warning")))

    def _say_once(self, key: str, message: str) -> bool:
        if new := key not in self._said:
            self._said.add(key)
            self.sayings.append(message)
        return new


def _size(item: Item) -> int:
    return item.size if isinstance(item, Measured) else 0 if isinstance(item, Flush) else 1


def _answer(items: Iterable[Item], written: bool) -> None:
    """Tell those who wait for a flush how it went."""
    for item in items:
        if isinstance(item, Flush):
            item.written = written
            item.done.set()


class _Batch:
    """The rows of one transaction, by table and columns, so that each kind is one statement."""

    def __init__(self, store: Store, shapes: Shapes):
        self._store = store
        self._shapes = shapes
        self._rows: dict[tuple[str, tuple[str, ...]], list[Sequence[Any]]] = {}
        self.faults: dict[str, str] = {}
        """Sentence by sentence, the code of its event."""
        self.refused = 0
        """Logged steps that can never be written."""
        # Of the records that come one after another with the same columns:
        self._columns: Columns | None = None
        self._room: list[bool] = []
        self._has_room = True
        self._wide: list[Sequence[Any]] = []

    def write(self, items: list[Item]) -> None:
        """Write these items in their order; `faults` says what can never be written."""
        for item in items:
            match item:
                case Measured():
                    self._measured(item)
                case Told(table, row):
                    self._row(table, row)
                case Widened(num_experts):
                    self._store.add_columns(column.name for column in dynamics_columns(num_experts))
                case Emptied(table):
                    self._insert()
                    self._store.empty(table)
                case Rewound():
                    self._rewound(item)
        self._insert()

    def _measured(self, record: Measured) -> None:
        columns = self._shapes.of(record)
        if columns is not self._columns or len(self._wide) == ROWS_AT_ONCE:
            self._insert()
            self._take_columns(columns)
        nan, values = wide_row(record, columns)
        if record.total is None:
            values = self._without_refused(values, columns.names)
        if not self._has_room:
            rest = zip(columns.names, values, self._room, strict=True)
            scalars = self._rows.setdefault(("scalars", ("step", "name", "value")), [])
            scalars += [[record.step, name, value] for name, value, room in rest if not room]
            values = list(compress(values, self._room))
        self._wide.append([record.step, nan, *values])
        for table, rows in record.tables.items():
            for row in rows:
                self._row(table, {"step": record.step, **row})

    def _take_columns(self, columns: Columns) -> None:
        """Get ready for records of these columns, which come one after another."""
        for name in columns.refused:
            self._fault(f"{name!r} is not logged: {NAME_RULE}", "refused_value")
        self._store.add_columns(columns.names)
        self._room = [self._store.has_column(name) for name in columns.names]
        self._has_room = all(self._room)
        names = ("step", "nan_values", *compress(columns.names, self._room))
        self._wide = self._rows.setdefault(("dynamics", names), [])
        self._columns = columns

    def _without_refused(self, values: Sequence[Any], names: Sequence[str]) -> Sequence[Any]:
        if Refused not in map(type, values):
            return values
        for name, value in zip(names, values, strict=True):
            if type(value) is Refused:
                self._fault(f"{name!r} is not logged: {value}", "refused_value")
        return [None if type(value) is Refused else value for value in values]

    def _row(self, table: str, row: Mapping[str, Any]) -> None:
        kinds = columns_of(table)
        values = [plain(value, kinds.get(name, "REAL")) for name, value in row.items()]
        self._rows.setdefault((table, tuple(row)), []).append(self._without_refused(values, list(row)))

    def _rewound(self, item: Rewound) -> None:
        self._insert()
        deleted = self._store.delete_from(item.step)
        if item.step == item.last:
            row = event("repeated_step", f"step {item.step} was logged twice; the later row stands", "warning")
        else:
            again = f"step {item.step} came after step {item.last}; {deleted} logged steps from there on are replaced"
            row = event("rewind", again, "info")
        self._row("events", {**row, "step": item.step})

    def _insert(self) -> None:
        for (table, names), rows in self._rows.items():
            for fault in self._store.insert(table, names, rows):
                self._fault(f"a row or column is not logged: {fault}", "refused_row")
                self.refused += table == "dynamics"
        self._rows.clear()
        self._columns = None

    def _fault(self, sentence: str, code: str) -> None:
        self.faults.setdefault(sentence, code)


def event(code: str, message: str, level: str) -> dict[str, Any]:
    """A row of `events`, of now and of no step."""
    return {"step": None, "wall_time": time.time(), "level": level, "code": code, "message": message}
