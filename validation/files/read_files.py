"""Read run files: find them in folders and archives, read each once, and return a RunFile or an error for each.

This process reads the bytes of a run file only to hash them. A child process opens it with SQLite, under limits;
another one unpacks archives, and another one reads sets.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from validation.files.cache import Cache
from validation.files.errors import RunFileError, rejection
from validation.files.file_state import FileState
from validation.files.limits import ReadLimits
from validation.files.read_sets import read_set
from validation.files.received_run import facts_of, run_of, with_all_columns
from validation.files.run_file import Rejected, RunFile, unique_id
from validation.files.sandbox.incremental_read import IncrementalReader
from validation.files.sandbox.sqlite_client import FileContents
from validation.files.sandbox.sqlite_clients import SqliteClients
from validation.files.sandbox.zip_client import folder_for, is_archive, unpacked
from validation.files.sandbox.zip_worker import RUN_SUFFIXES
from validation.text import printable

RUN_NAME = "dynamics.db"
FETCHED_AT_ONCE = 3  # two that child processes read, and one that is hashed meanwhile
LARGE_FILE = 8 << 20  # bytes
PATH_CHARACTERS = 1000  # of a path in an error
WRITTEN_MEANWHILE = "the file was written while it was read, so its hash may be of other rows"


class Fetched(NamedTuple):
    """A file's hash, and its run if it was read before, or else what the child process sent of it."""

    digest: str
    hashed: FileState
    """The state of the file that was hashed."""
    settled: bool
    """False if a -wal or a -journal lies beside: the same bytes may mean other rows then."""
    cached: RunFile | None = None
    contents: FileContents | None = None


class FoundFile(NamedTuple):
    """A file to read, or a path without one."""

    path: Path
    name: str  # short, to show beside the run
    given: str  # as the user gave it, for errors
    code: str = ""  # of the error, if there is no file to read
    problem: str = ""  # the system's words for it


def read_files(
    paths: Iterable[Path | str | tuple[Path, str]],
    *,
    limits: ReadLimits | None = None,
    private: Collection[Path] = (),
    progress: Callable[[int, int], None] | None = None,
    cache: Cache | None = None,
    growing: IncrementalReader | None = None,
) -> tuple[list[RunFile], list[Rejected]]:
    """Return the runs of all files, and the files that could not be read; folders are searched for dynamics.db files,
    or else for other databases.

    A zip archive stands for the run files in it, and a path may come with the name to show. private: paths of this
    program's own copies, which nothing else writes. cache: runs that were read before. growing: earlier readings of
    runs in training. Keep both between calls that read the same files.
    """
    limits = limits or ReadLimits()
    files = list(find_files(paths))
    found = [file.path for file in files if not file.code]
    archives = {path for path in found if is_archive(path)}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(folder_for(archives))
        readable = [path for path in found if path not in archives]
        client = SqliteClients(limits, readable, folder=Path(folder) if folder else None)
        stack.enter_context(contextlib.closing(client))
        reading = _Reading(client, cache, growing, folder)

        def fetch(file: FoundFile) -> Fetched | None:
            if file.code:
                raise rejection(file.given, file.code, limits, problem=file.problem)
            return None if file.path in archives else reading.fetch(file.path, file.name, private=file.path in private)

        for done, (file, fetching) in enumerate(_ahead(files, fetch)):
            if progress:
                progress(done, len(files))
            try:
                fetched = fetching.result()
                if fetched is None:
                    reading.add_archive(file)
                else:
                    reading.add(file.path, file.name, fetched, private=file.path in private)
            except RunFileError as error:
                reading.reject(file.given, file.path, error)
    if progress:
        progress(len(files), len(files))
    return reading.runs, reading.rejected


def _ahead(
    files: Iterable[FoundFile], fetch: Callable[[FoundFile], Fetched | None]
) -> Iterator[tuple[FoundFile, Future[Fetched | None]]]:
    """Yield each file with its fetching, while threads fetch the next ones."""
    waiting = deque[tuple[FoundFile, Future[Fetched | None]]]()
    pool = ThreadPoolExecutor(FETCHED_AT_ONCE)
    try:
        for file in files:
            # A context can be entered by one thread at a time.
            waiting.append((file, pool.submit(contextvars.copy_context().run, fetch, file)))
            if len(waiting) > FETCHED_AT_ONCE:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class _Reading:
    """The runs that were read so far, and where to look for a run that is among them already.

    Some threads fetch files and another one adds them, so that the child processes read files while this process
    checks and caches the ones before.
    """

    client: SqliteClients
    cache: Cache | None
    growing: IncrementalReader | None
    folder: str | None
    """The folder to unpack archives in."""
    runs: list[RunFile] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    """The index of a run by the sha256 of its file."""
    ids: set[str] = field(default_factory=set)

    def reject(self, name: str, path: Path, error: RunFileError) -> None:
        """Add a file that could not be read."""
        self.rejected.append(Rejected(name, path, error.renamed(name)))

    def fetch(self, path: Path, name: str, *, private: bool) -> Fetched:
        """Hash one file, and look it up in the cache or read it. Raises RunFileError.

        If it was replaced or rewritten meanwhile, its hash and its contents may be of two files: both begin anew, once.
        """
        before = FileState.of(path)
        try:
            found = self._fetch(path, name, private=private)
            if private or found.cached or FileState.of(path) == found.hashed or _is_running(found.contents):
                return found
        except RunFileError:
            if private or FileState.of(path) == before:
                raise
        before = FileState.of(path)
        try:
            return self._fetch(path, name, private=private)
        except RunFileError:
            if FileState.of(path).same_file(before):
                raise
            raise rejection(name, "replaced", self.client.limits) from None

    def _fetch(self, path: Path, name: str, *, private: bool) -> Fetched:
        contents = None
        if self._is_large_and_new(path):  # hashing it takes a tenth of the time of reading it
            with ThreadPoolExecutor(1) as other:
                hashing = other.submit(_sha256, path, name, self.client.limits)
                contents = self._contents(path, name, private)
                digest, hashed = hashing.result()
        else:
            digest, hashed = _sha256(path, name, self.client.limits)
        settled = private or not (has_wal(path) or os.path.exists(f"{path}-journal"))
        found = Fetched(digest, hashed, settled)
        if digest in self.places and settled:
            return found
        if self.cache and settled and not contents and (cached := self.cache.get(digest)):
            return found._replace(cached=cached)
        return found._replace(contents=contents or self._contents(path, name, private))

    def _is_large_and_new(self, path: Path) -> bool:
        """Return whether a file is to be read at once, because the cache holds no run of a file of its size."""
        size = FileState.of(path).size
        known = self.cache is not None and self.cache.knows_size(size)
        return LARGE_FILE <= size <= self.client.limits.file_bytes and not known

    def _contents(self, path: Path, name: str, private: bool) -> FileContents:
        if self.growing and not private:
            return self.growing.read(self.client, path, name)
        return self.client.read(path, name, immutable=private)

    def add(self, path: Path, name: str, fetched: Fetched, *, private: bool) -> None:
        """Add the run in one file, unless it is there already. Raises RunFileError if the file is not a run."""
        limits = self.client.limits
        place = self.places.get(fetched.digest)
        if place is not None and (private or not (has_wal(path) or has_wal(self.runs[place].path))):
            known = self.runs[place]
            note = f"the same file was given again as {name}; it is read once"
            self.runs[place] = replace(known, notes=(*known.notes, note))
            return
        read = fetched.cached or self._read(path, name, fetched, private)
        if not private and not fetched.hashed.same_file(now := FileState.of(path)):
            raise rejection(name, "replaced", limits)
        if not private and not fetched.cached and now != fetched.hashed and read.facts.get("exit_state") != "running":
            read = replace(read, notes=(*read.notes, WRITTEN_MEANWHILE))
        run = replace(read, name=name, path=path, id=unique_id(read.id, self.ids))
        if len(run.wide) * run.num_experts > limits.expert_rows:
            raise rejection(name, "too_large", limits, limit="expert_rows")
        self.places.setdefault(fetched.digest, len(self.runs))
        self.ids.add(run.id)
        self.runs.append(run)

    def _read(self, path: Path, name: str, fetched: Fetched, private: bool) -> RunFile:
        """Return the run of one file, and put it into the cache."""
        digest, limits = fetched.digest, self.client.limits
        run = run_of(path, name, digest, fetched.contents or self._contents(path, name, private), limits)
        if run.damage and not private and FileState.of(path) != fetched.hashed:
            # It was written or closed between two of its tables.
            run = run_of(path, name, digest, self._contents(path, name, private), limits)
        # A file that is being written may hold other rows by now than the bytes that were hashed.
        is_written = run.facts.get("exit_state") == "running" or FileState.of(path) != fetched.hashed
        if self.cache and fetched.settled and not is_written:
            self.cache.put(run, size=fetched.hashed.size)
        return run

    def add_archive(self, file: FoundFile) -> None:
        """Add the runs in an archive, and its files that are not runs. Raises RunFileError if it cannot be opened."""
        with unpacked(file.path, file.name, self.client.limits, self.folder) as contents:
            for member in contents.runs:
                before = len(self.runs)
                try:
                    if member.error:
                        raise member.error
                    name = _name_inside(member.inner_name, file.name, 90)
                    self.add(member.path, name, self.fetch(member.path, name, private=True), private=True)
                except RunFileError as error:
                    self.reject(_name_inside(member.inner_name, file.given, PATH_CHARACTERS), file.path, error)
                if len(self.runs) > before:
                    run = self.runs[-1]
                    self.runs[-1] = replace(run, path=file.path, notes=(*run.notes, *member.notes))
            for folder, inner in contents.sets.items():
                self._add_set(folder, inner, file, self.client.limits.members - len(contents.runs))

    def _add_set(self, folder: Path, inner: str, archive: FoundFile, most: int) -> None:
        """Add the runs of a set in an archive, unless they are there already: one bad part makes all untrusted."""
        found, error = read_set(folder, self.client.limits, most=most)
        if error:
            self.reject(_name_inside(inner, archive.given, PATH_CHARACTERS), archive.path, error)
            return
        for run in found:
            # The set gives the hash of the original file, which this program has not seen: the rows must be equal, too.
            known = self.places.get(run.sha256)
            if known is None or not self.runs[known].wide.equals(run.wide):
                name = _name_inside(f"{run.name} in {inner}" if inner else run.name, archive.name, 90)
                run = replace(run, name=name, path=archive.path, id=unique_id(run.id, self.ids))
                self.ids.add(run.id)
                self.runs.append(run)


def _is_running(contents: FileContents | None) -> bool:
    """Return whether these are the contents of a run that is still trained: new rows are no other file."""
    if contents is None:
        return False
    facts, _ = facts_of(with_all_columns("run", contents[1].get("run")))
    return facts.get("exit_state") == "running"


def _name_inside(inner: str, archive: str, most: int) -> str:
    return printable(f"{inner} in {archive}" if inner else archive, most)


def find_files(paths: Iterable[Path | str | tuple[Path, str]]) -> Iterator[FoundFile]:
    """Yield the files at the paths, and in folders all dynamics.db files; what is no file has the code of its error."""
    for source in paths:
        path, title = source if isinstance(source, tuple) else (source, "")
        given = title or printable(str(path), PATH_CHARACTERS)
        path = Path(path)
        code, problem = _problem_of(path)
        if code == "folder":
            yield from _files_in(path, given)
        else:
            yield FoundFile(path, printable(title or _last_parts(path)), given, code, problem)


def _files_in(folder: Path, given: str) -> Iterator[FoundFile]:
    """Yield all dynamics.db files at any depth, or else all databases, and the folders that cannot be listed."""
    found: list[FoundFile] = []
    databases: list[Path] = []

    def refused(error: OSError) -> None:
        found.append(_found_in_folder(Path(error.filename), "closed_folder", error.strerror or ""))

    for place, folders, files in os.walk(folder, onerror=refused):
        if RUN_NAME in (*files, *folders):
            found.append(_found_in_folder(Path(place, RUN_NAME), *_problem_of(Path(place, RUN_NAME))))
        databases += [Path(place, name) for name in files if name.endswith(RUN_SUFFIXES) and name[:2] != "._"]
    if not any(file.path.name == RUN_NAME for file in found):
        found += [_found_in_folder(path, *_problem_of(path)) for path in databases]
    if not found:
        yield FoundFile(folder, printable(_last_parts(folder)), given, "no_files")
    yield from sorted(found, key=lambda file: file.path)


def _found_in_folder(path: Path, code: str, problem: str) -> FoundFile:
    return FoundFile(path, printable(_last_parts(path)), printable(str(path), PATH_CHARACTERS), code, problem)


def _problem_of(path: Path) -> tuple[str, str]:
    """Return the code of the error of a path that is no regular file, and the system's words; "" for a regular file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return ("dangling" if os.path.islink(path) else "missing"), ""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return "system", getattr(error, "strerror", None) or str(error)
    return "" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "special", ""


def _last_parts(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def has_wal(path: Path) -> bool:
    """Return whether a -wal file lies beside: then equal files may hold different runs."""
    return os.path.exists(f"{path}-wal")


def _sha256(path: Path, name: str, limits: ReadLimits) -> tuple[str, FileState]:
    """Return the hash of the file's bytes, and the state of the file before it was hashed.

    Never call it for a file that this process writes: closing the file would drop all its POSIX locks.
    """
    try:
        # A pipe or device in the file's place must not keep this process waiting.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise rejection(name, "special", limits)
            state = FileState.of_stat(os.fstat(file.fileno()))
            if state.size > limits.file_bytes:
                raise rejection(name, "too_large", limits, limit="file_bytes")
            return hashlib.file_digest(file, "sha256").hexdigest(), state
    except OSError as error:
        raise rejection(name, "system", limits, problem=error.strerror or "no reason given") from None
