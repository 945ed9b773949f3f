"""The runs of this machine that everyone may pick: of the server's folders, and the examples of this project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from ui.library import Source
from ui.settings import ROOT, settings
from validation.glance import glance
from validation.sets import MARK

EXAMPLES = ROOT / "examples"
RUN_PLACES = ("dynamics.db", "*/dynamics.db", "*/*/dynamics.db")
SET_PLACES = (MARK, f"*/{MARK}", f"*/*/{MARK}")
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
        name = f"{self.name}/{self.path.name}" if self.path.name == "dynamics.db" else self.name
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
    home = {path: folder for folder in reversed(folders) for place in RUN_PLACES for path in folder.glob(place)}
    found: dict[str, Entry] = {}
    for one in glance(home):
        folder = home[one.path]
        entry = Entry(
            *_names(one.path.parent, folder, found), one.path, folder.name, one.written, one.size, one.training
        )
        found[entry.key] = entry
    for folder in folders:
        for mark in sorted(path for place in SET_PLACES for path in folder.glob(place)):
            key, name = _names(mark.parent, folder, found)
            found[key] = Entry(key, f"set: {name}", mark.parent, folder.name, mark.stat().st_mtime)
    return tuple(sorted(found.values(), key=lambda entry: (not entry.training, -entry.written, entry.key)))


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
