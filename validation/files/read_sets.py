"""Read sets: a child process opens their files. Those in an object store are copied to this machine before.

A confined process has no network. So this process fetches the bytes of a part, without a look at them, into a private
folder that is removed again, and the child finds a set in a folder as always.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from validation.files.errors import NotASet, RunFileError, rejection
from validation.files.limits import ReadLimits
from validation.files.received_run import run_of
from validation.files.run_file import RunFile
from validation.files.sandbox.set_client import SetReading, SetRun
from validation.files.set_manifest import Part, SetLocation, damaged_set, read_manifest
from validation.files.temporary import temporary_folder
from validation.text import printable

PIECE_BYTES = 1 << 20  # copied at once


def read_set(
    source: Path | str, limits: ReadLimits, *, most: int | None = None
) -> tuple[list[RunFile], RunFileError | None]:
    """Return the runs of a set up to its first damage, and the error that ended it.

    source: a folder or an s3:// address. most: the number of runs that it may have; None for any.
    """
    try:
        location = SetLocation.parse(source)
        manifest = read_manifest(location)
    except RunFileError as error:
        return [], error
    found, problem = read_parts(location, manifest.parts, limits, most=most)
    if problem is None and len(found) != manifest.runs:
        problem = damaged_set(location, f"expected {manifest.runs} runs, found {len(found)}")
    return found, problem


def read_parts(
    location: SetLocation, parts: Sequence[Part], limits: ReadLimits, *, most: int | None = None
) -> tuple[list[RunFile], RunFileError | None]:
    """Return the runs of some parts of a set, as `read_set` does."""
    runs: list[RunFile] = []
    # A part in a store is removed before the next one is fetched: a set may be larger than this machine's disk.
    for some in [parts] if location.is_folder else [[part] for part in parts]:
        left = None if most is None else most - len(runs)
        found, problem = _read_here(location, some, limits, left)
        runs += found
        if problem:
            return runs, problem
    return runs, None


def _read_here(
    location: SetLocation, parts: Sequence[Part], limits: ReadLimits, most: int | None
) -> tuple[list[RunFile], RunFileError | None]:
    received: list[SetRun] = []
    problem: RunFileError | None = None
    try:
        with _on_this_machine(location, parts) as folder:
            SetReading(folder, location.uri, list(parts), limits, most, received).read()
    except RunFileError as error:
        problem = error
    found: list[RunFile] = []
    for each in received:
        run = _run_of_set(each, Path(location.uri), limits)
        if len(run.wide) * run.num_experts > limits.expert_rows:
            return found, rejection(each.name, "too_large", limits, limit="expert_rows")
        found.append(run)
    return found, problem


def _run_of_set(read: SetRun, path: Path, limits: ReadLimits) -> RunFile:
    """Return a run of a set, which was made unique and ordered when the set was written."""
    facts = {**read.facts, "position": None}
    duplicates = facts.pop("duplicates")
    run = run_of(path, read.name, read.sha256, (facts, read.tables), limits)
    return replace(run, id=read.id, duplicates=duplicates)


@contextlib.contextmanager
def _on_this_machine(location: SetLocation, parts: Sequence[Part]) -> Iterator[Path]:
    """Yield a folder with the files of some parts. Raises NotASet."""
    if location.is_folder:
        yield Path(location.root)
        return
    with tempfile.TemporaryDirectory(prefix="set-", dir=temporary_folder()) as folder:
        fetch_parts(location, parts, Path(folder))
        yield Path(folder)


def fetch_parts(location: SetLocation, parts: Sequence[Part], folder: Path) -> None:
    """Copy the files of some parts of a set into a folder. Raises NotASet if one is not as it was written."""
    for part in parts:
        for table, expected in part.hashes.items():
            name = part.file(table)
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise damaged_set(location, f"{name} lies outside the set")
            try:
                found = _fetch(location, name, folder / name)
            except (pa.ArrowException, OSError, ValueError) as error:
                cause = "the store cannot be reached, or the disk of this machine is full"
                problem = f"{name} cannot be copied to this machine ({printable(error, 200)})"
                raise NotASet(location.uri, problem, cause, "Check both, and read it again") from error
            if expected and found != expected:
                raise damaged_set(location, f"{name} is not as it was written: its checksum differs")


def _fetch(location: SetLocation, name: str, to: Path) -> str:
    """Copy one file, and return the sha256 of its bytes. Raises OSError."""
    sha256 = hashlib.sha256()
    to.parent.mkdir(parents=True, exist_ok=True)
    with location.open(name) as source, open(to, "wb") as copy:
        while piece := source.read(PIECE_BYTES):
            sha256.update(piece)
            copy.write(piece)
    return sha256.hexdigest()
