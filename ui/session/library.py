"""The library of a session: its chosen run files, the private folder of its uploads, and its judgements.

Streamlit keeps a session whose connection broke for `server.disconnectedSessionTTL` seconds, and its uploads stay as
long. After that the server closes its library (ui/server.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import threading
import time
import weakref
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from ui.memory import return_memory
from validation.files.cache import Cache
from validation.files.file_state import FileState
from validation.files.run_file import Rejected, RunFile
from validation.files.sandbox.incremental_read import IncrementalReader
from validation.files.sandbox.turns import REQUESTER, Requester
from validation.files.set_manifest import MANIFEST, is_set
from validation.files.sources import FILE_SUFFIXES, read_sources
from validation.files.temporary import temporary_folder
from validation.judgement.judge import Judgement, judge

MAX_JUDGEMENTS = 4  # kept by a session: with other thresholds, or of an earlier state of a run in training

Key = tuple["Source", FileState]
ChangedThresholds = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Source:
    """A run file of this session: its path, its name, and whether it is an upload."""

    path: Path
    name: str
    uploaded: bool = False
    key: str = ""
    """Its name in an address; empty for an upload."""


@dataclass(eq=False)
class Library:
    """The chosen run files of a session, in the order of choice."""

    sources: list[Source] = field(default_factory=list)
    generation: int = 0
    """Part of the uploader's key: a new value empties the widget and frees its memory."""
    _folder: Path | None = None
    _cache: Cache | None = None
    _growing: IncrementalReader = field(default_factory=IncrementalReader)
    _read: tuple[tuple[Key, ...], tuple[list[RunFile], list[Rejected]]] | None = None
    _judged: dict[tuple[tuple[Key, ...], ChangedThresholds], Judgement] = field(default_factory=dict)

    def add(self, source: Source) -> None:
        """Add a file, unless it is there already."""
        if source.path not in {known.path for known in self.sources}:
            self.sources.append(source)

    def folder(self) -> Path:
        """Return this session's private folder for uploads, which is removed with the library or the server."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="session-", dir=temporary_folder()))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def uploaded_bytes(self) -> int:
        """Return the bytes of all uploads together."""
        return sum(source.path.stat().st_size for source in self.sources if source.uploaded)

    def keys(self) -> tuple[Key, ...]:
        """Return each chosen file with its state, which changes when the file is written."""
        return tuple((source, FileState.of(source.path)) for source in self.sources)

    def has_read(self, keys: tuple[Key, ...]) -> bool:
        """Return True if these files were read before, in this or an earlier state."""
        return self._read is not None and {key[0] for key in keys} <= {key[0] for key in self._read[0]}

    def judged(
        self, keys: tuple[Key, ...], thresholds: ChangedThresholds, progress: Callable[[int, int], None] | None = None
    ) -> Judgement:
        """Return the judgement of these files, which are read again only after a change."""
        if (keys, thresholds) not in self._judged:
            if self._read is None or self._read[0] != keys:
                self._read = (keys, self._read_files(keys, progress))
            while len(self._judged) >= MAX_JUDGEMENTS:
                del self._judged[next(iter(self._judged))]
            self._judged[keys, thresholds] = judge(*self._read[1], dict(thresholds))
        return self._judged[keys, thresholds]

    def _read_files(
        self, keys: tuple[Key, ...], progress: Callable[[int, int], None] | None
    ) -> tuple[list[RunFile], list[Rejected]]:
        # Not the user's own cache: the contents of an upload must go with its session.
        self._cache = self._cache or Cache(self.folder() / "cache")
        # A set is named by its path, a file by its path and the name to show.
        chosen = [source.path if is_set(source.path) else (source.path, source.name) for source, _ in keys]
        # Uploads never change; a file on disk may be written by a training.
        private = {source.path for source, _ in keys if source.uploaded}
        return read_sources(chosen, private=private, cache=self._cache, growing=self._growing, progress=progress)

    def close(self) -> None:
        """Drop files and judgements, and remove the uploads."""
        self.sources, self._read, self._cache, self._growing = [], None, None, IncrementalReader()
        self._judged.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


_OPEN: dict[str, Library] = {}  # by session id, for all sessions of this server
_DISCONNECTED_SINCE: dict[str, float] = {}  # time.monotonic() at which a session's connection was lost
_FORGOTTEN = threading.Event()  # Streamlit has let go of a session, with all that its pages kept


def library() -> Library:
    """Return this session's library."""
    if "library" not in st.session_state:
        st.session_state.library = Library()
        weakref.finalize(st.session_state.library, _FORGOTTEN.set)
    found: Library = st.session_state.library
    if context := get_script_run_ctx(suppress_warning=True):
        _OPEN[context.session_id] = found
        REQUESTER.set(Requester(context.session_id, partial(_is_open, context.session_id)))
    return found


def _is_open(session: str) -> bool:
    """Return whether a session's page is still connected."""
    return not runtime.exists() or bool(runtime.get_instance().is_active_session(session))


def close_disconnected(is_active: Callable[[str], bool], seconds: float) -> None:
    """Close the libraries of sessions that have had no connection for `seconds`.

    Streamlit forgets such a session by itself, at the next coming or going of another one.
    """
    now, closed = time.monotonic(), False
    for session in list(_OPEN):
        if is_active(session):
            _DISCONNECTED_SINCE.pop(session, None)
        elif now - _DISCONNECTED_SINCE.setdefault(session, now) >= seconds:
            _OPEN.pop(session).close()
            del _DISCONNECTED_SINCE[session]
            closed = True
    if closed or _FORGOTTEN.is_set():
        _FORGOTTEN.clear()
        return_memory()


def close_all() -> None:
    """Close all libraries when the server ends."""
    while _OPEN:
        _OPEN.popitem()[1].close()


def spool(upload: Any) -> Source:
    """Write an upload to the session's folder, named by its hash: its own name never becomes a path."""
    data = upload.getbuffer()
    path = library().folder() / f"{hashlib.sha256(data).hexdigest()}.db"
    if not path.exists():
        with _whole_file(path) as unfinished:
            unfinished.write_bytes(data)
    return Source(path, str(upload.name), uploaded=True)


def spool_folder(uploads: Sequence[Any]) -> list[Source]:
    """Save an uploaded folder: its run files, then each of its sets as one archive."""
    marks = [str(upload.name) for upload in uploads if str(upload.name).rpartition("/")[2] == MANIFEST]
    roots = tuple(mark.removesuffix(MANIFEST) for mark in marks)
    others = [upload for upload in uploads if not str(upload.name).startswith(roots)]
    runs = [spool(upload) for upload in others if str(upload.name).lower().endswith(FILE_SUFFIXES)]
    return runs + [_pack([upload for upload in uploads if str(upload.name).startswith(root)], root) for root in roots]


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes the file at the end: a disk that is full leaves no half of one."""
    unfinished = path.with_suffix(".part")
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _pack(uploads: Sequence[Any], root: str) -> Source:
    """Write the files of a set to one zip, which is read like an uploaded one."""
    names = hashlib.sha256()
    for upload in uploads:
        names.update(hashlib.sha256(upload.getbuffer()).digest())
    packed = library().folder() / f"{names.hexdigest()}.zip"
    with _whole_file(packed) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for upload in uploads:
            archive.writestr(str(upload.name).removeprefix(root), upload.getbuffer())
    return Source(packed, root.rstrip("/").rpartition("/")[2] or "set", uploaded=True)
