"""What can be done with run files besides writing them: list, copy a live one, upgrade an old one. No torch.

These are files of one's own. Files of others are opened by `validation`, in a process of their own.
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

from filelock import Timeout

from prismatic.contract.schema import SCHEMA_VERSION
from prismatic.errors import LoggerError
from prismatic.runfile.database import RunDatabase, remove, writer_lock

Number = TypeVar("Number", int, float)

READ_SECONDS = 10.0  # a writer that is at it is waited for


@dataclass(frozen=True)
class RunSummary:
    """One run as its file tells it. Unknown is None: other writers record less."""

    run: str
    path: Path
    status: str
    """running, finished, crashed, interrupted; killed: it says running and nobody writes; unknown; unreadable."""
    last_step: int | None
    planned_steps: int | None
    logged_steps: int
    last_update: float
    """Seconds since 1970, when the file was last written."""
    seed: int | None
    perturbation_scale: float | None


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for reading. Raises LoggerError for what cannot be read."""
    # Not read-only: what a killed writer left half written is rolled back, which SQLite does for whoever may write.
    url = f"file:{quote(str(path.absolute()))}?mode=rw"
    try:
        with closing(sqlite3.connect(url, uri=True, timeout=READ_SECONDS, isolation_level=None)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection
    except sqlite3.Error as error:
        raise LoggerError(f"{path}: cannot be read as a run file ({error}).") from error


def find_run(run: str, runs: Path = Path("build/runs")) -> Path:
    """The run file that is meant by a path, a run folder, or a run's hash. Raises LoggerError where there is none."""
    candidates = [Path(run), Path(run) / "dynamics.db", runs / run / "dynamics.db"]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise LoggerError(f"{run}: no such run; looked for {', '.join(map(str, candidates))}.")
    return found


def read_facts(path: Path) -> dict[str, Any]:
    """Table `run` as a dict; empty where the file has none. Raises LoggerError for what is no SQLite file."""
    with reading(path) as connection:
        if not _has_table(connection, "run"):
            return {}
        return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM run")}


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
    return bool(connection.execute(query, (name,)).fetchone()[0])


def list_runs(runs: Path) -> list[RunSummary]:
    """Every run below this folder, the one that was written last first."""
    return sorted(map(summary, runs.rglob("dynamics.db")), key=lambda run: -run.last_update)


def summary(path: Path) -> RunSummary:
    """What a run file says about its run; never an error, since one bad file must not hide the others."""
    last_update = path.stat().st_mtime if path.exists() else 0.0
    try:
        facts = read_facts(path)
        with reading(path) as connection:
            count, last_step = connection.execute("SELECT count(*), max(step) FROM dynamics").fetchone()
    except (OSError, ValueError, TypeError):
        return RunSummary(path.parent.name, path, "unreadable", None, None, 0, last_update, None, None)
    status = str(facts.get("exit_state", "unknown"))
    if status == "running" and not is_being_written(path):
        status = "killed"
    return RunSummary(
        run=str(facts.get("run_hash", path.parent.name)),
        path=path,
        status=status,
        last_step=last_step,
        planned_steps=_number(facts.get("planned_steps"), int),
        logged_steps=count,
        last_update=last_update,
        seed=_number(facts.get("config.seed", facts.get("seed")), int),
        perturbation_scale=_number(facts.get("config.perturbation_scale"), float),
    )


def _number(value: Any, kind: type[Number]) -> Number | None:
    """A fact as a number, also where another writer keeps it as text; None where it is none."""
    try:
        return None if value is None else kind(value)
    except (TypeError, ValueError, OverflowError):
        return None


def is_being_written(path: Path) -> bool:
    """Whether a DynamicsLogger has this file open, here or in another process."""
    lock = writer_lock(path, 0)
    if not Path(lock.lock_file).exists():
        return False
    try:
        lock.acquire()
    except (Timeout, OSError):  # an OSError: the lock of another user, who may well be writing
        return True
    lock.release()
    return False


def snapshot(path: Path, output: Path | None = None, *, overwrite: bool = False) -> Path:
    """Write a whole, single file of a run, which may be training; returns its path.

    Raises LoggerError for a file that is no run, or an output that is there already.
    """
    with reading(path) as connection:
        last_step = connection.execute("SELECT max(step) FROM dynamics").fetchone()[0]
        output = output or Path(f"{path.absolute().parent.name}-step-{last_step}.db")
        if output.exists() and output.samefile(path):
            raise LoggerError(f"{output}: is the run file itself; choose another file by -o.")
        if output.exists() and not overwrite:
            raise LoggerError(f"{output}: exists already; choose another file by -o, or replace it by --overwrite.")
        unfinished = output.with_name(f"{output.name}.new")
        unfinished.unlink(missing_ok=True)
        connection.execute("VACUUM INTO ?", (str(unfinished),))
    os.replace(unfinished, output)
    return output


def migrate(path: Path) -> Path | None:
    """Upgrade a file of an earlier schema version; returns where the original is kept, None if it is current.

    Raises LoggerError for a file that is no run, is being written, or cannot be upgraded; it is then as it was.
    """
    with reading(path) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return None
    path = Path(os.path.realpath(path))
    kept, upgraded = Path(f"{path}.v{version}"), Path(f"{path}.upgraded")
    if kept.exists():
        raise LoggerError(f"{kept}: exists already, and the original would be kept there; move it away first.")
    try:
        with writer_lock(path, 0), _alone(path) as source:
            remove(upgraded)
            with closing(sqlite3.connect(upgraded)) as copy:
                source.backup(copy)
            RunDatabase(upgraded).close()
            try:
                os.link(path, kept)
            except OSError:  # a file system without links
                os.rename(path, kept)
            os.replace(upgraded, path)
    except Timeout:
        raise LoggerError(f"{path}: is being written; upgrade it when its training has ended.") from None
    except OSError as error:
        raise (
            error if isinstance(error, LoggerError) else LoggerError(f"{path}: cannot be upgraded ({error}).")
        ) from error
    finally:
        remove(upgraded)
        Path(f"{upgraded}.lock").unlink(missing_ok=True)
    return kept


@contextmanager
def _alone(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection beside which nobody can write the file, or read it, until it is closed."""
    try:
        with closing(sqlite3.connect(path, timeout=2.0, isolation_level=None)) as connection:
            # Out of write-ahead mode, which nobody else may be in: a -wal beside the upgraded file would destroy it.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")  # the lock stays
            yield connection
    except sqlite3.Error as error:
        raise LoggerError(f"{path}: cannot be upgraded while another program has it open ({error}).") from error
