"""The engines that train the runs of a sweep: a pool of local processes, Ray, or Slurm.

Each run is the plain training command; its output goes to `train.log` in the run's folder.
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
from prismatic.ray_cluster import MAX_RETRIES, connected, not_installed
from prismatic.train import command as train_command

ROOT = Path(__file__).parent.parent.parent
NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})
STOP_SECONDS = 20.0  # an interrupted run has this long to write its rows and checkpoint, then it is killed


@dataclass(frozen=True)
class Task:
    """A training command for an engine, and the file for its output."""

    name: str
    words: tuple[str, ...]
    log: Path
    folder: Path
    """The working directory of the command."""


class Engine(Protocol):
    """The interface of all engines."""

    max_running: int | None
    """The number of tasks that the engine takes at a time; None if it queues any number by itself."""

    def start(self, tasks: Sequence[Task]) -> None:
        """Start or queue tasks."""

    def ended(self) -> list[tuple[str, str]]:
        """Return the tasks that ended since the last call: their names and the reason of a failure, else ""."""

    def stop(self) -> None:
        """Interrupt running tasks, wait for them to complete their files, and free the engine.

        A second interrupt while it waits kills them.
        """


def environment() -> dict[str, str]:
    """Return the variables that make a training process import this package, wherever it starts."""
    known = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *([known] if known else [])])}


class Local:
    """A pool of processes on this machine."""

    def __init__(self, workers: int):
        self.max_running: int | None = workers
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        threads = max(1, (os.cpu_count() or 1) // workers)
        # The runs together use as many threads as there are cores, unless the user set OMP_NUM_THREADS.
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **environment()}

    def start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            with open_log(task) as log:
                self._running[task.name] = subprocess.Popen(
                    [sys.executable, "-m", "prismatic", *task.words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=task.folder,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C goes to the sweep alone, which then stops its runs
                )

    def ended(self) -> list[tuple[str, str]]:
        codes = {name: code for name, process in self._running.items() if (code := process.poll()) is not None}
        for name in codes:
            del self._running[name]
        return [(name, describe_exit(code)) for name, code in codes.items()]

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


def describe_exit(code: int) -> str:
    """Return the reason of a failure by the exit code of a process; empty for 0."""
    if code >= 0:
        return f"exit code {code}" if code else ""
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def open_log(task: Task) -> IO[bytes]:
    """Open a task's log file for appending."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    return open(task.log, "ab")


class RemoteTask:
    """A task that Ray and submitit send to another process: calling it trains there."""

    def __init__(self, task: Task):
        self.task = task

    def __call__(self) -> int:
        """Train, and return the exit code."""
        os.chdir(self.task.folder)
        with open_log(self.task) as log, _output_to(log):
            return train_command.main(self.task.words)

    def checkpoint(self) -> Any:
        """Return the job that submitit queues when Slurm preempts this one; it continues from the last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextlib.contextmanager
def _output_to(log: IO[bytes]) -> Iterator[None]:
    """Redirect the output of this process to a file, including output that does not come from Python."""
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
    """A Ray cluster whose machines share the folder of the runs. Ray restarts the tasks of a lost machine."""

    def __init__(self, address: str | None, workers: int | None, *, cpus: float = 1, gpus: float = 0):
        self.max_running = workers
        self._connection = contextlib.ExitStack()
        self._ray = self._connection.enter_context(connected(address, environment()))
        # max_calls=1 gives each run a new process: nothing of an earlier run is left in Python or on the device.
        settings = {"num_cpus": cpus, "num_gpus": gpus, "max_calls": 1, "max_retries": MAX_RETRIES}
        self._train = self._ray.remote(**settings)(_call)
        self._running: dict[Any, str] = {}

    def start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._running[self._train.remote(RemoteTask(task))] = task.name

    def ended(self) -> list[tuple[str, str]]:
        if not self._running:
            return []
        references = [*self._running]
        ended, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [(self._running.pop(reference), self._reason(reference)) for reference in ended]

    def _reason(self, reference: Any) -> str:
        try:
            return describe_exit(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return f"Ray reports: {str(error).strip().splitlines()[-1]}"

    def stop(self) -> None:
        try:
            for reference in self._running:
                self._ray.cancel(reference)  # raises KeyboardInterrupt in the task
            references = [*self._running]
            if references:
                self._ray.wait(references, num_returns=len(references), timeout=STOP_SECONDS)
        finally:
            self._running.clear()
            self._connection.close()


def _call(task: RemoteTask) -> int:
    return task()


class OnSlurm:
    """Slurm, by submitit, on nodes that share the folder of the runs. submitit queues preempted jobs again."""

    def __init__(
        self,
        folder: Path,
        workers: int | None,
        *,
        address: str | None = None,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ):
        try:
            import submitit
        except ImportError:
            raise not_installed("submitit") from None
        self.max_running: int | None = None
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster="local" if address == "local" else "slurm")
            parallel = {} if workers is None else {"slurm_array_parallelism": workers}
            self._executor.update_parameters(name="prismatic", **parallel, **settings)
        except RuntimeError as error:
            raise SweepError(
                f"--engine slurm: {error}. Run it where `sbatch` works, or try it here with --address local."
            ) from error
        except (NameError, TypeError, ValueError, AssertionError) as error:
            raise SweepError(f"--slurm: submitit refuses these parameters ({error}).") from error
        self._running: dict[str, Any] = {}

    def start(self, tasks: Sequence[Task]) -> None:
        os.environ.update(environment())  # Slurm and submitit pass it on to the jobs
        with self._executor.batch():  # one array of jobs
            jobs = [self._executor.submit(RemoteTask(task)) for task in tasks]
        self._running |= {task.name: job for task, job in zip(tasks, jobs, strict=True)}

    def ended(self) -> list[tuple[str, str]]:
        ended = [name for name, job in self._running.items() if job.done()]
        return [(name, self._reason(self._running.pop(name))) for name in ended]

    def _reason(self, job: Any) -> str:
        try:
            return describe_exit(job.result())
        except Exception as error:  # an error of the job or of submitit: any type
            return f"submitit reports: {(str(error).strip() or type(error).__name__).splitlines()[-1]}"

    def stop(self) -> None:
        for job in self._running.values():
            job.cancel(check=False)
        self._running.clear()
