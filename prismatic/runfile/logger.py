"""DynamicsLogger, the only writer of dynamics.db: log(), log_run(), log_table(), event(), flush(), close().

`log()` returns in microseconds and a thread writes its numbers within a second. It never stops a training: while the
file is locked or the disk is full, rows wait in memory up to a limit, and steps beyond it are dropped and counted.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, SupportsFloat

from prismatic.errors import ConfigError
from prismatic.guard import warn
from prismatic.runfile.database import JournalMode, Resume, RunDatabase
from prismatic.runfile.exit_hooks import close_at_worker_exit, flush_on_sigterm, stop_flushing
from prismatic.runfile.mirror import Mirror, Tracker, as_tracker
from prismatic.runfile.records import (
    AddColumns,
    ClearTable,
    InsertRow,
    Rewind,
    Shape,
    frozen_copy,
    step_record,
    text_of,
    to_python,
)
from prismatic.runfile.writer import Writer, event

MAX_REASONS = 20  # why steps and facts were refused: an event for each; further steps are only counted


class DynamicsLogger:
    """Writes gradient dynamics to a SQLite file, one row of the wide table per logged step.

    db_path: the file; missing folders are created. num_experts: creates all columns at once, else the first row does.
    flush_seconds: rows logged longer ago than this are in the file, even if the process is killed.
    journal_mode: "wal" lets readers and the writer work at the same time, but copies of a live file miss rows, and it
    does not work on network file systems.
    resume: "never", "allow" or "must" continue an existing run file. overwrite: replace an existing run file.
    mirror: a tracker that also gets the metrics, see `mirror_to`.

    Use it as a context manager or `close()` it. A logger that was not closed is flushed at the end of the program and
    on SIGTERM: the first record or the `with` block registers it for that (a signal handler only in the main thread,
    and only if SIGTERM has no other handler), and `close()` undoes the registration.
    Raises LoggerError if the path cannot be written, has another writer or holds something other than a run, and
    ConfigError for a mirror that is not a tracker and for a negative time.
    """

    def __init__(
        self,
        db_path: Path | str,
        num_experts: int = 0,
        *,
        flush_seconds: float = 1.0,
        journal_mode: JournalMode = "delete",
        resume: Resume = "allow",
        overwrite: bool = False,
        mirror: object = None,
    ):
        if not flush_seconds >= 0:  # NaN neither
            raise ConfigError(f"flush_seconds = {flush_seconds!r} is no time to wait; use 0 or more seconds.")
        tracker = None if mirror is None else as_tracker(mirror)  # raises before the file is created
        self.db_path = Path(db_path)
        self.flush_seconds = flush_seconds
        database = RunDatabase(self.db_path, num_experts, journal_mode=journal_mode, resume=resume, overwrite=overwrite)
        self._last_step = self._resumed_from = database.last_step
        self._shape: Shape | None = None
        self._caller = _Caller()
        self._process = os.getpid()
        self._open = True
        self._refused: set[str] = set()
        self._writer = Writer(database, flush_seconds=flush_seconds)
        self._finalizer = weakref.finalize(self, _close_writer, self._writer, self._process, str(self.db_path))
        self._unregister: Callable[[], object] | None = None
        self._mirror: Mirror | None = None
        if tracker is not None:
            self._begin_mirror(tracker)

    def mirror_to(self, tracker: object) -> None:
        """Send the metrics of later steps to a tracker, too, under names that begin with `prismatic/`.

        tracker: a SummaryWriter, a run of wandb or trackio, a logger of Lightning, MLflow or Comet, or a function of
        (step, metrics). A separate thread calls it; if it fails or hangs, only its own copy is lost, and an event
        records it. Raises ConfigError for anything else.
        """
        self._begin_mirror(as_tracker(tracker))

    def _begin_mirror(self, tracker: Tracker) -> None:
        self._end_mirror()
        self._mirror = Mirror(tracker)
        weakref.finalize(self, self._mirror.end)  # ends the thread with the logger

    @property
    def last_step(self) -> int | None:
        """The last logged step, including those before a resume; None if there is none."""
        return self._last_step

    @property
    def dropped(self) -> int:
        """The number of logged steps that were lost because the file could not be written for too long."""
        return self._writer.dropped

    def _ensure_schema(self, num_experts: int = 0) -> None:
        """Add the missing columns of `num_experts` experts, now or when the file is no longer locked."""
        if self._accepts_records():
            self._writer.put(AddColumns(num_experts))
            self.flush()

    def log(self, step: int, dynamics: Mapping[str, Any] | None, **metrics: SupportsFloat) -> None:
        """Log the result of `log_gradient_dynamics`, and further scalars of the step such as `loss`.

        Do nothing for None or a dict without `expert_gradients`. If a thread logs a smaller step than before, training
        was rewound: this row replaces the rows of this and all later steps. Any thread may log. Rows of more than 32
        experts are stored packed; see docs/storage.md.
        Never raises: a step or dict that cannot be logged is counted in `dropped` and becomes an event.
        """
        try:
            if not dynamics or "expert_gradients" not in dynamics:
                if type(dynamics) is not dict:
                    self._refuse_unless_empty(step, dynamics)
                return
            if not self._accepts_records():
                self._refuse()
                return
            whole = int(step)
            if whole != step:
                self._refuse_step(step, "it is not a whole number")
                return
            record = step_record(whole, dynamics, metrics, self._shape)
        except Exception as error:
            self._refuse_step(step, f"{type(error).__name__}: {text_of(error)}"[:300])
            return
        self._shape = record.shape
        writer = self._writer
        with writer.turn:
            # Only a decrease within one thread is a rewind. Among threads that log at the same time, steps arrive in
            # any order: a late one takes its own place.
            caller = self._caller
            if caller.step is None or whole <= caller.step:
                caller = self._compare(whole, caller)
            caller.step = whole
            if self._last_step is None or whole > self._last_step:
                self._last_step = whole
            writer.put_step(record)
        if writer.warnings:
            self._show_warnings()
        if self._mirror is not None:
            self._mirror.put(record)
            self._report_mirror(self._mirror)

    def _compare(self, step: int, caller: _Caller) -> _Caller:
        """Rewind the file if the thread logged a later step before; the first thread goes on where the file ends."""
        last = caller.step
        if last is None:
            last, self._resumed_from = self._resumed_from, None
        if last is not None and step < last:
            self._writer.put(Rewind(step, last))
            caller = self._caller = _Caller()  # what other threads logged before is no measure any more
            self._last_step = None
        return caller

    def log_dynamics(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        """Call `log`, under the name that the documented training loop uses."""
        self.log(step, metrics)

    def log_run(self, facts: Mapping[str, Any]) -> None:
        """Record facts about the run, each a JSON scalar or list; they replace earlier facts of the same name.

        A fact that is no JSON, such as a list that holds itself, becomes an event.
        """
        if not self._accepts_records():
            return
        for name, value in facts.items():
            try:
                if not isinstance(name, str | int):
                    raise TypeError(f"its name is of type {type(name).__name__} and not a text")
                fact = {"key": str(name), "value": json.dumps(value, default=str)}
            except Exception as error:
                reason = f"{type(error).__name__}: {text_of(error)}"[:300]
                self._record_refusal(f"the fact {_printed(name)} is not logged: {reason}")
            else:
                self.log_table("run", [fact])

    def log_table(self, table: str, rows: Iterable[Mapping[str, Any]], *, replace: bool = False) -> None:
        """Record rows of `run`, `experts` or `tiers`, by column name; with `replace`, delete all earlier rows."""
        if self._accepts_records():
            if replace:
                self._writer.put(ClearTable(table))
            for row in rows:
                self._writer.put(InsertRow(table, frozen_copy(row)))
            self._show_warnings()

    def event(self, code: str, message: str, *, level: str = "info", step: int | None = None) -> None:
        """Record an event that a reader of the run should know of; `level` is info, warning or error."""
        if self._accepts_records():
            self._writer.put(InsertRow("events", {**event(code, message, level), "step": to_python(step)}))

    def flush(self) -> bool:
        """Wait until all records are in the file; False if it could not be written, and they continue to wait."""
        written = self._open and self._writer.flush()
        self._show_warnings()
        return written

    def close(self) -> None:
        """Write waiting records and close the file; warn of steps that could not be written, which `dropped` counts."""
        self._end_mirror()
        self._open = False
        # An interrupted close() is called again: until the thread has ended there is something left to do.
        if self._finalizer.alive:
            _close_writer(self._writer, self._process, str(self.db_path))
            self._finalizer.detach()
        if self._unregister is not None:
            self._unregister()
        self._show_warnings()

    def _accepts_records(self) -> bool:
        """Return False after close() and in a fork, which has no writing thread. The first record registers the logger.

        See exit_hooks.py for what it is registered for.
        """
        if not self._open or os.getpid() != self._process:
            return False
        if self._unregister is None:
            flush_on_sigterm(self._writer)
            self._unregister = close_at_worker_exit(self)
        return True

    def _report_mirror(self, mirror: Mirror) -> None:
        """Record the reasons why the tracker did not get some metrics, each once."""
        while not mirror.warnings.empty():
            message = f"metrics did not reach the mirror: {mirror.warnings.get()}"
            self.event("mirror_failed", message, level="warning")
            warn(f"{self.db_path}: {message}; training goes on.")

    def _end_mirror(self) -> None:
        """Give the tracker time for the last steps, and record how many it did not get."""
        mirror, self._mirror = self._mirror, None
        if mirror is None or os.getpid() != self._process:
            return
        lost = mirror.close()
        self._report_mirror(mirror)
        for reason, steps in lost.items():
            self.event("mirror_failed", f"{steps} logged steps did not reach the mirror: {reason}", level="warning")

    def _refuse(self) -> None:
        """Count a step that is logged after close() or in a fork, and warn once."""
        self._writer.drop()
        reason = "the logger is closed" if os.getpid() == self._process else "it belongs to another process"
        if reason not in self._refused:
            self._refused.add(reason)
            warn(f"{self.db_path}: steps are no longer logged: {reason}.")

    def _refuse_step(self, step: object, reason: str) -> None:
        """Count a step that cannot be logged; record the first one of each reason as an event and a warning."""
        self._writer.drop()
        self._record_refusal(f"step {_printed(step)} is not logged: {reason}", reason)

    def _record_refusal(self, message: str, reason: str | None = None) -> None:
        """Record the first refusal of each reason, which is the message by default, as an event and a warning."""
        reason = reason or message
        if reason not in self._refused and len(self._refused) < MAX_REASONS:
            self._refused.add(reason)
            self._writer.put(InsertRow("events", event("refused_value", message, "warning")))
            warn(f"{self.db_path}: {message}; training goes on.")

    def _refuse_unless_empty(self, step: object, dynamics: object) -> None:
        """Refuse dynamics that are neither None nor a mapping."""
        if dynamics is not None and not isinstance(dynamics, Mapping):
            self._refuse_step(step, f"its dynamics are of type {type(dynamics).__name__} and not a dict")

    def _show_warnings(self) -> None:
        """Show the warnings of the writing thread in the thread that logs, where Python's filters apply."""
        while self._writer.warnings:
            warn(f"{self.db_path}: {self._writer.warnings.popleft()}")

    def __enter__(self) -> Self:
        self._accepts_records()  # registers it
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close_writer(writer: Writer, process: int, path: str) -> None:
    """Close a run file when its logger is closed or deleted, or at the end of the program."""
    complete = os.getpid() != process or writer.close()
    stop_flushing(writer)
    if not complete:
        message = f"{path}: {writer.dropped} logged steps were lost: the file could not be written."
        warn(message, stacklevel=5)


class _Caller(threading.local):
    """The last step that the current thread logged; None before its first one."""

    step: int | None = None


def _printed(value: object) -> str:
    """Return a short text for a value, even one that cannot be printed."""
    try:
        return repr(value)[:60]
    except Exception:
        return f"of type {type(value).__name__}"
