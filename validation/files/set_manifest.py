"""The place of a set, and its manifest, which names every file of the set with its hash.

    {"format": "prismatic-set/2", "runs": N, "parts": {PART: {TABLE: SHA256}}, "sha256": SHA256}

The file of a part in a table is TABLE/PART.parquet. The last hash is of everything else in the manifest. Sets that
earlier versions wrote have no hashes: their files are found by their names, and cannot be checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from prismatic.contract.schema import PACKED_TABLES
from validation.files.errors import NotASet
from validation.files.run_file import RUN_TABLES
from validation.text import printable

FORMAT, WITH_ARRAYS = "prismatic-set/2", "prismatic-set/3"
"""Formats of sets; the second one also has the packed tables of runs with many experts."""
MANIFEST = "prismatic-set.json"
MANIFEST_BYTES = 4 << 20  # at most; those of 10,000 runs take some 0.1 MB
TABLES = ("runs", "dynamics", "steps", "facts", *RUN_TABLES)
PACKED = (*PACKED_TABLES.values(),)  # written only where a run has rows of them
REQUIRED = tuple(table for table in TABLES if table not in PACKED)


@dataclass(frozen=True)
class SetLocation:
    """The place of a set: a folder, or a prefix in an object store."""

    filesystem: fs.FileSystem
    root: str
    uri: str

    @classmethod
    def parse(cls, uri: str | Path) -> SetLocation:
        """Return the location at a path or s3:// address. Raises NotASet for an invalid address."""
        text = str(uri)
        try:
            if not text.startswith("s3://"):
                return cls(fs.LocalFileSystem(), str(Path(text).absolute()), text)
            filesystem, root = fs.FileSystem.from_uri(text.rstrip("/"))
        except (pa.ArrowException, OSError, ValueError) as error:
            cause = "the address is mistyped, or the store cannot be reached"
            raise NotASet(text, str(error)[:200], cause, "Check it with the store's own tools") from error
        return cls(filesystem, root, text)

    @property
    def is_folder(self) -> bool:
        """True for a set on this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def has_file(self, name: str) -> bool:
        """Return whether there is such a file; False if the place cannot be read."""
        try:
            return bool(self.filesystem.get_file_info(f"{self.root}/{name}").is_file)
        except OSError:
            return False

    def open(self, name: str) -> pa.NativeFile:
        """Return a file of the set, open for reading at any place. Raises OSError."""
        return self.filesystem.open_input_file(f"{self.root}/{name}")

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file, and create its folders. Raises OSError."""
        path = f"{self.root}/{name}"
        if self.is_folder:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(data)


@dataclass(frozen=True)
class Part:
    """A part of a set: some of its runs, with a file in each table."""

    name: str
    hashes: Mapping[str, str]
    """The sha256 of the file in each table that has one; empty texts if the set has no hashes."""

    def file(self, table: str) -> str:
        """Return the name of the part's file in a table, as seen from the set."""
        return f"{table}/{self.name}.parquet"

    @property
    def has_hashes(self) -> bool:
        """False in a set of an earlier version."""
        return all(self.hashes.values())


@dataclass(frozen=True)
class Manifest:
    """The number of runs of a set, and its parts, sorted by name."""

    runs: int
    parts: tuple[Part, ...]

    def as_json(self) -> str:
        """Return the text of the file."""
        arrays = any(table in part.hashes for part in self.parts for table in PACKED)
        parts = {part.name: dict(part.hashes) for part in self.parts}
        content = {"format": WITH_ARRAYS if arrays else FORMAT, "runs": self.runs, "parts": parts}
        return json.dumps(content | {"sha256": _sha256(content)})

    def files(self, table: str) -> list[str]:
        """Return the names of the files of a table."""
        return [part.file(table) for part in self.parts if table in part.hashes]


def is_set(uri: str | Path) -> bool:
    """Return whether the location holds a set. An s3:// address always counts as one."""
    return str(uri).startswith("s3://") or Path(uri, MANIFEST).is_file()


def damaged_set(location: SetLocation, problem: object) -> NotASet:
    """Return the error for a set that does not hold what its manifest promises."""
    cause = "it was damaged, or changed after it was written"
    return NotASet(location.uri, printable(problem, 200), cause, "Write it again from its run files")


def read_manifest(location: SetLocation) -> Manifest:
    """Return the manifest of a set whose files are all there, and no others. Raises NotASet."""
    content = _content(location)
    runs, recorded = content.get("runs"), content.get("parts")
    if type(runs) is not int:
        raise _damaged_manifest(location, "it gives no number of runs")
    found = _find_files(location)
    if recorded is None:  # a set of an earlier version
        parts = _parts_of(found)
        found &= _names(parts)
    else:
        parts = tuple(Part(name, hashes) for name, hashes in sorted(recorded.items()))
    if missing := min(_names(parts) - found, default=""):
        raise damaged_set(location, f"{missing} is missing")
    if unknown := min(found - _names(parts), default=""):
        raise damaged_set(location, f"{unknown} is not in {MANIFEST}")
    return Manifest(runs, parts)


def unknown_file(location: SetLocation, parts: Iterable[Part]) -> str:
    """Return the name of a file of a table that belongs to none of the parts; "" if there is none. Raises NotASet."""
    return min(_find_files(location) - _names(parts), default="")


def _names(parts: Iterable[Part]) -> set[str]:
    return {part.file(table) for part in parts for table in part.hashes}


def _parts_of(files: Collection[str]) -> tuple[Part, ...]:
    """Return the parts that have a file in `runs`, without hashes."""
    parts = []
    for name in sorted(file.removeprefix("runs/").removesuffix(".parquet") for file in files if file[:5] == "runs/"):
        tables = [table for table in TABLES if table in REQUIRED or f"{table}/{name}.parquet" in files]
        parts.append(Part(name, dict.fromkeys(tables, "")))
    return tuple(parts)


def _content(location: SetLocation) -> dict[str, Any]:
    """Return what the manifest holds, after checking its hash and its format. Raises NotASet."""
    data = _read(location)
    try:
        content: dict[str, Any] = json.loads(data.decode())
        recorded = content.pop("sha256", None)
        if recorded is not None or "parts" in content:
            hashes = [sha256 for part in content["parts"].values() for sha256 in part.values()]
            if recorded != _sha256(content) or not all(type(sha256) is str and sha256 for sha256 in hashes):
                raise _damaged_manifest(location, "it is not as it was written")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise _damaged_manifest(location, "it is not the JSON of a manifest") from None
    if (found := content.get("format")) not in (FORMAT, WITH_ARRAYS):
        problem = f"expected {FORMAT} or {WITH_ARRAYS}, found {printable(found, 60)}"
        raise NotASet(location.uri, problem, "another version wrote it", "Write it again from its run files")
    return content


def _read(location: SetLocation) -> bytes:
    """Return the bytes of the manifest. Raises NotASet."""
    try:
        with location.open(MANIFEST) as file:
            return bytes(file.read(MANIFEST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        cause = "this is not a set of runs, or writing it was interrupted"
        fix = "Write one with `prismatic compact RUNS... -o DIR`"
        raise NotASet(location.uri, f"found no {MANIFEST}", cause, fix) from None
    except (pa.ArrowException, OSError) as error:
        cause = "its permissions, the disk or the store forbid it"
        problem = f"{MANIFEST} cannot be read ({printable(error, 200)})"
        raise NotASet(location.uri, problem, cause, "Allow this program to read it") from error


def _damaged_manifest(location: SetLocation, problem: str) -> NotASet:
    return damaged_set(location, f"{MANIFEST} is damaged: {problem}")


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _find_files(location: SetLocation) -> set[str]:
    """Return the names of all files of tables. Raises NotASet."""
    # A store is asked once. A folder may hold anything else beside the tables.
    places = [f"{location.root}/{table}" for table in TABLES] if location.is_folder else [location.root]
    try:
        selectors = [fs.FileSelector(place, allow_not_found=True, recursive=True) for place in places]
        paths = [info.path for selector in selectors for info in location.filesystem.get_file_info(selector)]
    except (pa.ArrowException, OSError) as error:
        raise damaged_set(location, error) from error
    names = [path.removeprefix(f"{location.root}/") for path in paths if path.endswith(".parquet")]
    return {name for name in names if name.partition("/")[0] in TABLES}
