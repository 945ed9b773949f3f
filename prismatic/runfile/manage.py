"""Find, list, copy (snapshot) and upgrade (migrate) run files, without torch.

A sandboxed process looks into each file first, as it may be somebody else's. In this process SQLite copies pages of any
file, and runs SQL only on files whose schema holds no code.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from prismatic.contract.options import options_of
from prismatic.contract.schema import SCHEMA_VERSION
from prismatic.errors import LoggerError
from prismatic.runfile.database import RunDatabase, remove
from prismatic.runfile.lock import IsLocked, WriterLock, is_locked
from prismatic.sandbox.summary import FileSummary, look_into, problem_of
from prismatic.text import printable

Number = TypeVar("Number", int, float)

READ_SECONDS = 10.0  # how long to wait for a writer's transaction
JOURNAL_END = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"  # the end of a journal that names another file, to be deleted with it


@dataclass(frozen=True)
class RunSummary:
    """The facts of one run in its file. None means unknown: other programs record less."""

    run: str
    path: Path
    status: str
    """running, finished, crashed, interrupted, unknown, unreadable, or killed: recorded as running, but not written."""
    last_step: int | None
    planned_steps: int | None
    logged_steps: int
    last_update: float
    """When the file was last written, in seconds since 1970."""
    seed: int | None
    perturbation_scale: float | None


def _names_another_file(journal: Path) -> bool:
    with suppress(OSError), open(journal, "rb") as file:
        file.seek(-len(JOURNAL_END), os.SEEK_END)
        return file.read() == JOURNAL_END
    return False


def find_run(run: str, runs: Path = Path("build/runs")) -> Path:
    """Return the run file for a path, a run folder or a run's hash. Raises LoggerError if there is none."""
    candidates = [Path(run), Path(run) / "dynamics.db", runs / run / "dynamics.db"]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise LoggerError(f"{run}: no such run; tried {', '.join(map(str, candidates))}.")
    return found


def read_facts(path: Path) -> dict[str, Any]:
    """Return table `run` as a dict, empty if the file has no such table. Raises LoggerError if it is not a run."""
    return _look_into(path).facts or {}


def list_runs(runs: Path) -> list[RunSummary]:
    """Return all runs below this folder, the last written one first."""
    paths = sorted(runs.rglob("dynamics.db"))
    return sorted(map(_summary, paths, look_into(paths)), key=lambda run: -run.last_update)


def summarize(path: Path) -> RunSummary:
    """Return a summary of a run. A bad file is `unreadable` rather than an error, which would hide the other runs."""
    (found,) = look_into([path])
    return _summary(path, found)


def _look_into(path: Path) -> FileSummary:
    """Return what a run file holds. Raises LoggerError if it cannot be read."""
    (found,) = look_into([path])
    if found.unfinished:
        found = _roll_back(path)
    if found.problem:
        raise LoggerError(f"{path}: cannot be read as a run file ({found.problem}).")
    return found


def _summary(path: Path, found: FileSummary) -> RunSummary:
    last_update = path.stat().st_mtime if path.exists() else 0.0
    with suppress(LoggerError, OSError):
        found = _roll_back(path) if found.unfinished else found
    if found.problem or found.facts is None:
        return RunSummary(printable(path.parent.name), path, "unreadable", None, None, 0, last_update, None, None)
    facts, options = found.facts, options_of(found.facts)
    status = printable(facts.get("exit_state", "unknown"))
    if status == "running" and not is_locked(path):
        status = "killed"
    return RunSummary(
        run=printable(str(facts.get("run_hash", path.parent.name))),
        path=path,
        status=status,
        last_step=found.last_step,
        planned_steps=_to_number(facts.get("planned_steps"), int),
        logged_steps=found.rows,
        last_update=last_update,
        seed=_to_number(options.get("seed", facts.get("seed")), int),
        perturbation_scale=_to_number(options.get("perturbation_scale"), float),
    )


def _roll_back(path: Path) -> FileSummary:
    """Let SQLite roll back the transaction of a killed writer, and return what the file then holds.

    Raises LoggerError if its journal names another file, which SQLite would delete. Our writer makes no such journals.
    """
    with _pages(path) as connection:
        connection.execute("PRAGMA user_version").fetchone()  # reads a page, and nothing of the schema
    (found,) = look_into([path])
    return found


@contextmanager
def _pages(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection for whole pages, which must run no SQL that reads the schema: a file may hold any.

    Raises LoggerError for a file whose pages cannot be read.
    """
    if _names_another_file(Path(f"{path}-journal")):
        raise LoggerError(f"{path}-journal: names another file, which SQLite would delete; move the journal away.")
    # mode=rw: SQLite rolls back the unfinished transaction of a killed writer only for those who may write.
    url = f"file:{quote(str(path.absolute()))}?mode=rw"
    try:
        with closing(sqlite3.connect(url, uri=True, timeout=READ_SECONDS, isolation_level=None)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise LoggerError(f"{path}: cannot be read as a run file ({error}).") from error


def _to_number(value: Any, kind: type[Number]) -> Number | None:
    """Return a fact as a number, also from text; None if it is not a number."""
    try:
        number = None if value is None else kind(value)
        return number if number is not None and abs(number) < 2**64 else None
    except (TypeError, ValueError, OverflowError):
        return None


def snapshot(path: Path, output: Path | None = None, *, overwrite: bool = False) -> Path:
    """Copy a run, which may still be training, to one complete file, and return its path.

    Raises LoggerError for a file that is not a run, or an existing output without `overwrite`.
    """
    if problem := problem_of(path):
        raise LoggerError(f"{path}: cannot be read as a run file ({problem}).")
    with tempfile.TemporaryDirectory(dir=output.absolute().parent if output else Path.cwd()) as folder:
        copy = Path(folder) / "dynamics.db"
        with _pages(path) as source:
            _copy_pages(source, copy)
        last_step = _look_into(copy).last_step
        output = output or Path(f"{path.absolute().parent.name}-step-{last_step}.db")
        if output.exists() and output.samefile(path):
            raise LoggerError(f"{output}: is the run file itself; choose another file with -o.")
        if output.exists() and not overwrite:
            raise LoggerError(f"{output}: already exists; choose another file with -o, or replace it with --overwrite.")
        os.replace(copy, output)
    return output


def _copy_pages(source: sqlite3.Connection, copy: Path) -> None:
    """Copy all pages of one moment to a new file in rollback mode. Raises LoggerError if the file stays locked."""
    deadline = time.monotonic() + READ_SECONDS

    def wait(status: int, remaining: int, total: int) -> None:
        if time.monotonic() > deadline and remaining == total:
            raise LoggerError("the file stays locked by another program; try again when that has finished.")

    with closing(sqlite3.connect(copy)) as target:
        source.backup(target, progress=wait)
    with open(copy, "r+b") as file:  # without SQL, which would read the schema
        file.seek(18)
        if file.read(2) == b"\2\2":
            file.seek(18)
            file.write(b"\1\1")


def migrate(path: Path) -> Path | None:
    """Upgrade a file of an earlier schema version; return the path of the kept original, or None if it is current.

    Raises LoggerError, and leaves the file as it was, if it is not a run, is being written or cannot be upgraded.
    """
    found = _look_into(path)
    if found.version == SCHEMA_VERSION:
        return None
    if not found.plain:
        problem = "it holds views, triggers or expressions, which an upgrade would run"
        raise LoggerError(f"{path}: cannot be upgraded ({problem}); copy its tables into a new file.")
    version = found.version
    given, path = path, Path(os.path.realpath(path))
    kept, upgraded = Path(f"{path}.v{version}"), Path(f"{path}.upgraded")
    if kept.exists():
        raise LoggerError(f"{kept}: already exists, and the original would be kept there; move it away first.")
    try:
        with WriterLock(path), _exclusive(path) as source:
            remove(upgraded)
            with closing(sqlite3.connect(upgraded)) as copy:
                source.backup(copy)
            try:
                database = RunDatabase(upgraded)
                database.record_checksums()
                database.close()
            except LoggerError as error:
                raise LoggerError(str(error).replace(str(upgraded), str(given))) from error
            try:
                os.link(path, kept)
            except OSError:  # the file system has no links
                os.rename(path, kept)
            os.replace(upgraded, path)
    except IsLocked:
        raise LoggerError(f"{given}: is being written; upgrade it after its training has ended.") from None
    except LoggerError:
        raise
    except OSError as error:
        raise LoggerError(f"{given}: cannot be upgraded ({error}).") from error
    finally:
        remove(upgraded)
    return kept


@contextmanager
def _exclusive(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield the only connection to a file: nobody else can read or write it until it is closed."""
    try:
        with closing(sqlite3.connect(path, timeout=2.0, isolation_level=None)) as connection:
            # Leave write-ahead mode, which needs exclusive access: a leftover -wal would destroy the upgraded file.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")  # locking_mode keeps the lock
            yield connection
    except sqlite3.Error as error:
        raise LoggerError(f"{path}: cannot be upgraded while another program has it open ({error}).") from error
