"""Running a sweep: skip finished runs, start the others on an engine, retry failures, handle Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from prismatic.runfile.manage import RunSummary, summarize
from prismatic.sweep.engines import Engine, Task
from prismatic.sweep.plan import Job, Sweep
from prismatic.sweep.progress import Progress
from prismatic.terminal import format_duration

POLL_SECONDS = 0.2
TAIL_LINES = 12
TAIL_BYTES = 16 << 10


@dataclass(frozen=True)
class Failure:
    """A run that failed in all its attempts."""

    job: Job
    reason: str
    log_tail: tuple[str, ...]
    """The last lines of its output."""


@dataclass
class Outcome:
    """The result of a sweep: its finished and failed runs."""

    finished: list[Job] = field(default_factory=list)
    """Including the runs that were finished before."""
    failed: list[Failure] = field(default_factory=list)


def run_sweep(sweep: Sweep, engine: Engine, progress: Progress, *, retries: int = 1) -> Outcome:
    """Train all unfinished runs, each at most 1 + retries times, continuing from its last checkpoint.

    A KeyboardInterrupt or SIGTERM stops the running runs before KeyboardInterrupt is raised.
    """
    return SweepRunner(sweep, engine, progress, retries).run()


class SweepRunner:
    """The state of a sweep while it runs: waiting and running jobs, attempts, start times."""

    def __init__(self, sweep: Sweep, engine: Engine, progress: Progress, retries: int):
        self.sweep, self.engine, self.progress, self.retries = sweep, engine, progress, retries
        self.outcome = Outcome()
        self.waiting: deque[Job] = deque()
        self.running: dict[str, Job] = {}
        self.attempts: dict[str, int] = {}
        self.started_at: dict[str, float] = {}
        self.started = time.monotonic()
        self.earlier_steps = 0

    def run(self) -> Outcome:
        for job in self.sweep.jobs:
            (self.outcome.finished if self._is_finished(job) else self.waiting).append(job)
        if self.outcome.finished:
            self.progress.print(f"{len(self.outcome.finished)} of {len(self.sweep.jobs)} runs are finished already")
        self.earlier_steps = sum(self._steps(job) for job in self.waiting)
        try:
            with self.progress, _sigterm_as_interrupt():
                while self.waiting or self.running:
                    self._start()
                    for name, reason in self.engine.ended():
                        self._end(self.running.pop(name), reason)
                    if self.progress.is_due:
                        self._show()
                    if self.running:
                        time.sleep(POLL_SECONDS)
        finally:
            self.engine.stop()
        return self.outcome

    def _start(self) -> None:
        limit = self.engine.max_running
        free = len(self.waiting) if limit is None else min(limit - len(self.running), len(self.waiting))
        jobs = [self.waiting.popleft() for _ in range(free)]
        for job in jobs:
            self.running[job.run_hash] = job
            self.attempts[job.run_hash] = self.attempts.get(job.run_hash, 0) + 1
            self.started_at[job.run_hash] = time.monotonic()
        if jobs:
            self.engine.start([self._task(job) for job in jobs])

    def _task(self, job: Job) -> Task:
        return Task(job.run_hash, tuple(self.sweep.command(job)), self._log(job), Path.cwd())

    def _log(self, job: Job) -> Path:
        return self.sweep.db_path(job).with_name("train.log").absolute()

    def _end(self, job: Job, reason: str) -> None:
        took = format_duration(time.monotonic() - self.started_at[job.run_hash])
        if not reason and not self._is_finished(job):
            db_path = self.sweep.db_path(job)
            reason = f"it exited with code 0, but {db_path} is not finished; check that all machines share this folder"
        if not reason:
            self.outcome.finished.append(job)
            self.progress.print(f"finished {job.run_hash}  {job}  in {took}")
        elif self.attempts[job.run_hash] <= self.retries:
            self.waiting.append(job)
            self.progress.print(f"failed   {job.run_hash}  {job}  after {took}: {reason}; it is tried again")
        else:
            self.outcome.failed.append(Failure(job, reason, last_lines(self._log(job))))
            self.progress.print(f"failed   {job.run_hash}  {job}  after {took}: {reason}")

    def _show(self) -> None:
        done, failed = len(self.outcome.finished), len(self.outcome.failed)
        counts = [f"{done} of {len(self.sweep.jobs)} runs finished", f"{len(self.running)} running"]
        counts += [f"{failed} failed"] if failed else []
        summaries = {name: self._summary(job) for name, job in self.running.items()}
        left = self._seconds_left(summaries)
        rows = [
            {"run": name, "step": _format_steps(summaries[name], job.config.steps), "options": str(job)}
            for name, job in self.running.items()
        ]
        self.progress.show(", ".join(counts + ([f"about {format_duration(left)} left"] if left else [])), rows)

    def _seconds_left(self, summaries: dict[str, RunSummary]) -> float | None:
        """Estimate the seconds to the end from the mean time of a step so far; None before the first step."""
        planned = {job.run_hash: job.config.steps for job in self.sweep.jobs}
        reached = sum(_step(run) for run in summaries.values())
        trained = [job for job in self.outcome.finished if job.run_hash in self.started_at]
        done = reached + sum(planned[job.run_hash] for job in trained) - self.earlier_steps
        ahead = sum(planned[job.run_hash] for job in (*self.waiting, *self.running.values())) - reached
        return (time.monotonic() - self.started) * ahead / done if done > 0 else None

    def _is_finished(self, job: Job) -> bool:
        return self._summary(job).status == "finished"

    def _steps(self, job: Job) -> int:
        return _step(self._summary(job))

    def _summary(self, job: Job) -> RunSummary:
        return summarize(self.sweep.db_path(job))


def _step(run: RunSummary) -> int:
    return 0 if run.last_step is None else run.last_step + 1


def _format_steps(run: RunSummary, planned: int) -> str:
    return "starting" if run.last_step is None else f"{_step(run):,} of {planned:,}"


def last_lines(log: Path) -> tuple[str, ...]:
    """Return the last lines of a text file with control characters blanked; empty if there is no such file."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    kept = [line.rstrip() for line in lines if line.strip()][-TAIL_LINES:]
    return tuple("".join(letter if letter.isprintable() else " " for letter in line) for line in kept)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP within the block, unless they have another handler."""
    handled: list[tuple[Any, Any]] = []
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                handled.append((number, signal.signal(number, _interrupt)))
    try:
        yield
    finally:
        for number, before in handled:
            signal.signal(number, before)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def failure_lines(outcome: Outcome) -> Sequence[str]:
    """Return lines that name each failed run, its reason and the end of its log."""
    lines: list[str] = []
    for failure in outcome.failed:
        lines += ["", f"failed: {failure.job.run_hash}  {failure.job}: {failure.reason}"]
        lines += [f"  | {line}" for line in failure.log_tail]
    return lines
