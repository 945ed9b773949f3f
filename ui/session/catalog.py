"""The runs of this machine that everyone may pick: of the server's folders, and the examples of this project."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from ui.session.library import Source
from ui.settings import ROOT, settings
from validation.files.parquet_set import MANIFEST
from validation.files.training_status import glance

EXAMPLES = ROOT / "examples"
RUN = "dynamics.db"
DEPTH = 2  # folders between one of the server's and a run in it
FRESH_SECONDS = 4  # for which all sessions share one look at the folders


@dataclass(frozen=True)
class Entry:
    """A run file or a set that may be picked."""

    key: str
    """Its name in an address, unique on this server."""
    name: str
    path: Path
    folder: str
    written: float = 0.0
    """Seconds since the epoch."""
    size: int = 0
    """Bytes; of a set unknown."""
    training: bool = False

    @property
    def source(self) -> Source:
        """What a session chooses when it picks this."""
        name = f"{self.name}/{self.path.name}" if self.path.name == RUN else self.name
        return Source(self.path, name, key=self.key)


def catalog() -> tuple[Entry, ...]:
    """Everything in the server's folders: what is being trained, then what was written last."""
    return _catalog(settings().runs)


def examples() -> tuple[Entry, ...]:
    """The run files that come with the project."""
    return tuple(
        Entry(f"example-{path.stem}", f"example: {path.stem}", path, "examples")
        for path in sorted(EXAMPLES.glob("*.db"))
    )


def by_key() -> dict[str, Entry]:
    """Everything that can be picked, by its name in an address."""
    return {entry.key: entry for entry in (*examples(), *catalog())}


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=1, show_spinner=False)
def _catalog(folders: tuple[Path, ...]) -> tuple[Entry, ...]:
    home = {path: folder for folder in reversed(folders) for path in _find(folder, DEPTH)}
    found: dict[str, Entry] = {}
    for one in glance(path for path in home if path.name == RUN):
        names = _names(one.path.parent, home[one.path], found)
        found[names[0]] = Entry(*names, one.path, home[one.path].name, one.written, one.size, one.training)
    for mark in sorted(path for path in home if path.name == MANIFEST):
        key, name = _names(mark.parent, home[mark], found)
        found[key] = Entry(key, f"set: {name}", mark.parent, home[mark].name, _written(mark))
    return tuple(sorted(found.values(), key=lambda entry: (not entry.training, -entry.written, entry.key)))


def _find(folder: Path, depth: int) -> Iterator[Path]:
    """Run files and marks of sets; inside a run or a set nothing more is looked for."""
    try:
        with os.scandir(folder) as listed:
            entries = list(listed)
    except OSError:  # not there, or not ours to read
        return
    own = [entry for entry in entries if entry.name in (RUN, MANIFEST)]
    yield from (Path(entry.path) for entry in own)
    if depth and not own:
        for entry in entries:
            if entry.is_dir():
                yield from _find(Path(entry.path), depth - 1)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it was taken away just now
        return 0.0


def _names(place: Path, folder: Path, taken: dict[str, Entry]) -> tuple[str, str]:
    """Key and name of what lies in a folder: the folder's own name, and more of its path where that is taken."""
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
