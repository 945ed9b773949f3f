"""The catalog of runs that any session may pick: those in the server's folders, and the examples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from ui.session.library import Source
from ui.settings import ROOT, settings
from validation.files.set_manifest import MANIFEST
from validation.files.training_status import training_status

EXAMPLES = ROOT / "examples"
RUN = "dynamics.db"
DEPTH = 2  # levels of folders searched below each of the server's
FRESH_SECONDS = 4  # for which all sessions share one scan of the folders


@dataclass(frozen=True)
class Entry:
    """A run file or a set in the catalog."""

    key: str
    """Its name in an address, unique on this server."""
    name: str
    path: Path
    folder: str
    written: float = 0.0
    """Seconds since the epoch."""
    size: int = 0
    """Bytes; 0 for a set."""
    training: bool = False

    @property
    def source(self) -> Source:
        """The source that a session chooses by picking this entry."""
        name = f"{self.name}/{self.path.name}" if self.path.name == RUN else self.name
        return Source(self.path, name, key=self.key)


def catalog() -> tuple[Entry, ...]:
    """Return all runs and sets in the server's folders: runs in training first, then the newest."""
    return _catalog(settings().runs)


def examples() -> tuple[Entry, ...]:
    """Return the run files and the set that come with the project."""
    paths = [*sorted(EXAMPLES.glob("*.db")), *(mark.parent for mark in sorted(EXAMPLES.glob(f"*/{MANIFEST}")))]
    return tuple(Entry(f"example-{path.stem}", f"examples/{path.name}", path, "examples") for path in paths)


def studies() -> tuple[Entry, ...]:
    """Return the sets of registered studies that come with the project."""
    paths = [mark.parent for mark in sorted(EXAMPLES.glob(f"studies/*/{MANIFEST}"))]
    return tuple(Entry(f"study-{path.name}", f"examples/studies/{path.name}", path, "examples") for path in paths)


def by_key() -> dict[str, Entry]:
    """Return all entries by their names in an address."""
    return {entry.key: entry for entry in (*examples(), *studies(), *catalog())}


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=1, show_spinner=False)
def _catalog(folders: tuple[Path, ...]) -> tuple[Entry, ...]:
    home = {path: folder for folder in reversed(folders) for path in _find(folder, DEPTH)}
    found: dict[str, Entry] = {}
    for seen in training_status(path for path in home if path.name == RUN):
        names = _names(seen.path.parent, home[seen.path], found)
        found[names[0]] = Entry(*names, seen.path, home[seen.path].name, seen.written, seen.size, seen.training)
    for mark in sorted(path for path in home if path.name == MANIFEST):
        key, name = _names(mark.parent, home[mark], found)
        found[key] = Entry(key, f"set: {name}", mark.parent, home[mark].name, _written(mark))
    return tuple(sorted(found.values(), key=lambda entry: (not entry.training, -entry.written, entry.key)))


def _find(folder: Path, depth: int) -> Iterator[Path]:
    """Yield run files and manifests of sets; folders inside a run or a set are not searched."""
    try:
        with os.scandir(folder) as listed:
            entries = list(listed)
    except OSError:  # missing, or not readable
        return
    found = [entry for entry in entries if entry.name in (RUN, MANIFEST)]
    yield from (Path(entry.path) for entry in found)
    if depth and not found:
        for entry in entries:
            if entry.is_dir():
                yield from _find(Path(entry.path), depth - 1)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed a moment ago
        return 0.0


def _names(place: Path, folder: Path, taken: dict[str, Entry]) -> tuple[str, str]:
    """Return key and name of a run's folder: its own name, or more of its path if that name is taken."""
    inner = place.relative_to(folder).as_posix()
    short = place.name
    if short not in taken:
        return short, short
    key = f"{folder.name}/{inner}"
    number = 1
    while key in taken:
        number += 1
        key = f"{folder.name}/{inner}-{number}"
    return key, key
