"""The parent's end of zip_worker.py: unpack the run files and sets of zip archives into a private folder.

The names in an archive are shown and never used as paths. The parent counts the bytes that the child sends again, and a
member that cannot be unpacked does not affect the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from prismatic.sandbox.worker import PROJECT, start_worker
from validation.files.errors import RunFileError, rejection
from validation.files.limits import ReadLimits
from validation.files.sandbox.received import ProtocolError, read_line
from validation.files.sandbox.sqlite_client import GRACE_SECONDS
from validation.files.sandbox.turns import TURNS, NobodyWaits, in_turns
from validation.files.sandbox.zip_worker import PART, PARTS, SETS
from validation.files.temporary import temporary_folder
from validation.text import pluralize

ZIP_WORKER = Path(__file__).with_name("zip_worker.py")
MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")  # with members, without any, in several parts
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ArchivedRun:
    """A run file of an archive: its unpacked copy, or the error."""

    inner_name: str  # its place in the archive, for showing only
    path: Path
    notes: tuple[str, ...]
    error: RunFileError | None = None


@dataclass(frozen=True)
class Unpacked:
    """The contents of an archive, which exist until the end of `unpacked`."""

    runs: list[ArchivedRun]
    sets: dict[Path, str]
    """The folder of each set, and its place in the archive, for showing only."""


@dataclass
class _Unpacking:
    """The folder and limits of one archive, and everything that the child has sent so far."""

    folder: Path
    limits: ReadLimits
    runs: list[ArchivedRun] = field(default_factory=list)
    sets: dict[int, str] = field(default_factory=dict)
    """Number and name of each set."""
    parts: int = 0
    bytes: int = 0


def is_archive(path: Path) -> bool:
    """Return whether a file begins like a zip archive; False if it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(4) in MAGIC
    return False


def folder_for(archives: Collection[Path]) -> contextlib.AbstractContextManager[str | None]:
    """Return a folder to unpack all archives in, which is removed at the end; None without archives."""
    if archives:
        with contextlib.suppress(OSError):  # such as a full disk; unpacking an archive reports it
            return tempfile.TemporaryDirectory(prefix="zips-", dir=temporary_folder())
    return contextlib.nullcontext()


@contextlib.contextmanager
def unpacked(path: Path, name: str, limits: ReadLimits, parent: str | None = None) -> Iterator[Unpacked]:
    """Yield the contents of an archive, in a folder in `parent` that is removed at the end. Raises RunFileError."""
    with tempfile.TemporaryDirectory(prefix="zip-", dir=parent or temporary_folder()) as folder:
        try:
            if path.stat().st_size > limits.file_bytes:
                raise rejection(name, "too_large", limits, limit="file_bytes")
            found = in_turns(lambda slice_seconds: _unpack(path, name, Path(folder), limits, slice_seconds))
        except NobodyWaits:
            raise rejection(name, "nobody_waits", limits) from None
        except OSError as error:  # such as a full disk
            raise rejection(name, "system", limits, problem=error.strerror or "no reason given") from None
        yield found


def _unpack(path: Path, name: str, parent: Path, limits: ReadLimits, slice_seconds: float) -> Unpacked:
    folder = Path(tempfile.mkdtemp(dir=parent))  # a new one each time that the child has to give way and begins anew
    unpacking = _Unpacking(folder, limits)
    runs, zips = unpacking.runs, _run_worker(path, unpacking, name, slice_seconds)
    if zips and runs:
        note = f"not opened: {pluralize(zips, 'zip archive')} inside {name}; only run files are read from an archive"
        first = next((place for place, run in enumerate(runs) if not run.error), 0)
        runs[first] = replace(runs[first], notes=(*runs[first].notes, note))
    return Unpacked(runs, {folder / f"set-{number}": inner for number, inner in unpacking.sets.items()})


def _run_worker(path: Path, unpacking: _Unpacking, name: str, slice_seconds: float) -> int:
    """Have a child unpack an archive, receive its reply, and return the number of zip archives inside."""
    started, limits = time.monotonic(), unpacking.limits
    request = {"path": os.path.abspath(path), "limits": asdict(limits)}
    with TURNS.turn(slice_seconds) as turn, start_worker(ZIP_WORKER, [PROJECT]) as process:
        turn.of(process.kill)
        timer = threading.Timer(limits.seconds + GRACE_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.close()
            return _receive(process.stdout, unpacking, name)
        except (RunFileError, OSError):
            raise
        except Exception as error:  # a child under a hostile file's control may send anything
            process.kill()
            late = time.monotonic() - started > limits.seconds
            problem = str(error) or type(error).__name__
            raise rejection(name, "timeout" if late else "died", limits, problem=problem) from None
        finally:
            timer.cancel()
            process.kill()  # nothing more is expected from it


def _receive(stream: IO[bytes], unpacking: _Unpacking, name: str) -> int:
    """Write the members that the child sends to files, and return the number of zip archives inside."""
    while "member" in (message := read_line(stream)):
        if "part" in message:
            _receive_part(stream, message, unpacking)
        else:
            _receive_run(stream, message, unpacking)
    if message["end"]:
        code, details = message["end"]
        raise rejection(name, str(code), unpacking.limits, **details)
    return int(message["zips"])


def _receive_run(stream: IO[bytes], message: dict[str, Any], unpacking: _Unpacking) -> None:
    limits, runs = unpacking.limits, unpacking.runs
    if len(runs) == limits.members:
        raise ProtocolError("a reply beyond the limits")
    inner_name = _last_parts(str(message["member"]))
    path = unpacking.folder / f"{len(runs)}.db"
    size, problem = _receive_file(stream, path, unpacking)
    if problem:
        path.unlink()
    unpacking.bytes += 0 if problem else size
    notes = tuple(_companion_note(str(suffix)) for suffix in message["beside"][:2])
    error = rejection(inner_name, problem[0], limits, **problem[1]) if problem else None
    runs.append(ArchivedRun(inner_name, path, notes, error))


def _receive_part(stream: IO[bytes], message: dict[str, Any], unpacking: _Unpacking) -> None:
    number, part, unpacking.parts = message["set"], str(message["part"]), unpacking.parts + 1
    if type(number) is not int or not 0 <= number < SETS or unpacking.parts > PARTS or not PART.fullmatch(part):
        raise ProtocolError("a reply beyond the limits")
    path = unpacking.folder / f"set-{number}" / part
    path.parent.mkdir(parents=True, exist_ok=True)
    unpacking.sets[number] = _last_parts(str(message["member"]).removesuffix(part))
    size, problem = _receive_file(stream, path, unpacking)
    unpacking.bytes += size
    if problem:  # reading the set reports the missing part
        path.unlink()


def _receive_file(stream: IO[bytes], path: Path, unpacking: _Unpacking) -> tuple[int, Any]:
    """Write one member, and return its size in bytes and the problem, if there is one."""
    size, most = 0, unpacking.limits.unpacked_bytes - unpacking.bytes
    with open(path, "xb") as file:
        while "bytes" in (message := read_line(stream)):
            count = message["bytes"]
            if type(count) is not int or not 0 < count <= CHUNK_BYTES or size + count > most:
                raise ProtocolError("a reply beyond the limits")
            data = stream.read(count)
            if len(data) < count:
                raise ProtocolError("a reply that ends early")
            file.write(data)
            size += count
    return size, message["done"]


def _companion_note(suffix: str) -> str:
    companion = {"-wal": "its -wal file", "-journal": "its -journal file"}.get(suffix, "a file beside it")
    return f"{companion} in the archive was not read: rows in it are missing, and a copy of a live run may be torn"


def _last_parts(member: str) -> str:
    return "/".join(member.replace("\\", "/").rstrip("/").split("/")[-2:])
