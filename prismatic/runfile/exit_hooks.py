"""The end of a process with an open run file: SIGTERM, the end of a worker process, a fork.

Nothing is registered by an import or by a constructor. A logger registers itself with its first record, or when it is
entered as a context manager. `close()` undoes this, and the last open logger restores the signal handler.
"""

from __future__ import annotations

import multiprocessing.util
import os
import signal
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Protocol

from prismatic.runfile.records import InsertRow
from prismatic.runfile.writer import Writer, event

SIGTERM_SECONDS = 5.0  # how long the handler waits for the last rows of each file

_writers: dict[Writer, int] = {}  # the process that each belongs to; a fork inherits this dict


def flush_on_sigterm(writer: Writer) -> None:
    """Write waiting records on SIGTERM, then let the process end as it would have; `stop_flushing` undoes this.

    Schedulers end a job by SIGTERM, which ends Python without `atexit`. The handler is installed from the main thread
    only, as Python requires, and only if SIGTERM has no other handler.
    """
    _writers[writer] = os.getpid()
    if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _flush_and_end)


def stop_flushing(writer: Writer) -> None:
    """Undo `flush_on_sigterm`; with the last writer, restore the default handler of SIGTERM."""
    _writers.pop(writer, None)
    if not _writers and _in_main_thread() and signal.getsignal(signal.SIGTERM) is _flush_and_end:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Closable(Protocol):
    """A logger, or anything else with `close`."""

    def close(self) -> None:
        """Complete the file."""


def close_at_worker_exit(logger: Closable) -> Callable[[], object]:
    """Close a logger, if it still exists, when this process ends. Return a function that undoes this.

    Processes of `multiprocessing` need this: they end without `atexit`.
    """
    reference = weakref.ref(logger)

    def close_if_alive() -> None:
        if (alive := reference()) is not None:
            alive.close()

    return multiprocessing.util.Finalize(logger, close_if_alive, exitpriority=10).cancel


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _flush_and_end(signum: int, _: FrameType | None) -> None:
    for writer, process in list(_writers.items()):
        if process == os.getpid():
            writer.put(InsertRow("events", event("signal", "the process received SIGTERM", "warning")))
            writer.finish(SIGTERM_SECONDS)
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
