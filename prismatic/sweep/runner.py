"""A sweep from its first run to its last: what is done is left alone, what fails is tried again, and then told."""

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

from prismatic.runfile.manage import RunSummary, summary
from prismatic.sweep.engines import Engine, Task
from prismatic.sweep.plan import Job, Sweep
from prismatic.sweep.progress import Progress, lasting

LOOK_SECONDS = 0.2
TAIL_LINES = 12
TAIL_BYTES = 16 << 10


@dataclass(frozen=True)
class Failure:
    """A run that was given up."""

    job: Job
    why: str
    tail: tuple[str, ...]
    """The last lines that it printed."""


@dataclass
class Outcome:
    """How a sweep ended."""

    finished: list[Job] = field(default_factory=list)
    """Also those that were finished before."""
    failed: list[Failure] = field(default_factory=list)


def conduct(sweep: Sweep, engine: Engine, progress: Progress, *, retries: int = 1) -> Outcome:
    """Train every run that is not finished; each at most 1 + retries times, going on at its last checkpoint.

    A KeyboardInterrupt, or SIGTERM, ends the runs before it is raised.
    """
    return _Conductor(sweep, engine, progress, retries).run()


class _Conductor:
    def __init__(self, sweep: Sweep, engine: Engine, progress: Progress, retries: int):
        self.sweep, self.engine, self.progress, self.retries = sweep, engine, progress, retries
        self.outcome = Outcome()
        self.waiting: deque[Job] = deque()
        self.running: dict[str, Job] = {}
        self.attempts: dict[str, int] = {}
        self.begun: dict[str, float] = {}
        self.started = time.monotonic()
        self.steps_before = 0

    def run(self) -> Outcome:
        for job in self.sweep.jobs:
            (self.outcome.finished if self._is_finished(job) else self.waiting).append(job)
        if self.outcome.finished:
            self.progress.say(f"{len(self.outcome.finished)} of {len(self.sweep.jobs)} runs are finished already")
        self.steps_before = sum(self._steps(job) for job in self.waiting)
        try:
            with _terminations():
                while self.waiting or self.running:
                    self._start()
                    for name, why in self.engine.ended():
                        self._end(self.running.pop(name), why)
                    if self.progress.due:
                        self._show()
                    if self.running:
                        time.sleep(LOOK_SECONDS)
        finally:
            self.engine.stop()
        return self.outcome

    def _start(self) -> None:
        most = self.engine.most
        free = len(self.waiting) if most is None else min(most - len(self.running), len(self.waiting))
        jobs = [self.waiting.popleft() for _ in range(free)]
        for job in jobs:
            self.running[job.run_hash] = job
            self.attempts[job.run_hash] = self.attempts.get(job.run_hash, 0) + 1
            self.begun[job.run_hash] = time.monotonic()
        if jobs:
            self.engine.start([self._task(job) for job in jobs])

    def _task(self, job: Job) -> Task:
        return Task(job.run_hash, tuple(self.sweep.command(job)), self._log(job), Path.cwd())

    def _log(self, job: Job) -> Path:
        return self.sweep.db_path(job).with_name("train.log").absolute()

    def _end(self, job: Job, why: str) -> None:
        took = lasting(time.monotonic() - self.begun[job.run_hash])
        if not why and not self._is_finished(job):
            why = f"it ended well, but {self.sweep.db_path(job)} is not a finished run: is that folder seen everywhere?"
        if not why:
            self.outcome.finished.append(job)
            self.progress.say(f"finished {job.run_hash}  {job}  in {took}")
        elif self.attempts[job.run_hash] <= self.retries:
            self.waiting.append(job)
            self.progress.say(f"failed   {job.run_hash}  {job}  after {took}: {why}; it is tried again")
        else:
            self.outcome.failed.append(Failure(job, why, tail(self._log(job))))
            self.progress.say(f"failed   {job.run_hash}  {job}  after {took}: {why}")

    def _show(self) -> None:
        done, failed = len(self.outcome.finished), len(self.outcome.failed)
        counts = [f"{done} of {len(self.sweep.jobs)} runs finished", f"{len(self.running)} running"]
        counts += [f"{failed} failed"] if failed else []
        seen = {name: self._summary(job) for name, job in self.running.items()}
        left = self._left(seen)
        rows = [
            {"run": name, "step": _reached(seen[name], job.config.steps), "options": str(job)}
            for name, job in self.running.items()
        ]
        self.progress.show(", ".join(counts + ([f"about {lasting(left)} left"] if left else [])), rows)

    def _left(self, seen: dict[str, RunSummary]) -> float | None:
        """Seconds to the end, if every step takes as long as those so far; None before there are any."""
        planned = {job.run_hash: job.config.steps for job in self.sweep.jobs}
        reached = sum(_step(run) for run in seen.values())
        over = [job for job in self.outcome.finished if job.run_hash in self.begun]
        done = reached + sum(planned[job.run_hash] for job in over) - self.steps_before
        ahead = sum(planned[job.run_hash] for job in (*self.waiting, *self.running.values())) - reached
        return (time.monotonic() - self.started) * ahead / done if done > 0 else None

    def _is_finished(self, job: Job) -> bool:
        return self._summary(job).status == "finished"

    def _steps(self, job: Job) -> int:
        return _step(self._summary(job))

    def _summary(self, job: Job) -> RunSummary:
        return summary(self.sweep.db_path(job))


def _step(run: RunSummary) -> int:
    return 0 if run.last_step is None else run.last_step + 1


def _reached(run: RunSummary, planned: int) -> str:
    return "starting" if run.last_step is None else f"{_step(run):,} of {planned:,}"


def tail(log: Path) -> tuple[str, ...]:
    """The last lines of a file, without what a terminal would do with them; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    kept = [line.rstrip() for line in lines if line.strip()][-TAIL_LINES:]
    return tuple("".join(letter if letter.isprintable() else " " for letter in line) for line in kept)


@contextmanager
def _terminations() -> Iterator[None]:
    """SIGTERM and SIGHUP are a KeyboardInterrupt, unless somebody handles or ignores them."""
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


def report(outcome: Outcome) -> Sequence[str]:
    """The lines that say what failed, and how."""
    lines: list[str] = []
    for failure in outcome.failed:
        lines += ["", f"failed: {failure.job.run_hash}  {failure.job}: {failure.why}"]
        lines += [f"  | {line}" for line in failure.tail]
    return lines
