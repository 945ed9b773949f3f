"""The start of a child process that handles untrusted input: the same for every kind of worker."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

PROJECT = Path(__file__).parents[2]
"""The folder that workers import from."""
INHERITED = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # Python needs them to start
LIBRARY_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # the other pools reserve more than a worker may have
        # Threads that libraries start when they are loaded, before the walls are up, would be outside them.
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
        "OPENBLAS_NUM_THREADS": "1",
    }
)
"""Variables for a worker that loads Arrow or NumPy."""
PIPE_BYTES = 1 << 20  # the most that Linux allows everybody; a usual pipe makes both ends wait for each other
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


def start_worker(
    script: Path,
    arguments: Iterable[str | Path],
    settings: Mapping[str, str] = NO_SETTINGS,
    *,
    folder: str = os.path.abspath(os.sep),
) -> subprocess.Popen[bytes]:
    """Return a process that runs a worker, with pipes at its stdin and stdout.

    It gets no packages but those in the folders that it is given, no environment of ours but `settings` and what Python
    needs. folder: where it stands. Raises OSError.
    """
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment | dict(settings),
        cwd=folder,
    )
    assert process.stdout
    _enlarge(process.stdout.fileno())
    return process


def _enlarge(pipe: int) -> None:
    """Let a worker write a long answer ahead, where the system can."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
