"""The runs in a tracker's files, read by a child process behind walls: the files may come from anybody."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.sandbox.summary import problem_of
from prismatic.sandbox.worker import LIBRARY_SETTINGS, PROJECT, start_worker
from prismatic.text import printable
from prismatic.trackers.formats import recognize
from prismatic.trackers.readers.lightning import HPARAMS
from prismatic.trackers.tracked import TrackedRun

WORKER = Path(__file__).with_name("worker.py")
SECONDS = 900.0
REPLY_BYTES = 2 << 30  # of one run
SETTINGS = {**LIBRARY_SETTINGS, "OMP_NUM_THREADS": "1"}


def read_confined(source: Path, tracker: str | None = None, only: str | None = None) -> list[TrackedRun]:
    """Return the runs in a tracker's files, as `formats.read_tracked` does, read by a process behind walls.

    Raises TrackerError, also if that process ends or takes too long.
    """
    family = tracker or recognize(source)
    if not source.is_dir() and (problem := problem_of(source)):
        raise TrackerError(f"{source}: {problem}.")
    request = {
        "source": str(source),
        "family": family,
        "format": tracker,
        "only": only,
        "files": [] if source.is_dir() else _places(source),
        "folders": [*_libraries(), *([os.path.realpath(source)] if source.is_dir() else [])],
    }
    folders = [str(PROJECT), *(folder for folder in sys.path if folder and os.path.isdir(folder))]
    with start_worker(WORKER, folders, SETTINGS, folder=os.getcwd()) as process:
        assert process.stdin
        assert process.stdout
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # a process that has ended sends no run, which is an error
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            return _runs(source, process)
        finally:
            timer.cancel()
            process.kill()


def _places(path: Path) -> list[str]:
    """Return the paths that belong to a file: its target, what SQLite puts beside it, and the config of Lightning."""
    ends = ("", "-wal", "-shm", "-journal")
    beside = [os.path.abspath(path.parent / HPARAMS)]
    return [place + end for place in (os.path.abspath(path), os.path.realpath(path)) for end in ends] + beside


def _libraries() -> set[str]:
    """Return the folders of libraries, some of which import their own modules only when they need them."""
    return {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def _runs(source: Path, process: subprocess.Popen[bytes]) -> list[TrackedRun]:
    """Return the runs that the process sends. A hostile file may have taken it over, so its words are checked."""
    runs: list[TrackedRun] = []
    assert process.stdout
    while True:
        try:
            message = json.loads(process.stdout.readline(REPLY_BYTES))
            if "end" not in message:
                runs.append(_run(message))
                continue
            end, problem = message["end"], printable(message.get("problem", ""), 2000)
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError) as error:
            problem = f"the process that reads it ended, or took more than {SECONDS:g} s"
            raise TrackerError(f"{source}: {problem}.") from error
        if end == "read":
            return runs
        raise TrackerError(f"{source}: {problem}" if end == "library" else problem)


def _run(message: dict[str, Any]) -> TrackedRun:
    """Return a run out of a message. Raises an error of Python's if it is none."""
    planned = message["planned_steps"]
    return TrackedRun(
        name=str(message["name"]),
        tracker=printable(message["tracker"]),
        metrics={str(name): _values(*values) for name, values in message["metrics"].items()},
        wall_times={step: wall for step, wall in _values(*message["wall_times"]).items() if math.isfinite(wall)},
        config=dict(message["config"]),
        notes=[str(note) for note in message["notes"]],
        id=str(message["id"]),
        group=str(message["group"]),
        file=str(message["file"]),
        planned_steps=planned if planned is None else int(planned),
    )


def _values(steps: list[Any], values: list[Any]) -> dict[int, float]:
    return {int(step): float(value) for step, value in zip(steps, values, strict=True)}
