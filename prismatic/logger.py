"""DynamicsLogger: the only writer of dynamics.db.

Training is never stopped by it. Rows wait in memory and go to the file in one short transaction per `flush_seconds`;
when the file is locked or the disk is full they wait on, up to a bound; what is dropped beyond it is counted and said.
"""

from __future__ import annotations

import atexit
import json
import re
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, SupportsFloat

from prismatic.errors import LoggerError
from prismatic.schema import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    STEP_COLUMNS,
    TABLES,
    create_statements,
    dynamics_columns,
)

METRIC_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
MAX_WAITING = 20_000  # statements; at 30 scalars each about 10 MB
BUSY_SECONDS = 0.2  # how long a flush may wait for a reader's lock before it leaves the rows for the next one
CLOSE_SECONDS = 10.0  # the same for the last flush, after which there is no next one
# SQLite's codes for what is wrong with one statement whatever the file's state: error (no such column, too many
# columns), too big, constraint, mismatch, range.
STATEMENT_FAULTS = {1, 18, 19, 20, 25}


class DynamicsLogger:
    """Writes gradient dynamics to a SQLite file, one row of the wide table per logged step.

    db_path: the file; folders are made. num_experts: makes all columns at once, else they come with the first row.
    flush_seconds: rows older than this are on disk after the next call. Use it as a context manager, or `close()` it.
    Raises LoggerError if the path cannot be written or holds something that is no run.
    """

    def __init__(self, db_path: Path | str, num_experts: int = 0, *, flush_seconds: float = 1.0):
        self.db_path = Path(db_path)
        self.flush_seconds = flush_seconds
        self.dropped = 0
        self._waiting: list[tuple[str, tuple[Any, ...]]] = []
        self._waiting_columns: list[tuple[str, tuple[Any, ...]]] = []
        self._last_flush = -float("inf")
        self._warned = False
        self._closed = False
        self._said: set[str] = set()
        self._open(num_experts)
        self._ensure_schema(num_experts)
        atexit.register(self.close)

    def _open(self, num_experts: int) -> None:
        try:
            self.db_path.parent.mkdir(parents=True, exist_ok=True)
            # Any thread may log (a trainer's callback often runs in another), never two at once.
            self._connection = sqlite3.connect(
                self.db_path, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None
            )
            try:
                self._create_tables(num_experts)
            except BaseException:
                self._connection.close()
                raise
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, LoggerError):
                raise
            raise LoggerError(
                f"{self.db_path}: cannot be opened as a run file ({error}); choose another path."
            ) from error

    def _create_tables(self, num_experts: int) -> None:
        """Make this file a run, unless it is something else already, and read what it holds."""
        ask = self._connection.execute
        owner = ask("PRAGMA application_id").fetchone()[0]
        if owner not in (0, APPLICATION_ID):
            raise LoggerError(
                f"{self.db_path}: belongs to another program (application_id {owner:#x}); choose another path."
            )
        kinds = dict(ask("SELECT name, type FROM sqlite_master").fetchall())
        if kinds and kinds.get("dynamics") != "table":
            raise LoggerError(
                f"{self.db_path}: holds {', '.join(sorted(kinds)[:5])} but no table `dynamics`; choose another path."
            )
        # DELETE, not WAL: a copy or an upload of a live WAL file silently loses rows.
        ask("PRAGMA journal_mode = DELETE")
        ask("PRAGMA synchronous = NORMAL")
        with self._transaction():
            for statement in create_statements(num_experts):
                ask(statement)
            ask(f"PRAGMA application_id = {APPLICATION_ID}")
            ask(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._columns = {row[1] for row in ask("PRAGMA table_info(dynamics)")}
        self._last_step: int | None = ask("SELECT max(step) FROM dynamics").fetchone()[0]

    def _ensure_schema(self, num_experts: int = 0) -> None:
        """Add the columns of `num_experts` experts where they do not exist yet, now or once the file is free."""
        self._add_columns(column.name for column in dynamics_columns(num_experts))
        self.flush()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, ALTER TABLE included, which Python's implicit transactions would commit by itself."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def log(self, step: int, dynamics: Mapping[str, Any] | None, **metrics: SupportsFloat) -> None:
        """Log what `log_gradient_dynamics` returned, and further scalars of the step such as `loss`.

        Nothing is written for None or a dict without `expert_gradients`. A step that was logged before is replaced.
        """
        if not dynamics or "expert_gradients" not in dynamics:
            return
        step = int(step)
        row: dict[str, Any] = {"step": step, "wall_time": time.time()}
        for expert, values in dynamics["expert_gradients"].items():
            row |= {f"{expert}_{metric}": value for metric, value in values.items()}
        row |= dynamics.get("divergence_scores", {})
        row |= {name: dynamics[name] for name in ("nonfinite", "missing_gradients") if name in dynamics}
        self._check_rewind(step)
        self._insert("dynamics", row | metrics)
        for table in ("layers", "histograms"):
            for own in dynamics.get(table, ()):
                self._insert(table, {"step": step, **own})
        self._flush_if_due()

    def log_dynamics(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        """The documented name of `log` in a hand-written training loop."""
        self.log(step, metrics)

    def log_run(self, facts: Mapping[str, Any]) -> None:
        """Record facts about the run, each a JSON scalar or list; a fact that was recorded before is replaced."""
        for key, value in facts.items():
            self._insert("run", {"key": key, "value": json.dumps(value, default=str)})
        self._flush_if_due()

    def log_table(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record rows of `experts` or `tiers`, by column name."""
        for row in rows:
            self._insert(table, row)
        self._flush_if_due()

    def event(self, code: str, message: str, *, level: str = "info", step: int | None = None) -> None:
        """Record that something happened which a reader of the run should know."""
        row = {"step": step, "wall_time": time.time(), "level": level, "code": code, "message": message}
        self._insert("events", row)

    def _check_rewind(self, step: int) -> None:
        if step == self._last_step:
            self.event(
                "repeated_step", f"step {step} was logged twice; the later row stands", level="warning", step=step
            )
        elif self._last_step is not None and step < self._last_step:
            self.event(
                "rewind", f"step {step} came after step {self._last_step}; rows of re-run steps are replaced", step=step
            )
        self._last_step = step

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        types = {c.name: c.type for c in (TABLES[table][0] if table in TABLES else STEP_COLUMNS)}
        plain = {}
        for name, value in row.items():
            try:
                plain[name] = _plain(name, value, types.get(name, "REAL"))
            except (TypeError, ValueError, OverflowError, RuntimeError) as error:
                self._say_once(name, "refused_value", f"{name!r} is not logged: {error}")
        if table == "dynamics":
            self._add_columns(plain)
        # Quoted, because a metric may well be called `order` or `group`; _plain let no quote into a name.
        names, holes = ", ".join(f'"{name}"' for name in plain), ", ".join("?" * len(plain))
        self._wait(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({holes})", tuple(plain.values()))

    def _add_columns(self, names: Iterable[str]) -> None:
        types = {column.name: column.type for column in STEP_COLUMNS}
        for name in names:
            if name not in self._columns:
                self._columns.add(name)
                statement = f'ALTER TABLE dynamics ADD COLUMN "{name}" {types.get(name, "REAL")}'
                self._waiting_columns.append((statement, ()))

    def _wait(self, statement: str, values: tuple[Any, ...]) -> None:
        self._waiting.append((statement, values))
        if len(self._waiting) > MAX_WAITING:
            # The oldest measurement goes; facts and events are few, and only they can explain what is missing.
            measured = tuple(f"INSERT OR REPLACE INTO {table} " for table in ("dynamics", "layers", "histograms"))
            del self._waiting[next((i for i, (sql, _) in enumerate(self._waiting) if sql.startswith(measured)), 0)]
            self.dropped += 1

    def _say_once(self, key: str, code: str, message: str) -> None:
        """What can be no column, no number or no row becomes an event and a warning, once; training never stops."""
        if key not in self._said:
            self._said.add(key)
            self.event(code, message, level="warning")
            warnings.warn(f"{self.db_path}: {message}", RuntimeWarning, stacklevel=4)

    def _flush_if_due(self) -> None:
        if time.monotonic() - self._last_flush >= self.flush_seconds:
            self.flush()

    def flush(self) -> bool:
        """Write what waits, in one transaction. False if the file could not be written; the rows then wait on."""
        self._last_flush = time.monotonic()
        if not self._waiting and not self._waiting_columns:
            return True
        faults: list[str] = []
        try:
            with self._transaction():
                for statement, values in (*self._waiting_columns, *self._waiting):
                    faults += self._execute(statement, values)
        except sqlite3.Error as error:
            self._warn(error)
            return False
        self._waiting_columns.clear()
        self._waiting.clear()
        self.dropped += len(faults)
        for fault in faults:
            self._say_once(fault, "refused_row", f"a row or column is not logged: {fault}")
        return self.flush()  # the events just made

    def _execute(self, statement: str, values: tuple[Any, ...]) -> list[str]:
        """Empty, or the fault of a statement that can never succeed: it must not keep the others from the file."""
        try:
            self._connection.execute(statement, values)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            if (
                isinstance(error, sqlite3.Error)
                and getattr(error, "sqlite_errorcode", 0) & 0xFF not in STATEMENT_FAULTS
            ):
                raise
            return [str(error)]
        return []

    def _warn(self, error: sqlite3.Error) -> None:
        """Say once that the file cannot be written now; training goes on."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.db_path} cannot be written now ({error}); training goes on and rows wait in memory.",
                RuntimeWarning,
                stacklevel=4,
            )

    def close(self) -> None:
        """Write what waits and close the file. What could not be written is counted in `dropped` and said."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._connection.execute(f"PRAGMA busy_timeout = {1000 * CLOSE_SECONDS:.0f}")
        if self.dropped:
            self.event("dropped", f"{self.dropped} statements were dropped", level="error")
        if not self.flush():
            self.dropped += len(self._waiting)
            self._waiting.clear()
            warnings.warn(f"{self.db_path}: {self.dropped} statements were lost.", RuntimeWarning, stacklevel=2)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain(name: str, value: Any, kind: str) -> Any:
    """A Python scalar: sqlite3 would store numpy.float32 as bytes and refuse numpy.int64 as a key.

    Raises ValueError for a name that is no column, and what float() or int() raise for a value that is no number.
    """
    if not METRIC_NAME.fullmatch(name):
        raise ValueError("a column's name has lower-case letters, digits and underscores, at most 63")
    if hasattr(value, "item"):  # numpy and torch; float() would warn of a tensor that requires a gradient
        value = value.item()
    if value is None or isinstance(value, str):
        return value if value is None or kind == "TEXT" else float(value)
    return int(value) if kind == "INTEGER" else float(value)
