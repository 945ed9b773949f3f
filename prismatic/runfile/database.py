"""An open run file: the checks before it is opened for writing, its lock, and all SQL statements that change it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from prismatic.contract.schema import (
    APPLICATION_ID,
    MAX_COLUMNS,
    SCHEMA_VERSION,
    STEP_COLUMNS,
    STEP_TABLES,
    TABLES,
    create_statements,
    dynamics_columns,
)
from prismatic.errors import LoggerError
from prismatic.runfile.checksums import RunningChecksums, record_checksums, remove_checksums
from prismatic.runfile.lock import IsLocked, WriterLock
from prismatic.runfile.migrations import CannotMigrate, upgrade
from prismatic.sandbox.sqlite_file import BESIDE, special_beside

Resume = Literal["never", "allow", "must"]
JournalMode = Literal["delete", "wal"]

LOCK_SECONDS = 0.3  # how long to wait for a logger that is being closed
OPEN_SECONDS, WRITE_SECONDS = 0.5, 5.0  # how long to wait for a reader's lock
# SQLite's codes for a fault of one statement, whatever the file's state: error (no such column, too many columns),
# too big, constraint, mismatch, range.
STATEMENT_FAULTS = {1, 18, 19, 20, 25}


class RunDatabase:
    """The tables of a run file, locked for one writer.

    Raises LoggerError if the path cannot be written, has another writer, holds something other than a run, a damaged
    run or one of a later schema version, or if a run exists against `resume="never"` or is missing with "must".
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
        self._checksums = RunningChecksums()
        self.last_step: int | None = None
        """The largest step in the file, those of an unfinished transaction included."""
        if resume == "must" and not path.exists():
            raise LoggerError(f"{path}: no run to resume (resume='must'); start it with resume='allow'.")
        if resume == "never" and path.exists() and not overwrite:
            raise LoggerError(
                f"{path}: already exists (resume='never'); resume it, move it away or choose another path."
            )
        if beside := special_beside(str(path)):
            raise LoggerError(f"{beside}: is no regular file, and SQLite would wait for it; move it away.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path)
            try:
                if overwrite:
                    self._replace_file()
                self._connection = _connect(path)
                try:
                    self._initialize(num_experts, journal_mode)
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

    def _replace_file(self) -> None:
        """Delete the file, which the lock shows to have no other writer, and lock a new one."""
        if os.name == "nt":  # Windows deletes no file that is open
            self._lock.release()
        remove(self.path)
        self._lock.release()
        self._lock = _lock(self.path)

    def _initialize(self, num_experts: int, journal_mode: JournalMode) -> None:
        """Create or upgrade the tables, and read the columns and the last step."""
        execute = self._connection.execute
        version = _version_of_run(self._connection, self.path, self._checksums)
        # SQLite's default page of 4096 bytes does not hold two rows of a few hundred numbers.
        execute("PRAGMA page_size = 8192")
        # DELETE by default: a copy or an upload of a live WAL file silently loses rows.
        execute(f"PRAGMA journal_mode = {'WAL' if journal_mode == 'wal' else 'DELETE'}")
        execute("PRAGMA synchronous = NORMAL")
        # In KiB. A transaction that does not fit would lock readers out before its end, to write pages early.
        execute("PRAGMA cache_size = -16000")
        with self.transaction():
            if version not in (None, SCHEMA_VERSION):
                self._checksums.forget(*STEP_TABLES)
                upgrade(self._connection, version)
            # Create as many columns as fit with the table: adding them one by one takes seconds.
            fitting = num_experts
            while len(dynamics_columns(fitting)) > MAX_COLUMNS:
                fitting -= 1
            for statement in create_statements(fitting):
                execute(statement)
            remove_checksums(self._connection)
            execute(f"PRAGMA application_id = {APPLICATION_ID}")
            execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._columns = {row[1].casefold() for row in execute("PRAGMA table_info(dynamics)")}
        self.last_step = execute("SELECT max(step) FROM dynamics").fetchone()[0]
        self.add_columns(column.name for column in dynamics_columns(num_experts))
        execute(f"PRAGMA busy_timeout = {1000 * WRITE_SECONDS:.0f}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one transaction, ALTER TABLE included; Python's implicit transactions would commit that."""
        self._connection.execute("BEGIN IMMEDIATE")
        columns, last_step = self._columns.copy(), self.last_step
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._columns, self.last_step = columns, last_step
            self._checksums.roll_back()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._checksums.commit()

    def add_columns(self, names: Iterable[str]) -> None:
        """Add missing columns to the wide table until it has MAX_COLUMNS."""
        types = {column.name: column.type for column in STEP_COLUMNS}
        for name in names:
            if name.casefold() not in self._columns and len(self._columns) < MAX_COLUMNS:
                self._connection.execute(f'ALTER TABLE dynamics ADD COLUMN "{name}" {types.get(name, "REAL")}')
                self._columns.add(name.casefold())

    def has_column(self, name: str) -> bool:
        """Return whether the wide table has this column; values without a column go to `scalars`."""
        return name.casefold() in self._columns

    def clear(self, table: str) -> None:
        """Delete all rows of a table."""
        self._checksums.forget(table)
        self._connection.execute(f"DELETE FROM {table}")

    def insert(self, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
        """Insert rows, replacing those with the same key; return the faults of rows that cannot be written.

        Rows of one step that replace each other are a fault, too. Facts of the run are meant to.
        """
        if not rows:
            return []
        values = _into(table, tuple(names))
        try:
            with self._savepoint():
                self._connection.executemany(f"INSERT {values}", rows)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            if not is_statement_fault(error):
                raise
            self._checksums.forget(table)
            return [fault for row in rows if (fault := self._insert_one(table, values, row))]
        self._checksums.stage(table, names, rows)
        return []

    def _insert_one(self, table: str, into: str, row: Sequence[Any]) -> str:
        """Insert one row; return its fault if it can never be written or replaced another one, else an empty string."""
        fault = ""
        for values in (row, [_to_storable(value) for value in row]):
            try:
                with suppress(sqlite3.IntegrityError):
                    self._connection.execute(f"INSERT {into}", values)
                    return ""
                self._connection.execute(f"INSERT OR REPLACE {into}", values)
                return same_key(table) if table in STEP_TABLES else ""
            except (sqlite3.Error, OverflowError, UnicodeError) as error:
                if not is_statement_fault(error):
                    raise
                fault = str(error)
        return fault

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        self._connection.execute("SAVEPOINT rows")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # a full disk may have ended the transaction already
                self._connection.execute("ROLLBACK TO rows")
            raise
        finally:
            if self._connection.in_transaction:
                self._connection.execute("RELEASE rows")

    def delete_from(self, step: int) -> int:
        """Delete the rows of this and all later steps; return the number of deleted steps."""
        deleted = self._delete(">=", step)
        self.last_step = self._connection.execute("SELECT max(step) FROM dynamics").fetchone()[0]
        return deleted

    def delete_step(self, step: int) -> bool:
        """Delete the rows of this step; return whether there was such a step."""
        return -(2**63) <= step < 2**63 and self._delete("=", step) > 0

    def _delete(self, comparison: str, step: int) -> int:
        """Delete the rows of steps that compare so; return the number of deleted steps."""
        counts = {
            table: self._connection.execute(f"DELETE FROM {table} WHERE step {comparison} ?", (step,)).rowcount
            for table in STEP_TABLES
        }
        self._checksums.forget(*(table for table, count in counts.items() if count))
        return counts["dynamics"]

    def record_checksums(self) -> None:
        """Record the checksums of all columns, after the last row; do nothing if the file cannot be written now."""
        with suppress(sqlite3.Error), self.transaction():
            record_checksums(self._connection, self._checksums)

    def close(self) -> None:
        """Close the file, after moving the contents of a write-ahead log into it."""
        try:
            with suppress(sqlite3.Error):  # an open reader prevents this; the log then stays
                self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()
        finally:
            self._lock.release()


def _lock(path: Path) -> WriterLock:
    """Lock a file for this writer, which lasts longer than the locks that SQLite takes for a transaction."""
    lock = WriterLock(path)
    try:
        lock.acquire(LOCK_SECONDS)
    except IsLocked:
        raise LoggerError(
            f"{path}: another DynamicsLogger is writing this file, in this or another process; "
            "close() that one first, or choose another path."
        ) from None
    return lock


def remove(path: Path) -> None:
    """Delete a run file and the files that SQLite keeps beside it."""
    for suffix in ("", *BESIDE):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    # check_same_thread=False: one thread opens the file and another writes it.
    return sqlite3.connect(path, timeout=OPEN_SECONDS, check_same_thread=False, isolation_level=None)


def _version_of_run(connection: sqlite3.Connection, path: Path, checksums: RunningChecksums) -> int | None:
    """Return the schema version of the run in this file, and compare its checksums; None for a file without table."""
    execute = connection.execute
    owner, version = execute("PRAGMA application_id").fetchone()[0], execute("PRAGMA user_version").fetchone()[0]
    if owner not in (0, APPLICATION_ID):
        raise LoggerError(f"{path}: belongs to another program (application_id {owner:#x}); choose another path.")
    types = dict(execute("SELECT name, type FROM sqlite_master").fetchall())
    if not types:
        return None
    if types.get("dynamics") != "table":
        found = ", ".join(sorted(types)[:5])
        raise LoggerError(f"{path}: holds {found} but no table `dynamics`; choose another path.")
    if version > SCHEMA_VERSION:
        raise LoggerError(
            f"{path}: has schema version {version}, newer than version {SCHEMA_VERSION} known here; "
            "update prismatic, or choose another path."
        )
    problems = [row[0] for row in execute("PRAGMA quick_check(3)")]
    if problems != ["ok"]:
        raise LoggerError(
            f"{path}: is damaged ({problems[0]}) and cannot be continued; move it away or choose another path."
        )
    if changed := checksums.resume(connection):
        raise LoggerError(
            f"{path}: the values of {changed} are not those that were written, so it is damaged or was edited, and "
            "cannot be continued; move it away or choose another path."
        )
    return int(version)


def same_key(table: str) -> str:
    """Return the fault of rows that replace each other."""
    return f"two rows of `{table}` have the same key, and the later one is kept"


@lru_cache(maxsize=100)
def _into(table: str, names: tuple[str, ...]) -> str:
    """Return the end of an INSERT; consecutive ones share one text, which sqlite3 finds in its cache of statements."""
    # Names are quoted because a metric may be called `order` or `group`; no name contains a quote.
    columns, placeholders = ", ".join(f'"{name}"' for name in names), ", ".join("?" * len(names))
    return f"INTO {table} ({columns}) VALUES ({placeholders})"


def is_statement_fault(error: Exception) -> bool:
    """Return whether an error comes from the statement itself, so that a retry cannot help."""
    return not isinstance(error, sqlite3.Error) or getattr(error, "sqlite_errorcode", 1) & 0xFF in STATEMENT_FAULTS


def _to_storable(value: Any) -> Any:
    """Return a value that SQLite can store: integers beyond 64 bits and other numbers as floats, the rest as NULL."""
    if value is None or isinstance(value, float | str) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def column_types(table: str) -> dict[str, str]:
    """Return the SQL type of each column of a table other than the wide one."""
    return {column.name: column.type for column in TABLES[table][0]}
