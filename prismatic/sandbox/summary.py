"""Summaries of run files for the training side: a sandboxed process opens the files, and its words are checked."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from prismatic.sandbox.sqlite_file import places_of, special_beside
from prismatic.sandbox.worker import PROJECT, start_worker
from prismatic.text import printable

WORKER = Path(__file__).with_name("summary_worker.py")
SECONDS, GRACE_SECONDS = 10.0, 3.0  # for one file
REPLY_BYTES = 64 << 20


@dataclass(frozen=True)
class FileSummary:
    """The contents of one run file; `problem` says why nothing of it could be read."""

    version: int = 0
    rows: int = 0
    last_step: int | None = None
    facts: dict[str, Any] | None = None
    """The values of table `run`: JSON values, or texts that are no JSON."""
    plain: bool = False
    """True if its schema has plain tables and indexes alone, so that it holds no code of its author."""
    unfinished: bool = False
    """True if a writer was killed in the middle of a transaction, which is still to be rolled back."""
    problem: str = ""


def look_into(paths: Sequence[Path]) -> Iterator[FileSummary]:
    """Yield the summary of each file. A file that breaks the process, or takes too long, costs no other its own."""
    waiting = list(paths)
    while waiting:
        answered = 0
        for found in _with_one_process(waiting):
            answered += 1
            yield found
        waiting = waiting[answered:]


def _with_one_process(paths: Sequence[Path]) -> Iterator[FileSummary]:
    """Yield the summaries of files in their order, up to one that ends the process."""
    with start_worker(WORKER, [PROJECT]) as process:
        assert process.stdin
        assert process.stdout
        try:
            _send(process.stdin, {"files": [place for path in paths for place in places_of(os.path.abspath(path))]})
            for path in paths:
                if problem := problem_of(path):
                    yield FileSummary(problem=problem)
                    continue
                timer = threading.Timer(SECONDS + GRACE_SECONDS, process.kill)
                timer.start()
                _send(process.stdin, {"path": os.path.abspath(path), "seconds": SECONDS})
                found = _parsed(process.stdout.readline(REPLY_BYTES))
                timer.cancel()
                yield found or FileSummary(problem="the process that reads it ended or took too long")
                if not found:
                    return
        finally:
            process.kill()  # nothing more is expected from it


def _send(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Send a line; a process that has ended gets none, and its reply then shows that."""
    with contextlib.suppress(BrokenPipeError):
        stream.write(json.dumps(message).encode() + b"\n")
        stream.flush()


def problem_of(path: Path) -> str:
    """Return why a path is no file to open; an empty text if it is one."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "it is no regular file"
        beside = special_beside(str(path))
        return beside and f"{Path(beside).name} beside it is no regular file"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)


def _parsed(line: bytes) -> FileSummary | None:
    """Return a reply; None unless it is one. A hostile file may have taken the process over."""
    try:
        reply = json.loads(line)
        if "problem" in reply:
            code = str(reply.get("code", ""))
            return FileSummary(problem=printable(reply["problem"], 200), unfinished=code == "SQLITE_READONLY_ROLLBACK")
        last = reply["last_step"]
        return FileSummary(
            version=int(reply["version"]),
            rows=int(reply["rows"]),
            last_step=None if last is None else int(last),
            facts={str(key): _decoded(value) for key, value in dict(reply["facts"]).items()},
            plain=reply["plain"] is True,
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _decoded(text: object) -> Any:
    """Return the value of a JSON text; the text itself if it is none."""
    if not isinstance(text, str):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
