"""Where the runs of a sweep are trained: a pool of processes here, Ray, or Slurm.

Each runs the plain training command, and what it prints goes to `train.log` in the run's folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Protocol

from prismatic.errors import SweepError
from prismatic.ray_cluster import LOST_MACHINES, connected

ROOT = Path(__file__).parent.parent.parent
NOTHING: Mapping[str, Any] = MappingProxyType({})
STOP_SECONDS = 20.0  # a run that was told to end writes what it has; after this it is killed


@dataclass(frozen=True)
class Task:
    """What an engine is given: the words of a training command, and where its output goes."""

    name: str
    words: tuple[str, ...]
    log: Path
    folder: Path
    """The working directory, which relative paths among the words start from."""


class Engine(Protocol):
    """Something that trains."""

    most: int | None
    """How many tasks it may have at a time; None for all of them, which then queue there."""

    def start(self, tasks: Sequence[Task]) -> None:
        """Begin, or queue."""

    def ended(self) -> list[tuple[str, str]]:
        """The tasks that ended since the last call: name, and why it failed, which is empty if it did not."""

    def stop(self) -> None:
        """End whatever runs, so that its files are whole; again while that waits, at once. Frees the engine."""


def environment() -> dict[str, str]:
    """What a training process needs besides the usual: this very package, wherever it starts."""
    known = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *([known] if known else [])])}


class Local:
    """A pool of processes on this machine."""

    def __init__(self, workers: int):
        self.most: int | None = workers
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        threads = max(1, (os.cpu_count() or 1) // workers)
        # Unless somebody set it: as many threads in all as there are cores.
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **environment()}

    def start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            with log_of(task) as log:
                self._running[task.name] = subprocess.Popen(
                    [sys.executable, "-m", "prismatic", *task.words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=task.folder,
                    env=self._environment,
                    start_new_session=True,  # a Ctrl-C at the terminal is for the sweep, which then ends its runs
                )

    def ended(self) -> list[tuple[str, str]]:
        over = [(name, code) for name, process in self._running.items() if (code := process.poll()) is not None]
        for name, _ in over:
            del self._running[name]
        return [(name, told(code)) for name, code in over]

    def stop(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGINT)
        try:
            for process in self._running.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
        finally:
            for process in self._running.values():
                process.kill()
            for process in self._running.values():
                process.wait()
            self._running.clear()


def told(code: int) -> str:
    """Why a process failed, by its exit code; empty for 0."""
    if code >= 0:
        return f"exit code {code}" if code else ""
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def log_of(task: Task) -> IO[bytes]:
    """The file that a task's output is added to."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    return open(task.log, "ab")


class Work:
    """A task as Ray and submitit carry it: the same command, in the process that they start for it."""

    def __init__(self, task: Task):
        self.task = task

    def __call__(self) -> int:
        """Train; returns the exit code."""
        from prismatic.__main__ import main

        os.chdir(self.task.folder)
        with log_of(self.task) as log, _output_to(log):
            return main([*self.task.words])

    def checkpoint(self) -> Any:
        """For submitit, when Slurm takes the machine away: the same again, which goes on where it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextlib.contextmanager
def _output_to(log: IO[bytes]) -> Iterator[None]:
    """Everything that this process prints, from Python or not, goes there."""
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


class OnRay:
    """Tasks on a Ray cluster, which all see the folder of the runs. A task whose machine is lost starts elsewhere."""

    def __init__(self, address: str | None, workers: int | None, *, cpus: float = 1, gpus: float = 0):
        self.most = workers
        self._connection = contextlib.ExitStack()
        self._ray = self._connection.enter_context(connected(address, environment()))
        # A process of its own for each run: no run sees what another left behind in Python or on the device.
        settings = {"num_cpus": cpus, "num_gpus": gpus, "max_calls": 1, "max_retries": LOST_MACHINES}
        self._train = self._ray.remote(**settings)(_call)
        self._running: dict[Any, str] = {}

    def start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._running[self._train.remote(Work(task))] = task.name

    def ended(self) -> list[tuple[str, str]]:
        if not self._running:
            return []
        references = [*self._running]
        over, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [(self._running.pop(reference), self._why(reference)) for reference in over]

    def _why(self, reference: Any) -> str:
        try:
            return told(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return f"Ray says: {str(error).strip().splitlines()[-1]}"

    def stop(self) -> None:
        try:
            for reference in self._running:
                self._ray.cancel(reference)  # a KeyboardInterrupt there
            references = [*self._running]
            if references:
                self._ray.wait(references, num_returns=len(references), timeout=STOP_SECONDS)
        finally:
            self._running.clear()
            self._connection.close()


def _call(work: Work) -> int:
    return work()


class OnSlurm:
    """Jobs of Slurm, by submitit; all nodes see the folder of the runs. What is preempted is queued again."""

    def __init__(
        self,
        folder: Path,
        workers: int | None,
        *,
        address: str | None = None,
        settings: Mapping[str, Any] = NOTHING,
    ):
        try:
            import submitit
        except ImportError:
            raise missing("submitit") from None
        self.most: int | None = None
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster="local" if address == "local" else "slurm")
            parallel = {} if workers is None else {"slurm_array_parallelism": workers}
            self._executor.update_parameters(name="prismatic", **parallel, **settings)
        except RuntimeError as error:
            raise SweepError(
                f"--engine slurm: {error}. Run it where `sbatch` works; --address local tries the same on this machine."
            ) from error
        except (NameError, TypeError, ValueError, AssertionError) as error:
            raise SweepError(f"--slurm: submitit does not take these ({error}).") from error
        self._running: dict[str, Any] = {}

    def start(self, tasks: Sequence[Task]) -> None:
        os.environ.update(environment())  # which Slurm and submitit hand on to the jobs
        with self._executor.batch():  # one array of jobs
            jobs = [self._executor.submit(Work(task)) for task in tasks]
        self._running |= {task.name: job for task, job in zip(tasks, jobs, strict=True)}

    def ended(self) -> list[tuple[str, str]]:
        over = [name for name, job in self._running.items() if job.done()]
        return [(name, self._why(self._running.pop(name))) for name in over]

    def _why(self, job: Any) -> str:
        try:
            return told(job.result())
        except Exception as error:  # whatever was raised in the job, or by submitit about it
            return f"submitit says: {(str(error).strip() or type(error).__name__).splitlines()[-1]}"

    def stop(self) -> None:
        for job in self._running.values():
            job.cancel(check=False)
        self._running.clear()


def missing(library: str) -> SweepError:
    """The error of an engine that is not installed."""
    return SweepError(f'{library} is not installed; install it with: pip install "prismatic-dynamics[sweep]"')
