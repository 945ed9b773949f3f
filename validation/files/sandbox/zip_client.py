"""Zip archives of run files: unpacked by a confined child process into a private folder, as files of our own.

The names in an archive are shown and never used as paths. What the child sends is counted again here, and a member that
cannot be unpacked does not take the others with it. A compacted set in an archive is unpacked likewise, and another
child makes run files of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from validation.files.errors import RunFileError, rejection
from validation.files.limits import ReadLimits
from validation.files.sandbox.sqlite_client import GRACE_SECONDS, HEADER_BYTES, INHERITED
from validation.files.sandbox.zip_worker import PART, PARTS, SETS
from validation.text import printable

UNPACKER = Path(__file__).with_name("zip_worker.py")
SET_READER = Path(__file__).with_name("set_worker.py")
PACKAGES = (Path(__file__).parents[3], Path(pa.__file__).parent.parent)  # what the reader of sets imports from
SHA256 = re.compile("[0-9a-f]{64}")
MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")  # with members, without any, in several parts
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """One run file of an archive: a copy of our own under a name of our own, or why there is none."""

    name: str  # what to call it, for showing only
    path: Path
    notes: tuple[str, ...]
    error: RunFileError | None = None
    said_sha256: str = ""
    """Of a run in a set: the hash that the set gives for the run's own file. Nobody has seen that file."""


@dataclass
class _Received:
    """What a child has sent so far."""

    members: list[Member] = field(default_factory=list)
    sets: dict[int, str] = field(default_factory=dict)
    """Number and name of each set."""
    parts: int = 0
    spent: int = 0


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip archive does; False also where it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(4) in MAGIC
    return False


@contextlib.contextmanager
def unpacked(path: Path, name: str, limits: ReadLimits) -> Iterator[list[Member]]:
    """The run files of an archive, in a folder that is removed at the end; RunFileError where it cannot be opened."""
    with tempfile.TemporaryDirectory(prefix="prismatic-zip-") as folder:
        try:
            if path.stat().st_size > limits.file_bytes:
                raise rejection(name, "too_large", limits, limit="file_bytes")
            members = _unpack(path, name, Path(folder), limits)
        except OSError as error:  # such as a full disk
            raise rejection(name, "system", limits, problem=error.strerror or "no reason given") from None
        yield members


def _unpack(path: Path, name: str, folder: Path, limits: ReadLimits) -> list[Member]:
    received = _ask(UNPACKER, {"path": os.path.abspath(path)}, name, folder, limits, _Received())
    for number, root in received.sets.items():
        title = printable(f"{root} in {name}" if root else name, 90)
        place = folder / f"set-{number}"
        request = {"path": str(place), "packages": [str(package) for package in PACKAGES]}
        before = len(received.members)
        try:
            _ask(SET_READER, request, title, folder, limits, received)
        except RunFileError as error:  # of a set nothing is believed where a part of it is bad
            received.members[before:] = [Member(title, path, (), error)]
    return received.members


def _ask(
    script: Path, request: dict[str, Any], name: str, folder: Path, limits: ReadLimits, received: _Received
) -> _Received:
    """What a child answers to one request, beside what was received before."""
    environment = {one: os.environ[one] for one in INHERITED if one in os.environ}
    environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve more than the child may have
    command = [sys.executable, "-I", "-S", "-B", str(script)]
    pipe, started = subprocess.PIPE, time.monotonic()
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, cwd=os.path.abspath(os.sep)
    ) as process:
        timer = threading.Timer(limits.seconds + GRACE_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps({**request, "limits": asdict(limits)}).encode() + b"\n")
            process.stdin.close()
            _receive(process.stdout, name, folder, limits, received)
            return received
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


def _receive(stream: IO[bytes], name: str, folder: Path, limits: ReadLimits, received: _Received) -> None:
    """What the child sends, as files."""
    while "member" in (message := _message(stream)):
        if "part" in message:
            _receive_part(stream, message, name, folder, limits, received)
        else:
            _receive_run(stream, message, name, folder, limits, received)
    if message["end"]:
        code, details = message["end"]
        raise rejection(name, str(code), limits, **details)
    if (zips := int(message["zips"])) and received.members:
        note = f"{zips:,} zip archives inside {name} were not opened: only run files are read from an archive"
        first = next((place for place, member in enumerate(received.members) if not member.error), 0)
        noted = received.members[first]
        received.members[first] = replace(noted, notes=(*noted.notes, note))


def _receive_run(
    stream: IO[bytes], message: dict[str, Any], name: str, folder: Path, limits: ReadLimits, received: _Received
) -> None:
    if len(received.members) == limits.members:
        raise ValueError("an answer beyond the limits")
    title = printable(f"{_last_parts(str(message['member']))} in {name}", 90)
    path = folder / f"{len(received.members)}.db"
    size, done = _file(stream, path, received.spent, limits)
    if done:
        path.unlink()  # of no use to anybody
    received.spent += 0 if done else size
    notes = tuple(_beside(str(suffix)) for suffix in message["beside"][:2])
    notes += tuple(printable(note, 200) for note in message.get("notes", ())[:20])
    error = rejection(title, done[0], limits, **done[1]) if done else None
    sha256 = str(message.get("sha256", ""))
    received.members.append(Member(title, path, notes, error, sha256 if SHA256.fullmatch(sha256) else ""))


def _receive_part(
    stream: IO[bytes], message: dict[str, Any], name: str, folder: Path, limits: ReadLimits, received: _Received
) -> None:
    number, part, received.parts = message["set"], str(message["part"]), received.parts + 1
    if type(number) is not int or not 0 <= number < SETS or received.parts > PARTS or not PART.fullmatch(part):
        raise ValueError("an answer beyond the limits")
    path = folder / f"set-{number}" / part
    path.parent.mkdir(parents=True, exist_ok=True)
    received.sets[number] = _last_parts(str(message["member"]).removesuffix(part))
    size, done = _file(stream, path, received.spent, limits)
    received.spent += size
    if done:  # the set is not whole, and says so when it is read
        path.unlink()


def _file(stream: IO[bytes], path: Path, spent: int, limits: ReadLimits) -> tuple[int, Any]:
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
