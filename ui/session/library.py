"""What a session has chosen: its run files, the private folder of its uploads, and what was read of them.

A session keeps its uploads while it may come back: Streamlit holds one whose connection broke for
`server.disconnectedSessionTTL` seconds. The server closes the library of a session that is gone (ui/server.py).
"""

from __future__ import annotations

import gc
import hashlib
import shutil
import tempfile
import time
import weakref
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from validation.files.cache import Cache
from validation.files.parquet_set import MANIFEST, is_set
from validation.files.run_file import Rejected, RunFile
from validation.files.sources import read_sources
from validation.judgement.judge import Judgement, judge

RUNS = (".db", ".sqlite", ".sqlite3", ".db3", ".zip")  # what is read from an uploaded folder
JUDGEMENTS = 4  # that a session keeps: of other thresholds, or of a run a moment ago

Key = tuple["Source", int, int]
Thresholds = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Source:
    """A run file of this session: where it is, what it is called, and whether it is our own private copy."""

    path: Path
    name: str
    uploaded: bool = False
    key: str = ""
    """Its name in an address; empty for what is in none."""


@dataclass(eq=False)
class Library:
    """The run files that a session has chosen, in the order in which they came."""

    sources: list[Source] = field(default_factory=list)
    generation: int = 0
    """Part of the uploader's key: a new one empties the widget and frees what it held."""
    _folder: Path | None = None
    _cache: Cache | None = None
    _read: tuple[tuple[Key, ...], tuple[list[RunFile], list[Rejected]]] | None = None
    _judged: dict[tuple[tuple[Key, ...], Thresholds], Judgement] = field(default_factory=dict)

    def add(self, source: Source) -> None:
        """Add a file once."""
        if source.path not in {known.path for known in self.sources}:
            self.sources.append(source)

    def folder(self) -> Path:
        """A private folder for this session's uploads; it goes with the library, or with the server."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="prismatic-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def uploaded_bytes(self) -> int:
        """Of all uploads together."""
        return sum(source.path.stat().st_size for source in self.sources if source.uploaded)

    def keys(self) -> tuple[Key, ...]:
        """Each chosen file with what changes when it is written: time and size."""
        return tuple((source, *_state(source.path)) for source in self.sources)

    def has_read(self, keys: tuple[Key, ...]) -> bool:
        """Whether these files were read before, as they are or as they were."""
        return self._read is not None and {key[0] for key in keys} <= {key[0] for key in self._read[0]}

    def judged(
        self, keys: tuple[Key, ...], thresholds: Thresholds, progress: Callable[[int, int], None] | None = None
    ) -> Judgement:
        """The judgement of these files; they are read again only when they have changed."""
        if (keys, thresholds) not in self._judged:
            if self._read is None or self._read[0] != keys:
                self._read = (keys, self._read_files(keys, progress))
            while len(self._judged) >= JUDGEMENTS:
                del self._judged[next(iter(self._judged))]
            self._judged[keys, thresholds] = judge(*self._read[1], dict(thresholds))
        return self._judged[keys, thresholds]

    def _read_files(
        self, keys: tuple[Key, ...], progress: Callable[[int, int], None] | None
    ) -> tuple[list[RunFile], list[Rejected]]:
        # What an upload held goes with the session, as the upload does: not into the user's own cache.
        self._cache = self._cache or Cache(self.folder() / "cache")
        # A set is known by its place, a file by its place and the name to show.
        chosen = [source.path if is_set(source.path) else (source.path, source.name) for source, _, _ in keys]
        # Our own copies cannot change under us; files on disk may still be written by a training run.
        private = {source.path for source, _, _ in keys if source.uploaded}
        return read_sources(chosen, private=private, cache=self._cache, progress=progress)

    def close(self) -> None:
        """Forget everything, and remove the uploads."""
        self.sources, self._read, self._cache = [], None, None
        self._judged.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:  # who reads it says so
        return 0, 0
    return found.st_mtime_ns, found.st_size


_OPEN: dict[str, Library] = {}  # by session, for all sessions of this server
_DISCONNECTED_SINCE: dict[str, float] = {}  # since when a session has no connection, by time.monotonic()


def library() -> Library:
    """This session's library."""
    if "library" not in st.session_state:
        st.session_state.library = Library()
    found: Library = st.session_state.library
    if context := get_script_run_ctx(suppress_warning=True):
        _OPEN[context.session_id] = found
    return found


def close_disconnected(is_active: Callable[[str], bool], seconds: float) -> None:
    """Close the libraries of sessions that have been without a connection for longer than this."""
    now, closed = time.monotonic(), False
    for session in list(_OPEN):
        if is_active(session):
            _DISCONNECTED_SINCE.pop(session, None)
        elif now - _DISCONNECTED_SINCE.setdefault(session, now) >= seconds:
            _OPEN.pop(session).close()
            del _DISCONNECTED_SINCE[session]
            closed = True
    if closed:  # what they held goes back to the system: things that refer to each other, and what Arrow keeps in hand
        gc.collect()
        pa.default_memory_pool().release_unused()


def close_all() -> None:
    """Close every session's library: the server ends."""
    while _OPEN:
        _OPEN.popitem()[1].close()


def spool(upload: Any) -> Source:
    """Write an upload to the session's folder under its hash: its own name never becomes a path."""
    data = upload.getbuffer()
    path = library().folder() / f"{hashlib.sha256(data).hexdigest()}.db"
    if not path.exists():
        path.write_bytes(data)
    return Source(path, str(upload.name), uploaded=True)


def spool_folder(uploads: Sequence[Any]) -> list[Source]:
    """The run files of an uploaded folder, then its sets, each as one archive: its files mean something together."""
    marks = [str(upload.name) for upload in uploads if str(upload.name).rpartition("/")[2] == MANIFEST]
    roots = tuple(mark.removesuffix(MANIFEST) for mark in marks)
    own = [one for one in uploads if not str(one.name).startswith(roots)]
    runs = [spool(one) for one in own if str(one.name).lower().endswith(RUNS)]
    return runs + [_pack([one for one in uploads if str(one.name).startswith(root)], root) for root in roots]


def _pack(uploads: Sequence[Any], root: str) -> Source:
    """The files of a set as an archive of our own, which is read as one that was uploaded."""
    names = hashlib.sha256()
    path = library().folder() / "packing"
    with zipfile.ZipFile(path, "w") as archive:
        for upload in uploads:
            data = upload.getbuffer()
            names.update(hashlib.sha256(data).digest())
            archive.writestr(str(upload.name).removeprefix(root), data)
    packed = path.with_name(f"{names.hexdigest()}.zip")
    path.replace(packed)
    return Source(packed, root.rstrip("/").rpartition("/")[2] or "set", uploaded=True)
