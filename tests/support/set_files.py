"""The files of a set by their names in it, and the manifests that a forger or an earlier version would give them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from validation.files.parquet_set import read_part
from validation.files.run_file import RunFile
from validation.files.set_manifest import MANIFEST, Manifest, Part, SetLocation, damaged_set, read_manifest


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def with_fitting_manifest(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files with the hashes that they have, as somebody makes it who knows of them."""
    parts: dict[str, dict[str, str]] = {}
    for name, data in sorted(files.items()):
        if name != MANIFEST:
            table, _, part = name.removesuffix(".parquet").partition("/")
            parts.setdefault(part, {})[table] = hashlib.sha256(data).hexdigest()
    manifest = Manifest(json.loads(files[MANIFEST])["runs"], tuple(Part(*part) for part in parts.items()))
    return {**files, MANIFEST: manifest.as_json().encode()}


def of_earlier_version(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files with a manifest without hashes."""
    content = json.loads(files[MANIFEST])
    return {**files, MANIFEST: json.dumps({"format": content["format"], "runs": content["runs"]}).encode()}


def read_in_process(folder: Path) -> Iterator[RunFile]:
    """Yield the runs of a set without a child process, as they were when it was written. Raises NotASet."""
    location = SetLocation.parse(folder)
    manifest, found = read_manifest(location), 0
    for part in manifest.parts:
        for run in read_part(location, part):
            found += 1
            yield run
    if found != manifest.runs:
        raise damaged_set(location, f"expected {manifest.runs} runs, found {found}")
