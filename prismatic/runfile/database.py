"""An open run file: what is checked before it is touched, and every statement that changes it. It has one owner."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from prismatic.contract.schema import (
    APPLICATION_ID,
    MAX_COLUMNS,
    SCHEMA_VERSION,
    STEP_COLUMNS,
    TABLES,
    create_statements,
    dynamics_columns,
)
from prismatic.errors import LoggerError
from prismatic.runfile.migrations import CannotMigrate, upgrade

Resume = Literal["never", "allow", "must"]
JournalMode = Literal["delete", "wal"]

LOCK_SECONDS = 0.3  # `python -m prismatic runs` takes the lock for a moment, to see whether anybody has it
OPEN_SECONDS, WRITE_SECONDS = 0.5, 5.0  # how long a reader's lock is waited for
# SQLite's codes for what is wrong with one statement whatever the file's state: error (no such column, too many
# columns), too big, constraint, mismatch, range.
STATEMENT_FAULTS = {1, 18, 19, 20, 25}
BY_STEP = ("dynamics", "layers", "histograms", "scalars")


class Store:
    """The tables of a run file, opened for writing by nobody else.

    Raises LoggerError for a path that cannot be written, that another writer has open, that holds something else than a
    run, a damaged run or one of a later schema version, and where `resume` asks for a file or for none.
    """

    def __init__(
        self,
        path: Path,
        num_experts: int = 0,
        *,
        journal_mode: JournalMode = "delete",
        resume: Resume = "allow",
        overwrite: bool = False,
    ):
        self.path = path
        self._columns: set[str] = set()
        if resume == "must" and not path.exists():
            raise LoggerError(f"{path}: there is no run to resume (resume='must'); start it with resume='allow'.")
        if resume == "never" and path.exists() and not overwrite:
            raise LoggerError(
                f"{path}: exists already (resume='never'); resume it, move it away or choose another path."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
            try:
                if overwrite:  # only now, when nobody else writes it
                    remove(path)
                self._connection = _connect(path)
                try:
                    self._begin(num_experts, journal_mode)
                except BaseException:
                    self._connection.close()
                    raise
            except BaseException:
                self._lock.release()
                raise
        except LoggerError:
            raise
        except (OSError, sqlite3.Error, UnicodeError, CannotMigrate) as error:
            raise LoggerError(f"{path}: cannot be opened as a run file ({error}); choose another path.") from error

    def _begin(self, num_experts: int, journal_mode: JournalMode) -> None:
        """Make the file a run, unless it is something else already, and read what it holds."""
        ask = self._connection.execute
        version = _version_of_run(self._connection, self.path)
        # For a new file: a row of a few hundred numbers does not fit twice into SQLite's usual 4096.
        ask("PRAGMA page_size = 8192")
        # DELETE unless asked for: a copy or an upload of a live WAL file silently loses rows.
        ask(f"PRAGMA journal_mode = {'WAL' if journal_mode == 'wal' else 'DELETE'}")
        ask("PRAGMA synchronous = NORMAL")
        with self.transaction():
            if version is not None:
                upgrade(self._connection, version)
            # Columns with the table, as far as there is room: to add them one by one takes seconds.
            fitting = num_experts
            while len(dynamics_columns(fitting)) > MAX_COLUMNS:
                fitting -= 1
            for statement in create_statements(fitting):
                ask(statement)
            ask(f"PRAGMA application_id = {APPLICATION_ID}")
            ask(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._columns = {row[1].casefold() for row in ask("PRAGMA table_info(dynamics)")}
        self.last_step: int | None = ask("SELECT max(step) FROM dynamics").fetchone()[0]
        self.add_columns(column.name for column in dynamics_columns(num_experts))
        ask(f"PRAGMA busy_timeout = {1000 * WRITE_SECONDS:.0f}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, ALTER TABLE included, which Python's implicit transactions would commit by itself."""
        self._connection.execute("BEGIN IMMEDIATE")
        columns = self._columns.copy()
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._columns = columns
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def add_columns(self, names: Iterable[str]) -> None:
        """Add these columns to the wide table, as long as there is room for them."""
        types = {column.name: column.type for column in STEP_COLUMNS}
        for name in names:
            if name.casefold() not in self._columns and len(self._columns) < MAX_COLUMNS:
                self._connection.execute(f'ALTER TABLE dynamics ADD COLUMN "{name}" {types.get(name, "REAL")}')
                self._columns.add(name.casefold())

    def has_column(self, name: str) -> bool:
        """Whether the wide table holds this; what it has no room for goes to `scalars`."""
        return name.casefold() in self._columns

    def empty(self, table: str) -> None:
        """Delete the rows of a table that tells what a run is made of."""
        self._connection.execute(f"DELETE FROM {table}")

    def insert(self, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
        """Insert rows, replacing those with the same key; returns the faults of rows that can never be written."""
        # Quoted, because a metric may well be called `order` or `group`; there is no quote in a name.
        if not rows:
            return []
        columns, holes = ", ".join(f'"{name}"' for name in names), ", ".join("?" * len(names))
        statement = f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({holes})"
        try:
            with self._savepoint():
                self._connection.executemany(statement, rows)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            if not is_fault_of_statement(error):
                raise
            return [fault for row in rows if (fault := self._insert_one(statement, row))]
        return []

    def _insert_one(self, statement: str, row: Sequence[Any]) -> str:
        """Empty, or the fault of a row that can never be written: it must not keep the others from the file."""
        fault = ""
        for values in (row, [_storable(value) for value in row]):
            try:
                self._connection.execute(statement, values)
                return ""
            except (sqlite3.Error, OverflowError, UnicodeError) as error:
                if not is_fault_of_statement(error):
                    raise
                fault = str(error)
        return fault

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        self._connection.execute("SAVEPOINT rows")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # a full disk may have ended it already
                self._connection.execute("ROLLBACK TO rows")
            raise
        finally:
            if self._connection.in_transaction:
                self._connection.execute("RELEASE rows")

    def delete_from(self, step: int) -> int:
        """Delete the rows of this step and of all later ones; returns how many logged steps that were."""
        steps = [
            self._connection.execute(f"DELETE FROM {table} WHERE step >= ?", (step,)).rowcount for table in BY_STEP
        ]
        return steps[0]

    def close(self) -> None:
        """Close the file, whole: what a write-ahead log holds goes into it."""
        try:
            with contextlib.suppress(sqlite3.Error):  # a reader may have it open; then the log stays beside it
                self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()
        finally:
            self._lock.release()


def _locked(path: Path) -> FileLock:
    """The lock that one writer holds. A file of its own: SQLite's locks come and go with each transaction."""
    lock = lock_of(path, LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise LoggerError(
            f"{path}: another DynamicsLogger is writing this file, here or in another process; "
            "close() that one first, or choose another path."
        ) from None
    return lock


def lock_of(path: Path, seconds: float) -> FileLock:
    """The lock of a run file, whatever link leads to it, not acquired yet."""
    return FileLock(f"{os.path.realpath(path)}.lock", timeout=seconds, thread_local=False)


def remove(path: Path) -> None:
    """Remove a run file and what SQLite keeps beside it."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    # The thread that opens the file hands it to the one that writes.
    return sqlite3.connect(path, timeout=OPEN_SECONDS, check_same_thread=False, isolation_level=None)


def _version_of_run(connection: sqlite3.Connection, path: Path) -> int | None:
    """The schema version of the run in this file; None for a file without any table."""
    ask = connection.execute
    owner, version = ask("PRAGMA application_id").fetchone()[0], ask("PRAGMA user_version").fetchone()[0]
    if owner not in (0, APPLICATION_ID):
        raise LoggerError(f"{path}: belongs to another program (application_id {owner:#x}); choose another path.")
    kinds = dict(ask("SELECT name, type FROM sqlite_master").fetchall())
    if not kinds:
        return None
    if kinds.get("dynamics") != "table":
        held = ", ".join(sorted(kinds)[:5])
        raise LoggerError(f"{path}: holds {held} but no table `dynamics`; choose another path.")
    if version > SCHEMA_VERSION:
        raise LoggerError(
            f"{path}: was written by schema version {version}, newer than the {SCHEMA_VERSION} known here; "
            "update prismatic, or choose another path."
        )
    problems = [row[0] for row in ask("PRAGMA quick_check(3)")]
    if problems != ["ok"]:
        raise LoggerError(
            f"{path}: is damaged ({problems[0]}) and cannot be written on; move it away or choose another path."
        )
    return int(version)


def is_fault_of_statement(error: Exception) -> bool:
    """Whether it is the statement that is wrong, and would be at any time, and not the state of the file."""
    return not isinstance(error, sqlite3.Error) or getattr(error, "sqlite_errorcode", 1) & 0xFF in STATEMENT_FAULTS


def _storable(value: Any) -> Any:
    """The value as SQLite can keep it: an integer beyond 64 bits as a float, another kind of number as one, or NULL."""
    if value is None or isinstance(value, float | str) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def columns_of(table: str) -> dict[str, str]:
    """The SQL type of each column of a table that has the same columns in every run file."""
    return {column.name: column.type for column in TABLES[table][0]}
