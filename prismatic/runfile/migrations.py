"""What makes a file of an earlier schema version one of this version: short functions, applied in order.

Version 0 is the documented wide table by itself, as other programs write it. Each function runs within a transaction
that its caller holds; the version is remembered in the file as `PRAGMA user_version`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from prismatic.contract.schema import EXPERT_COLUMN, MAX_COLUMNS, SCHEMA_VERSION, create_statements, dynamics_columns


class CannotMigrate(ValueError):
    """The file holds something that cannot become a run of this version."""


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Apply every migration after `version`. Raises CannotMigrate for a table that cannot be one of a run."""
    for number, migrate in enumerate(MIGRATIONS[version:], start=version + 1):
        migrate(connection)
        message = f"upgraded from schema version {number - 1} to {number}"
        row = (time.time(), "info", "migrated", message)
        connection.execute("INSERT INTO events (wall_time, level, code, message) VALUES (?, ?, ?, ?)", row)


def from_the_documented_table(connection: sqlite3.Connection) -> None:
    """0 to 1: step becomes the key, every documented column and table is there, the experts are named."""
    declared = connection.execute("PRAGMA table_info(dynamics)").fetchall()
    names = [name for _, name, *_ in declared]
    if "step" not in names:
        raise CannotMigrate(f"table `dynamics` has no column `step`; its columns are {', '.join(names)[:200]}.")
    keys = [(name, kind.upper()) for _, name, kind, _, _, key in declared if key]
    if keys != [("step", "INTEGER")]:
        _make_step_the_key(connection, [(name, kind) for _, name, kind, *_ in declared])
    experts = sorted({int(match[1]) for name in names if (match := EXPERT_COLUMN.fullmatch(name))})
    for statement in create_statements(0):
        connection.execute(statement)
    room = MAX_COLUMNS - len(names)  # what has no room now comes with the first row, elsewhere
    missing = [column for column in dynamics_columns(1 + max(experts, default=-1)) if column.name not in names]
    if len(missing) <= room:
        for column in missing:
            connection.execute(f"ALTER TABLE dynamics ADD COLUMN {column.name} {column.type}")
    for expert in experts:
        role = "perturbed" if expert else "clean"
        connection.execute("INSERT OR IGNORE INTO experts (expert, role) VALUES (?, ?)", (expert, role))


def _make_step_the_key(connection: sqlite3.Connection, columns: list[tuple[str, str]]) -> None:
    """The same table with `step` as its key; of several rows of one step the last stays, as when it is read."""
    broken = "typeof(step) NOT IN ('integer', 'real') OR step <> CAST(step AS INTEGER)"
    bad = connection.execute(f"SELECT count(*), min(rowid) FROM dynamics WHERE {broken}").fetchone()
    if bad[0]:
        raise CannotMigrate(f"{bad[0]} rows of table `dynamics` have no whole number as step, first row {bad[1]}.")
    quoted = [('"' + name.replace('"', '""') + '"', kind) for name, kind in columns]
    body = ", ".join("step INTEGER PRIMARY KEY" if name == '"step"' else f"{name} {kind}" for name, kind in quoted)
    every = ", ".join(name for name, _ in quoted)
    connection.execute("ALTER TABLE dynamics RENAME TO dynamics_before")
    connection.execute(f"CREATE TABLE dynamics ({body})")
    connection.execute(f"INSERT OR REPLACE INTO dynamics SELECT {every} FROM dynamics_before ORDER BY rowid")
    connection.execute("DROP TABLE dynamics_before")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (from_the_documented_table,)
assert len(MIGRATIONS) == SCHEMA_VERSION, "each version has a migration from the one before"
