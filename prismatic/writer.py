"""The thread that writes: training hands records to it and never waits for the disk.

Everything the training thread calls may be interrupted by a signal handler that calls it again, so there is no lock on
its side: `SimpleQueue.put` is re-entrant, a Lock or an Event that others set is not.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from prismatic.records import Flush, Measured, Refused, Rewound, Told, Widened, nan_count, plain, wide_values
from prismatic.schema import dynamics_columns
from prismatic.store import Store, columns_of

MAX_WAITING = 2_000_000  # values; about 150 MB of Python numbers
CLOSE_SECONDS = 10.0  # how long the last rows try to reach the file
NAME_RULE = "a column's name has lower-case letters, digits and underscores, at most 63, and is not `step`"

Item = Measured | Told | Rewound | Widened | Flush


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
        self._interval = flush_seconds / 2
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._urgent: SimpleQueue[None] = SimpleQueue()
        self._waiting: list[Item] = []  # taken from the queue and not in the file yet: the thread's own
        self._said: set[str] = set()
        self._dropped_before = 0
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="prismatic writer", daemon=True)
        self._thread.start()

    # -- Called by the training thread ---------------------------------------------------------------------------------

    def measured(self, record: Measured) -> None:
        """Take a record in, unless memory is full of records that could not be written."""
        waiting = (self._queue.qsize() + len(self._waiting)) * record.size
        if waiting > MAX_WAITING or self._deadline is not None:
            self.dropped += 1
            return
        self._queue.put(record)
        if waiting > MAX_WAITING // 4 or not self._interval:
            self._urgent.put(None)

    def tell(self, item: Told | Rewound | Widened) -> None:
        """Take in what is small and rare, and explains the measurements: it is never dropped."""
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

    def close(self) -> bool:
        """Write what waits, for up to CLOSE_SECONDS, and close the file; False if something was lost."""
        if self._deadline is None:
            self._deadline = time.monotonic() + CLOSE_SECONDS
            self._urgent.put(None)
        self._thread.join()
        return not self._waiting

    # -- The thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._deadline is None:
                with suppress(Empty):
                    self._urgent.get(timeout=self._interval or None)
                    while True:
                        self._urgent.get_nowait()
                self._write()
            while self._write() is False or not self._queue.empty():
                if time.monotonic() > self._deadline:
                    break
                time.sleep(0.01)
            self.dropped += sum(isinstance(item, Measured) for item in self._waiting)
        finally:
            self._store.close()

    def _write(self) -> bool:
        """Everything that waits, in one transaction; False if the file could not be written, and all waits on."""
        with suppress(Empty):
            while True:
                self._waiting.append(self._queue.get_nowait())
        tokens = [item for item in self._waiting if isinstance(item, Flush)]
        self._waiting = [item for item in self._waiting if not isinstance(item, Flush)]
        written = not self._waiting or self._try_to_write()
        for token in tokens:
            token.written = written
            token.done.set()
        return written

    def _try_to_write(self) -> bool:
        dropped = self.dropped
        try:
            with self._store.transaction():
                faults = _Batch(self._store).write(self._waiting)
                if dropped > self._dropped_before:
                    row = event(
                        "dropped",
                        f"{dropped} logged steps were dropped until now: the file could not be written",
                        "error",
                    )
                    self._store.insert("events", tuple(row), [tuple(row.values())])
        except Exception as error:  # whatever it is, this thread must go on: training knows nothing of it
            self._say_once("file", f"cannot be written now ({error}); training goes on and rows wait in memory.")
            return False
        self._waiting, self._dropped_before = [], dropped
        for fault, code in faults.items():
            self._refuse(fault, code)
        return True

    def _refuse(self, fault: str, code: str) -> None:
        """What can be no column, no number or no row becomes an event and a warning, once; training never stops."""
        if self._say_once(fault, fault):
            self._queue.put(Told("events", event(code, fault, "warning")))

    def _say_once(self, key: str, message: str) -> bool:
        if new := key not in self._said:
            self._said.add(key)
            self.sayings.append(message)
        return new


class _Batch:
    """The rows of one transaction, by table and columns, so that each kind is one statement."""

    def __init__(self, store: Store):
        self._store = store
        self._rows: dict[tuple[str, tuple[str, ...]], list[list[Any]]] = {}
        self._faults: dict[str, str] = {}
        """Sentence by sentence, the code of its event."""

    def write(self, items: list[Item]) -> dict[str, str]:
        """Write these items in their order; returns what could never be written, and the code of each."""
        for item in items:
            match item:
                case Measured():
                    self._measured(item)
                case Told(table, row):
                    self._row(table, row)
                case Widened(num_experts):
                    self._store.add_columns(column.name for column in dynamics_columns(num_experts))
                case Rewound():
                    self._rewound(item)
        self._insert()
        return self._faults

    def _measured(self, record: Measured) -> None:
        columns = record.columns
        for name in columns.refused:
            self._fault(f"{name!r} is not logged: {NAME_RULE}", "refused_value")
        values = wide_values(record)
        for place, value in enumerate(values):
            if type(value) is Refused:
                self._fault(f"{columns.names[place]!r} is not logged: {value}", "refused_value")
                values[place] = None
        self._store.add_columns(columns.names)
        names = columns.names
        if not all(map(self._store.has_column, names)):
            names, values = self._without_scalars(record.step, names, values)
        self._rows.setdefault(("dynamics", ("step", "nan_values", *names)), []).append(
            [record.step, nan_count(values), *values]
        )
        for table, rows in record.tables.items():
            for row in rows:
                self._row(table, {"step": record.step, **row})

    def _without_scalars(
        self, step: int, names: tuple[str, ...], values: list[Any]
    ) -> tuple[tuple[str, ...], list[Any]]:
        """The names and values that the wide table has columns for; the others become rows of `scalars`."""
        pairs = list(zip(names, values, strict=True))
        rest = [[step, name, value] for name, value in pairs if not self._store.has_column(name)]
        self._rows.setdefault(("scalars", ("step", "name", "value")), []).extend(rest)
        kept = [(name, value) for name, value in pairs if self._store.has_column(name)]
        return tuple(name for name, _ in kept), [value for _, value in kept]

    def _row(self, table: str, row: Mapping[str, Any]) -> None:
        kinds = columns_of(table)
        values = [plain(value, kinds.get(name, "REAL")) for name, value in row.items()]
        for name, value in zip(row, values, strict=True):
            if type(value) is Refused:
                self._fault(f"{name!r} is not logged: {value}", "refused_value")
        plain_values = [None if type(value) is Refused else value for value in values]
        self._rows.setdefault((table, tuple(row)), []).append(plain_values)

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
        self._rows.clear()

    def _fault(self, sentence: str, code: str) -> None:
        self._faults.setdefault(sentence, code)


def event(code: str, message: str, level: str) -> dict[str, Any]:
    """A row of `events`, of now and of no step."""
    return {"step": None, "wall_time": time.time(), "level": level, "code": code, "message": message}
