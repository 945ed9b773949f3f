"""DynamicsLogger: the only writer of dynamics.db.

`log()` takes numbers and returns in microseconds; a thread writes them within a second. Training is never stopped by
it: when the file is locked or the disk is full rows wait, up to a bound, and what is dropped beyond it is counted.
"""

from __future__ import annotations

import json
import multiprocessing.util
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Self, SupportsFloat

from prismatic.guard import warn
from prismatic.runfile.database import JournalMode, Resume, Store
from prismatic.runfile.mirror import Mirror, Tracker, tracker_of
from prismatic.runfile.records import Emptied, Rewound, Told, Widened, measured, number, taken
from prismatic.runfile.writer import Writer, event


class DynamicsLogger:
    """Writes gradient dynamics to a SQLite file, one row of the wide table per logged step.

    db_path: the file; folders are made. num_experts: makes all columns at once, else they come with the first row.
    flush_seconds: what was logged longer ago than this is in the file, also if the process is killed.
    journal_mode: "wal" lets readers and the writer work at the same time, but copies of a live file miss rows, and it
    does not work on network file systems.
    resume: whether a run file may be there already, or must; overwrite: begin anew in its place.
    mirror: a tracker that is to have the metrics as well, see `mirror_to`.
    Use it as a context manager, or `close()` it; the end of the program and SIGTERM flush it, too.
    Raises LoggerError for a path that cannot be written, is being written, or holds something that is no run, and
    ConfigError for a mirror that is no tracker.
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
        tracker = None if mirror is None else tracker_of(mirror)  # before the file is there
        self.db_path = Path(db_path)
        self.flush_seconds = flush_seconds
        store = Store(self.db_path, num_experts, journal_mode=journal_mode, resume=resume, overwrite=overwrite)
        self._last_step = store.last_step
        self._process = os.getpid()
        self._open = True
        self._refused = False
        self._writer = Writer(store, flush_seconds=flush_seconds)
        self._close = weakref.finalize(self, _close, self._writer, self._process, str(self.db_path))
        # A forked worker of multiprocessing ends without Python's own farewell.
        self._at_end = multiprocessing.util.Finalize(None, _close_at_end, args=(weakref.ref(self),), exitpriority=10)
        self._mirror: Mirror | None = None
        if tracker is not None:
            self._begin_mirror(tracker)
        _OPEN.add(self)
        _flush_on_sigterm()

    def mirror_to(self, tracker: object) -> None:
        """From now on hand the metrics to a tracker as well: a SummaryWriter, a run of wandb or trackio, a logger
        of Lightning, MLflow or Comet, or a function of (step, metrics). Names begin with `prismatic/`.

        A thread of its own does it: a tracker that fails or hangs costs nothing but its own copy, and is an event.
        Raises ConfigError for what is no tracker.
        """
        self._begin_mirror(tracker_of(tracker))

    def _begin_mirror(self, tracker: Tracker) -> None:
        self._end_mirror()
        self._mirror = Mirror(tracker)
        weakref.finalize(self, self._mirror.end)  # a logger that is gone leaves no thread behind

    @property
    def last_step(self) -> int | None:
        """The newest step that was logged, also before a resume; None in a run without any."""
        return self._last_step

    @property
    def dropped(self) -> int:
        """How many logged steps were lost because the file could not be written for too long."""
        return self._writer.dropped

    def _ensure_schema(self, num_experts: int = 0) -> None:
        """Add the columns of `num_experts` experts where they do not exist yet, now or once the file is free."""
        self._writer.tell(Widened(num_experts))
        self.flush()

    def log(self, step: int, dynamics: Mapping[str, Any] | None, **metrics: SupportsFloat) -> None:
        """Log what `log_gradient_dynamics` returned, and further scalars of the step such as `loss`.

        Nothing is written for None or a dict without `expert_gradients`. A step that was logged before, and all that
        came after it, is replaced: training went back.
        """
        if not dynamics or "expert_gradients" not in dynamics:
            return
        if not self._open:
            self._refuse()
            return
        whole = int(step)
        if whole != step:
            self._writer.dropped += 1
            self.event("refused_value", f"step {step} is not logged: a step is a whole number", level="warning")
            return
        step = whole
        others = {**dynamics.get("divergence_scores", {}), "wall_time": time.time()}
        for name in ("nonfinite", "missing_gradients"):
            if name in dynamics:
                others[name] = dynamics[name]
        for name, value in metrics.items():
            others[name] = number(value)
        tables = {}
        for table in ("layers", "histograms"):
            if table in dynamics:
                tables[table] = [*map(taken, dynamics[table])]
        if self._last_step is not None and step <= self._last_step:
            self._writer.tell(Rewound(step, self._last_step))
        self._last_step = step
        record = measured(step, dynamics["expert_gradients"], others, tables)
        self._writer.measured(record)
        if self._writer.sayings:
            self._say()
        if self._mirror is not None:
            self._mirror.put(record)
            self._tell_of_mirror(self._mirror)

    def log_dynamics(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        """The documented name of `log` in a hand-written training loop."""
        self.log(step, metrics)

    def log_run(self, facts: Mapping[str, Any]) -> None:
        """Record facts about the run, each a JSON scalar or list; a fact that was recorded before is replaced."""
        self.log_table("run", ({"key": key, "value": json.dumps(value, default=str)} for key, value in facts.items()))

    def log_table(self, table: str, rows: Iterable[Mapping[str, Any]], *, anew: bool = False) -> None:
        """Record rows of `run`, `experts` or `tiers`, by column name; `anew` in place of all that is there."""
        if self._open:
            if anew:
                self._writer.tell(Emptied(table))
            for row in rows:
                self._writer.tell(Told(table, taken(row)))
            self._say()

    def event(self, code: str, message: str, *, level: str = "info", step: int | None = None) -> None:
        """Record that something happened which a reader of the run should know."""
        if self._open:
            self._writer.tell(Told("events", {**event(code, message, level), "step": number(step)}))

    def flush(self) -> bool:
        """Wait until everything logged is in the file. False if it could not be written; the rows then wait on."""
        written = self._open and self._writer.flush()
        self._say()
        return written

    def close(self) -> None:
        """Write what waits and close the file. What could not be written is counted in `dropped` and said."""
        self._end_mirror()
        self._open = False
        # May be interrupted, and called again: only when the thread has ended there is nothing left to do.
        if self._close.alive:
            _close(self._writer, self._process, str(self.db_path))
            self._close.detach()
            self._at_end.cancel()
        _OPEN.discard(self)
        self._say()

    def _tell_of_mirror(self, mirror: Mirror) -> None:
        """Record what the tracker could not take, once for each reason."""
        while not mirror.sayings.empty():
            message = f"metrics did not reach the mirror: {mirror.sayings.get()}"
            self.event("mirror_failed", message, level="warning")
            warn(f"{self.db_path}: {message}; training goes on.")

    def _end_mirror(self) -> None:
        """Let the tracker have what is on its way, and record how much it did not get."""
        mirror, self._mirror = self._mirror, None
        if mirror is None or os.getpid() != self._process:
            return
        lost = mirror.close()
        self._tell_of_mirror(mirror)
        for why, steps in lost.items():
            self.event("mirror_failed", f"{steps} logged steps did not reach the mirror: {why}", level="warning")

    def _refuse(self) -> None:
        """Count what is logged after close() or in a fork, which has no writing thread; said once."""
        self._writer.dropped += 1
        if not self._refused:
            self._refused = True
            why = "it is closed" if os.getpid() == self._process else "it belongs to another process"
            warnings.warn(f"{self.db_path}: nothing is logged any more, {why}.", RuntimeWarning, stacklevel=3)

    def _say(self) -> None:
        """Say what the writing thread found: warnings belong to the thread that logs."""
        while self._writer.sayings:
            message = f"{self.db_path}: {self._writer.sayings.popleft()}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UnwrittenLogger(DynamicsLogger):
    """Takes the calls of a DynamicsLogger and writes nothing: of several processes that train a model, one writes."""

    def __init__(self, db_path: Path | str, num_experts: int = 0, **_: Any):
        self.db_path = Path(db_path)

    @property
    def last_step(self) -> int | None:
        """None: nothing is known of the file."""
        return None

    def mirror_to(self, tracker: object) -> None:
        """Nothing."""

    @property
    def dropped(self) -> int:
        """0: nothing was to be written."""
        return 0

    def _ensure_schema(self, num_experts: int = 0) -> None:
        pass

    def log(self, step: int, dynamics: Mapping[str, Any] | None, **metrics: SupportsFloat) -> None:
        """Nothing."""

    def log_table(self, table: str, rows: Iterable[Mapping[str, Any]], *, anew: bool = False) -> None:
        """Nothing."""

    def event(self, code: str, message: str, *, level: str = "info", step: int | None = None) -> None:
        """Nothing."""

    def flush(self) -> bool:
        """True: nothing waits."""
        return True

    def close(self) -> None:
        """Nothing."""


def _close(writer: Writer, process: int, path: str) -> None:
    """Close a run file whose logger is closed, gone, or left open at the end of the program."""
    if os.getpid() == process and not writer.close():
        message = f"{path}: {writer.dropped} logged steps were lost: the file could not be written."
        warnings.warn(message, RuntimeWarning, stacklevel=4)


def _close_at_end(logger: weakref.ref[DynamicsLogger]) -> None:
    if (own := logger()) is not None and own._process == os.getpid():
        own.close()


_OPEN: weakref.WeakSet[DynamicsLogger] = weakref.WeakSet()


def _after_fork() -> None:
    """A forked process has the file but no thread that writes it, and SQLite does not survive a fork."""
    for logger in list(_OPEN):
        logger._open = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _flush_on_sigterm() -> None:
    """Schedulers end a job by SIGTERM, which ends Python without `atexit`. A handler of somebody else stays."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _flush_and_end)


def _flush_and_end(signum: int, _: FrameType | None) -> None:
    for logger in list(_OPEN):
        logger.event("signal", "the process was told to end (SIGTERM)", level="warning")
        logger._writer.finish(seconds=5.0)
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
