"""Find, list, copy (snapshot) and upgrade (migrate) run files, without torch.

Only for the user's own files. `validation` opens files of others, in a sandboxed process.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from prismatic.contract.schema import SCHEMA_VERSION
from prismatic.errors import LoggerError
from prismatic.runfile.database import RunDatabase, remove
from prismatic.runfile.lock import IsLocked, WriterLock, is_locked

Number = TypeVar("Number", int, float)

READ_SECONDS = 10.0  # how long to wait for a writer's transaction


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


@contextmanager
def open_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection. Raises LoggerError for a file that cannot be read."""
    # mode=rw: SQLite rolls back the unfinished transaction of a killed writer only for those who may write.
    url = f"file:{quote(str(path.absolute()))}?mode=rw"
    try:
        with closing(sqlite3.connect(url, uri=True, timeout=READ_SECONDS, isolation_level=None)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection
    except sqlite3.Error as error:
        raise LoggerError(f"{path}: cannot be read as a run file ({error}).") from error


def find_run(run: str, runs: Path = Path("build/runs")) -> Path:
    """Return the run file for a path, a run folder or a run's hash. Raises LoggerError if there is none."""
    candidates = [Path(run), Path(run) / "dynamics.db", runs / run / "dynamics.db"]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise LoggerError(f"{run}: no such run; tried {', '.join(map(str, candidates))}.")
    return found


def read_facts(path: Path) -> dict[str, Any]:
    """Return table `run` as a dict, empty if the file has no such table. Raises LoggerError if it is not SQLite."""
    with open_for_reading(path) as connection:
        if not _has_table(connection, "run"):
            return {}
        return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM run")}


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
    return bool(connection.execute(query, (name,)).fetchone()[0])


def list_runs(runs: Path) -> list[RunSummary]:
    """Return all runs below this folder, the last written one first."""
    return sorted(map(summarize, runs.rglob("dynamics.db")), key=lambda run: -run.last_update)


def summarize(path: Path) -> RunSummary:
    """Return a summary of a run. A bad file is `unreadable` rather than an error, which would hide the other runs."""
    last_update = path.stat().st_mtime if path.exists() else 0.0
    try:
        facts = read_facts(path)
        with open_for_reading(path) as connection:
            count, last_step = connection.execute("SELECT count(*), max(step) FROM dynamics").fetchone()
    except (OSError, ValueError, TypeError):
        return RunSummary(path.parent.name, path, "unreadable", None, None, 0, last_update, None, None)
    status = str(facts.get("exit_state", "unknown"))
    if status == "running" and not is_locked(path):
        status = "killed"
    return RunSummary(
        run=str(facts.get("run_hash", path.parent.name)),
        path=path,
        status=status,
        last_step=last_step,
        planned_steps=_to_number(facts.get("planned_steps"), int),
        logged_steps=count,
        last_update=last_update,
        seed=_to_number(facts.get("config.seed", facts.get("seed")), int),
        perturbation_scale=_to_number(facts.get("config.perturbation_scale"), float),
    )


def _to_number(value: Any, kind: type[Number]) -> Number | None:
    """Return a fact as a number, also from text; None if it is not a number."""
    try:
        return None if value is None else kind(value)
    except (TypeError, ValueError, OverflowError):
        return None


def snapshot(path: Path, output: Path | None = None, *, overwrite: bool = False) -> Path:
    """Copy a run, which may still be training, to one complete file, and return its path.

    Raises LoggerError for a file that is not a run, or an existing output without `overwrite`.
    """
    with open_for_reading(path) as connection:
        last_step = connection.execute("SELECT max(step) FROM dynamics").fetchone()[0]
        output = output or Path(f"{path.absolute().parent.name}-step-{last_step}.db")
        if output.exists() and output.samefile(path):
            raise LoggerError(f"{output}: is the run file itself; choose another file with -o.")
        if output.exists() and not overwrite:
            raise LoggerError(f"{output}: already exists; choose another file with -o, or replace it with --overwrite.")
        unfinished = output.with_name(f"{output.name}.new")
        unfinished.unlink(missing_ok=True)
        connection.execute("VACUUM INTO ?", (str(unfinished),))
    os.replace(unfinished, output)
    return output


def migrate(path: Path) -> Path | None:
    """Upgrade a file of an earlier schema version; return the path of the kept original, or None if it is current.

    Raises LoggerError, and leaves the file as it was, if it is not a run, is being written or cannot be upgraded.
    """
    with open_for_reading(path) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return None
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
