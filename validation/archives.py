"""Zip archives of run files: unpacked by a confined child process into a private folder, as files of our own.

The names in an archive are shown and never used as paths. What the child sends is counted again here, and a member that
cannot be unpacked does not take the others with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from validation.child import GRACE_SECONDS, HEADER_BYTES, INHERITED
from validation.errors import Limits, RunFileError, rejection, shown

UNPACKER = Path(__file__).with_name("unpacker.py")
MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")  # with members, without any, in several parts
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """One run file of an archive: a copy of our own under a name of our own, or why there is none."""

    name: str  # what to call it, for showing only
    path: Path
    notes: tuple[str, ...]
    error: RunFileError | None = None


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip archive does; False also where it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(4) in MAGIC
    return False


@contextlib.contextmanager
def unpacked(path: Path, name: str, limits: Limits) -> Iterator[list[Member]]:
    """The run files of an archive, in a folder that is removed at the end; RunFileError where it cannot be opened."""
    with tempfile.TemporaryDirectory(prefix="prismatic-zip-") as folder:
        try:
            if path.stat().st_size > limits.file_bytes:
                raise rejection(name, "too_large", limits, limit="file_bytes")
            members = _unpack(path, name, Path(folder), limits)
        except OSError as error:  # such as a full disk
            raise rejection(name, "system", limits, problem=error.strerror or "no reason given") from None
        yield members


def _unpack(path: Path, name: str, folder: Path, limits: Limits) -> list[Member]:
    environment = {one: os.environ[one] for one in INHERITED if one in os.environ}
    command = [sys.executable, "-I", "-S", "-B", str(UNPACKER)]
    pipe, started = subprocess.PIPE, time.monotonic()
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, cwd=os.path.abspath(os.sep)
    ) as process:
        timer = threading.Timer(limits.seconds + GRACE_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdin
            assert process.stdout
            request = {"path": os.path.abspath(path), "limits": asdict(limits)}
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.close()
            return _received(process.stdout, name, folder, limits)
        except (RunFileError, OSError):
            raise
        except Exception as error:  # a child that was taken over may answer anything
            process.kill()
            late = time.monotonic() - started > limits.seconds
            problem = str(error) or type(error).__name__
            raise rejection(name, "timeout" if late else "died", limits, problem=problem) from None
        finally:
            timer.cancel()
            process.kill()  # it has nothing more to say


def _received(stream: IO[bytes], name: str, folder: Path, limits: Limits) -> list[Member]:
    """What the child sends, as files."""
    members: list[Member] = []
    spent = 0
    while "member" in (message := _message(stream)):
        if len(members) == limits.members:
            raise ValueError("an answer beyond the limits")
        title = shown(f"{_last_parts(str(message['member']))} in {name}", 90)
        path = folder / f"{len(members)}.db"
        size, done = _file(stream, path, spent, limits)
        if done:
            path.unlink()  # of no use to anybody
        spent += 0 if done else size
        notes = tuple(_beside(str(suffix)) for suffix in message["beside"][:2])
        members.append(Member(title, path, notes, rejection(title, done[0], limits, **done[1]) if done else None))
    if message["end"]:
        code, details = message["end"]
        raise rejection(name, str(code), limits, **details)
    if zips := int(message["zips"]):
        note = f"{zips:,} zip archives inside {name} were not opened: only run files are read from an archive"
        first = next((place for place, member in enumerate(members) if not member.error), 0)
        members[first] = replace(members[first], notes=(*members[first].notes, note))
    return members


def _file(stream: IO[bytes], path: Path, spent: int, limits: Limits) -> tuple[int, Any]:
    """Writes one member; answers how many bytes it has, and why it is not whole, if it is not."""
    size = 0
    with open(path, "xb") as file:
        while "bytes" in (message := _message(stream)):
            count = message["bytes"]
            if type(count) is not int or not 0 < count <= CHUNK_BYTES or spent + size + count > limits.unpacked_bytes:
                raise ValueError("an answer beyond the limits")
            data = stream.read(count)
            if len(data) < count:
                raise ValueError("an answer that ends early")
            file.write(data)
            size += count
    return size, message["done"]


def _message(stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline(HEADER_BYTES)
    if not line.endswith(b"\n"):
        raise ValueError("no answer" if not line else "an answer without end")
    message: dict[str, Any] = dict(json.loads(line))
    return message


def _beside(suffix: str) -> str:
    what = {"-wal": "its -wal file", "-journal": "its -journal file"}.get(suffix, "a file beside it")
    return f"{what} in the archive was not read: rows in it are missing, and a copy of a live run may be torn"


def _last_parts(member: str) -> str:
    return "/".join(member.replace("\\", "/").rstrip("/").split("/")[-2:])
