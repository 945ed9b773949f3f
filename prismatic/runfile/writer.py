"""The thread that writes records to a run file: queue, flush interval, retries, memory limit, dropped steps.

Training never waits for the disk. Threads that log take turns by an RLock, held for microseconds. A signal handler may
interrupt any call of a thread that logs and call it again, even close(): so that side uses only what is re-entrant, the
RLock and `SimpleQueue.put`, and the writing thread never takes the RLock.
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

from prismatic.contract.checksums import FACT
from prismatic.contract.packing import is_large, pack_rows
from prismatic.contract.schema import PACKED_TABLES, TABLES, dynamics_columns
from prismatic.runfile.database import RunDatabase, column_types, is_statement_fault, same_key
from prismatic.runfile.records import (
    BEFORE_SCALARS,
    AddColumns,
    ClearTable,
    ColumnCache,
    Columns,
    Flush,
    InsertRow,
    Refused,
    Rewind,
    StepRecord,
    to_sql_value,
    wide_row,
)

MAX_WAITING = 2_000_000  # values; about 150 MB of Python numbers
CLOSE_SECONDS = 10.0  # how long close() keeps trying to write the last rows
TRANSACTION_VALUES = 500_000  # values per transaction: about a tenth of a second
ROWS_AT_ONCE = 100  # rows held as Python objects, few enough to stay in the processor's cache

RETRY_SECONDS = 0.5

Record = StepRecord | InsertRow | Rewind | AddColumns | ClearTable | Flush


class Writer:
    """Writes records to a run file in a thread, with a transaction at least every `flush_seconds`.

    Records wait while the file cannot be written. Steps beyond MAX_WAITING values are dropped and counted.
    `warnings`: messages for the training thread to show. `turn`: held by the thread that is queueing records.
    """

    def __init__(self, database: RunDatabase, *, flush_seconds: float):
        self.warnings: deque[str] = deque()
        self.turn = threading.RLock()
        self._database = database
        # Half the interval: a record that just missed a transaction is still written in time by the next one.
        self._interval = min(flush_seconds / 2, threading.TIMEOUT_MAX)
        self._queue: SimpleQueue[Record] = SimpleQueue()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._waiting: deque[Record] = deque()  # out of the queue but not in the file; only the thread uses it
        # In each pair, the threads that log change only the first number, the writing thread only the second.
        self._accepted, self._released = 0, 0  # values
        self._dropped, self._lost = 0, 0  # steps
        self._column_cache = ColumnCache()
        self._warned: set[str] = set()
        self._dropped_recorded = 0
        self._deadline: float | None = None
        self._closed_cleanly = False
        self._thread = threading.Thread(target=self._run, name="prismatic writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """The number of logged steps that are not in the file and will not be."""
        return self._dropped + self._lost

    # -- Called by the threads that log --------------------------------------------------------------------------------

    def put_step(self, record: StepRecord) -> None:
        """Queue a step; the caller holds `turn`.

        Drop and count it if memory is full of records that could not be written, or after close() has begun.
        """
        size = record.size
        waiting = self._accepted + size - self._released
        if waiting > MAX_WAITING or self._deadline is not None:
            self._dropped += 1
            if self._deadline is not None and self._thread.is_alive():
                time.sleep(0.001)  # leave the processor to the writing thread, which the end of the program waits for
            return
        self._accepted += size
        self._queue.put(record)
        if not self._interval or waiting > MAX_WAITING // 4:
            self._wake.put(None)

    def put(self, record: InsertRow | Rewind | AddColumns | ClearTable) -> None:
        """Queue a small, rare record. These explain the steps, so their memory limit is twice as high."""
        with self.turn:
            if self._accepted - self._released > 2 * MAX_WAITING or self._deadline is not None:
                return
            self._accepted += 1
            self._queue.put(record)
            if not self._interval:
                self._wake.put(None)

    def drop(self, steps: int = 1) -> None:
        """Count steps that are not logged."""
        with self.turn:
            self._dropped += steps

    def flush(self, seconds: float | None = None) -> bool:
        """Wait until all queued records are in the file; False if they could not be written in time."""
        if not self._thread.is_alive():
            return False
        request = Flush()
        self._queue.put(request)
        self._wake.put(None)
        return request.done.wait(seconds) and request.written

    def finish(self, seconds: float) -> None:
        """Write waiting records before the process ends, also if it interrupted close()."""
        if self._deadline is None:
            self.flush(seconds)
        else:
            # join() would wait in vain: the join() that the signal interrupted keeps the lock of the thread.
            with suppress(Empty):
                self._ended.get(timeout=seconds)

    def close(self) -> bool:
        """Write waiting records, for up to CLOSE_SECONDS, and close the file; False if rows were lost.

        Further records are refused, so that a thread that still logs does not keep the program from ending.
        """
        with self.turn:
            self._deadline = self._deadline or time.monotonic() + CLOSE_SECONDS
        self._wake.put(None)
        self._thread.join()
        return self._closed_cleanly

    # -- The writing thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._deadline is None:
                with suppress(Empty):
                    # With flush_seconds=0 each record wakes the thread, so only failed writes need a timeout.
                    self._wake.get(timeout=self._interval or (RETRY_SECONDS if self._waiting else None))
                    while True:
                        self._wake.get_nowait()
                self._write()
            while not (self._write() and self._queue.empty()) and not self._is_late():
                time.sleep(0.01)
            self._closed_cleanly = not self._waiting
            if self._closed_cleanly:
                self._database.record_checksums()
        except Exception as error:
            self.warnings.append(f"logging has stopped ({type(error).__name__}: {error}); training goes on.")
        finally:
            self._deadline = self._deadline or time.monotonic()  # refuse further records
            self._empty_queue()
            _resolve_flushes(self._waiting, False)
            self._lost += sum(isinstance(record, StepRecord) for record in self._waiting)
            try:
                self._database.close()
            finally:
                self._ended.put(None)

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _empty_queue(self) -> None:
        with suppress(Empty):
            while True:
                self._waiting.append(self._queue.get_nowait())

    def _write(self) -> bool:
        """Write all waiting records, oldest first; False if the file could not be written and the rest must wait."""
        self._empty_queue()
        written = True
        while self._waiting and written:
            written = self._try_to_write(*self._oldest()) and not self._is_late()
        _resolve_flushes(self._waiting, False)
        self._waiting = deque(record for record in self._waiting if not isinstance(record, Flush))
        return written

    def _oldest(self) -> tuple[list[Record], int]:
        """Return the records of one short transaction, so that the first of many need not wait for the last.

        Return the number of their values, too.
        """
        batch: list[Record] = []
        values = 0
        for record in self._waiting:
            size = _size(record)
            if batch and values + size > TRANSACTION_VALUES:
                break
            batch.append(record)
            values += size
        return batch, values

    def _try_to_write(self, batch: list[Record], values: int) -> bool:
        """Write the oldest records in one transaction; False if the file cannot be written now and they must wait."""
        try:
            self._write_transaction([record for record in batch if not isinstance(record, Flush)])
        except Exception as error:
            if isinstance(error, OSError) or (isinstance(error, sqlite3.Error) and not is_statement_fault(error)):
                self._warn_once("file", f"cannot be written now ({error}); training goes on and rows wait in memory.")
                return False
            # An unexpected fault of one record must not keep the others out of the file.
            if len(batch) > 1:
                return all(self._try_to_write([record], _size(record)) for record in batch)
            self._lost += isinstance(batch[0], StepRecord)
            self._refuse(f"a row or column is not logged: {type(error).__name__}: {error}", "refused_row")
        _resolve_flushes(batch, True)
        for _ in batch:  # records that are written leave at once: no retry may write one a second time
            self._waiting.popleft()
        self._released += values
        return True

    def _write_transaction(self, records: list[Record]) -> None:
        """Write records, and an event about steps that were dropped since the last one, in one transaction."""
        dropped = self.dropped
        if not records and dropped == self._dropped_recorded:
            return
        with self._database.transaction():
            batch = _Batch(self._database, self._column_cache)
            batch.write(records)
            if dropped > self._dropped_recorded:
                why = "the file could not be written, or another event says why"
                message = f"{dropped} logged steps were dropped until now: {why}"
                row = event("dropped", message, "error")
                self._database.insert("events", tuple(row), [tuple(row.values())])
        self._lost += batch.refused
        self._dropped_recorded = dropped + batch.refused  # each of the refused ones has an event already
        for fault, code in batch.faults.items():
            self._refuse(fault, code)
        for message in batch.rewinds:
            self._warn_once("rewind", f"{message}. Events in the file report further rewinds.")

    def _refuse(self, fault: str, code: str) -> None:
        """Record an invalid column, number or row as an event and a warning, once for each fault."""
        if self._warn_once(fault, fault):
            self._released -= 1  # the event was never counted in `_accepted`
            self._queue.put(InsertRow("events", event(code, fault, "warning")))

    def _warn_once(self, key: str, message: str) -> bool:
        if is_new := key not in self._warned:
            self._warned.add(key)
            self.warnings.append(message)
        return is_new


def _size(record: Record) -> int:
    return record.size if isinstance(record, StepRecord) else 0 if isinstance(record, Flush) else 1


def _resolve_flushes(records: Iterable[Record], written: bool) -> None:
    """Wake the threads that wait for a flush, with its result."""
    for record in records:
        if isinstance(record, Flush):
            record.written = written
            record.done.set()


class _Batch:
    """The rows of one transaction, grouped by table and columns: each group is one SQL statement."""

    def __init__(self, database: RunDatabase, column_cache: ColumnCache):
        self._database = database
        self._column_cache = column_cache
        self._rows: dict[tuple[str, tuple[str, ...]], list[Sequence[Any]]] = {}
        self.faults: dict[str, str] = {}
        """Each fault as a sentence, with the code of its event."""
        self.refused = 0
        """The number of logged steps that can never be written."""
        self.rewinds: list[str] = []
        """The steps that each rewind replaced."""
        # The state for consecutive records with the same columns:
        self._columns: Columns | None = None  # None if no group of rows is open
        self._prepared: Columns | None = None  # the ones that the next three belong to
        self._names: tuple[str, ...] = ()
        self._fits: list[bool] = []  # for each column: is it one of the wide table, or a row of `scalars`
        self._all_fit = True
        self._wide: list[Sequence[Any]] = []

    def write(self, records: list[Record]) -> None:
        """Write records in order; add to `faults` what no retry can write."""
        for record in records:
            match record:
                case StepRecord():
                    self._add_step(record)
                case InsertRow(table, row):
                    self._add_row(table, row)
                case AddColumns(num_experts):
                    self._database.add_columns(column.name for column in dynamics_columns(num_experts))
                case ClearTable(table):
                    self._insert()
                    self._database.clear(table)
                case Rewind():
                    self._rewind(record)
        self._insert()

    def _add_step(self, record: StepRecord) -> None:
        if self._database.last_step is not None and record.step <= self._database.last_step:
            self._delete_step(record.step)
        else:
            self._database.last_step = record.step
        columns = self._column_cache.of(record)
        if columns is not self._columns or len(self._wide) == ROWS_AT_ONCE:
            self._insert()
            self._begin_columns(columns)
        row = wide_row(record, columns)
        if record.total is None:
            row = self._without_refused(row, ("step", "nan_values", *columns.names))
        if not self._all_fit:
            row = self._fitting(row, columns.names)
        self._wide.append(row)
        for table, rows in record.tables.items():
            self._add_rows(table, record.step, rows)

    def _fitting(self, row: Sequence[Any], names: Sequence[str]) -> Sequence[Any]:
        """Return the values that have a column in the wide table; the others become rows of `scalars`."""
        start, values = row[:BEFORE_SCALARS], row[BEFORE_SCALARS:]
        scalars = self._rows.setdefault(("scalars", ("step", "name", "value")), [])
        pairs = zip(names, values, self._fits, strict=True)
        scalars += [[row[0], name, value] for name, value, fits in pairs if not fits]
        return [*start, *compress(values, self._fits)]

    def _begin_columns(self, columns: Columns) -> None:
        """Start a group of rows with these columns."""
        if columns is not self._prepared:
            self._prepare_columns(columns)
        self._wide = self._rows.setdefault(("dynamics", self._names), [])
        self._columns = columns

    def _prepare_columns(self, columns: Columns) -> None:
        """Add missing columns to the wide table, and find those that have no place in it."""
        for name, reason in columns.refused.items():
            self._fault(f"{name!r} is not logged: {reason}", "refused_value")
        self._database.add_columns(columns.names)
        self._fits = [self._database.has_column(name) for name in columns.names]
        self._all_fit = all(self._fits)
        self._names = ("step", "nan_values", *compress(columns.names, self._fits))
        self._prepared = columns

    def _without_refused(self, values: Sequence[Any], names: Sequence[str]) -> Sequence[Any]:
        """Replace refused values by None and record their faults."""
        if Refused not in map(type, values):
            return values
        for name, value in zip(names, values, strict=True):
            if type(value) is Refused:
                self._fault(f"{name!r} is not logged: {value}", "refused_value")
        return [None if type(value) is Refused else value for value in values]

    def _add_rows(self, table: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows of a step to a table, or to its packed form if they are of many experts."""
        if is_large(table, rows):
            self._name_what_is_not_packed(table, rows)
            rows = pack_rows(table, [dict(zip(row, self._storable(table, row), strict=True)) for row in rows])
            table = PACKED_TABLES[table]
        for row in rows:
            self._add_row(table, {"step": step, **row})

    def _name_what_is_not_packed(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record faults for rows that packing replaces, and for columns that packed rows do not have."""
        columns, key = TABLES[table]
        for name in sorted({name for row in rows for name in row} - {column.name for column in columns}):
            self._fault(f"{name!r} is not logged: rows of many experts have no columns of their own", "refused_value")
        if len({tuple(row.get(name) for name in key) for row in rows}) < len(rows):
            self._fault(f"a row or column is not logged: {same_key(table)}", "refused_row")

    def _add_row(self, table: str, row: Mapping[str, Any]) -> None:
        if table == "run" and row.get("key") == FACT:
            self._fault(f"the fact {FACT!r} is not logged: the logger records it itself", "refused_value")
            return
        self._rows.setdefault((table, tuple(row)), []).append(self._storable(table, row))

    def _storable(self, table: str, row: Mapping[str, Any]) -> Sequence[Any]:
        """Return the values of a row as its table stores them, NULL for refused ones."""
        types = column_types(table)
        values = [to_sql_value(value, types.get(name, "REAL")) for name, value in row.items()]
        return self._without_refused(values, list(row))

    def _delete_step(self, step: int) -> None:
        """Delete the rows of a step that is about to be written again, and say so.

        Threads that log may get here with a step that is late but not in the file, which deletes nothing.
        """
        self._insert()
        if self._database.delete_step(step):
            row = event("repeated_step", f"step {step} was logged twice; the later row replaced it", "warning")
            self._add_row("events", {**row, "step": step})

    def _rewind(self, rewind: Rewind) -> None:
        self._insert()
        deleted = self._database.delete_from(rewind.step)
        replaced = f"{deleted} logged steps from step {rewind.step} on are replaced"
        message = f"step {rewind.step} came after step {rewind.last}; {replaced}"
        self._add_row("events", {**event("rewind", message, "info"), "step": rewind.step})
        self.rewinds.append(message)

    def _insert(self) -> None:
        for (table, names), rows in self._rows.items():
            for fault in self._database.insert(table, names, rows):
                self._fault(f"a row or column is not logged: {fault}", "refused_row")
                self.refused += table == "dynamics"
        self._rows.clear()
        self._columns = None

    def _fault(self, sentence: str, code: str) -> None:
        self.faults.setdefault(sentence, code)


def event(code: str, message: str, level: str) -> dict[str, Any]:
    """Return a row of `events` with the current time and without a step."""
    return {"step": None, "wall_time": time.time(), "level": level, "code": code, "message": message}
