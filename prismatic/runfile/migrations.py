"""Upgrades of run files from earlier schema versions: one short function per version, applied in order.

Version 0 is the documented wide table alone, as other programs write it. The caller opens the transaction and stores
the new version as `PRAGMA user_version`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from prismatic.contract.packing import is_large, pack_rows
from prismatic.contract.schema import (
    EXPERT_COLUMN,
    MAX_COLUMNS,
    PACKED_ABOVE,
    PACKED_TABLES,
    SCHEMA_VERSION,
    TABLES,
    create_statements,
    dynamics_columns,
)


class CannotMigrate(ValueError):
    """The file's table cannot be upgraded to a run of this version."""


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Apply all migrations after `version`. Raises CannotMigrate for an unsuitable table."""
    if version == SCHEMA_VERSION:
        return
    for migrate in MIGRATIONS[version:]:
        migrate(connection)
    message = f"upgraded from schema version {version} to {SCHEMA_VERSION}"
    row = (time.time(), "info", "migrated", message)
    connection.execute("INSERT INTO events (wall_time, level, code, message) VALUES (?, ?, ?, ?)", row)


def from_documented_table(connection: sqlite3.Connection) -> None:
    """Upgrade 0 to 1: make `step` the key, add all documented columns and tables, and name the experts."""
    declared = connection.execute("PRAGMA table_info(dynamics)").fetchall()
    names = [name for _, name, *_ in declared]
    if "step" not in names:
        raise CannotMigrate(f"table `dynamics` has no column `step`; its columns are {', '.join(names)[:200]}")
    keys = [(name, kind.upper()) for _, name, kind, _, _, key in declared if key]
    if keys != [("step", "INTEGER")]:
        _make_step_the_key(connection, [(name, kind) for _, name, kind, *_ in declared])
    experts = sorted({int(match[1]) for name in names if (match := EXPERT_COLUMN.fullmatch(name))})
    for statement in create_statements(0):
        connection.execute(statement)
    room = MAX_COLUMNS - len(names)  # without room for all, later rows add what fits and use `scalars` for the rest
    missing = [column for column in dynamics_columns(1 + max(experts, default=-1)) if column.name not in names]
    if len(missing) <= room:
        for column in missing:
            connection.execute(f"ALTER TABLE dynamics ADD COLUMN {column.name} {column.type}")
    for expert in experts:
        role = "perturbed" if expert else "clean"
        connection.execute("INSERT OR IGNORE INTO experts (expert, role) VALUES (?, ?)", (expert, role))


def _make_step_the_key(connection: sqlite3.Connection, columns: list[tuple[str, str]]) -> None:
    """Rebuild the table with `step` as its key; of several rows of one step, the last one stays, as for readers."""
    broken = "typeof(step) NOT IN ('integer', 'real') OR step <> CAST(step AS INTEGER)"
    bad = connection.execute(f"SELECT count(*), min(rowid) FROM dynamics WHERE {broken}").fetchone()
    if bad[0]:
        count, first = bad
        raise CannotMigrate(f"in {count} rows of table `dynamics` the step is not a whole number, first in row {first}")
    quoted = [('"' + name.replace('"', '""') + '"', kind) for name, kind in columns]
    body = ", ".join("step INTEGER PRIMARY KEY" if name == '"step"' else f"{name} {kind}" for name, kind in quoted)
    all_names = ", ".join(name for name, _ in quoted)
    connection.execute("ALTER TABLE dynamics RENAME TO dynamics_before")
    connection.execute(f"CREATE TABLE dynamics ({body})")
    connection.execute(f"INSERT OR REPLACE INTO dynamics SELECT {all_names} FROM dynamics_before ORDER BY rowid")
    connection.execute("DROP TABLE dynamics_before")


def with_half_products(connection: sqlite3.Connection) -> None:
    """Upgrade 1 to 2: give `layers` the products of half-batch gradients, which earlier probes did not measure."""
    present = {name for _, name, *_ in connection.execute("PRAGMA table_info(layers)")}
    for name in ("half_product", "half_product_clean"):
        if name not in present:  # the upgrade from version 0 makes the tables of today
            connection.execute(f"ALTER TABLE layers ADD COLUMN {name} REAL")


def with_pairs(connection: sqlite3.Connection) -> None:
    """Upgrade 2 to 3: add the table `pairs`; the noise of a batch is in the half products, no longer a column."""
    if any(name == "noise_direction" for _, name, *_ in connection.execute("PRAGMA table_info(layers)")):
        connection.execute("ALTER TABLE layers DROP COLUMN noise_direction")
    for statement in create_statements(0):
        connection.execute(statement)


def with_token_shares(connection: sqlite3.Connection) -> None:
    """Upgrade 3 to 4: add the share of tokens to `layers`."""
    known = {name for _, name, *_ in connection.execute("PRAGMA table_info(layers)")}
    if "token_share" not in known:
        connection.execute("ALTER TABLE layers ADD COLUMN token_share REAL")


def with_packed_rows(connection: sqlite3.Connection) -> None:
    """Upgrade 4 to 5: pack the rows of `layers` and `pairs` of many experts, as float32; `dynamics` stays as it is."""
    for statement in create_statements(0):
        connection.execute(statement)
    for table in PACKED_TABLES:
        (largest,) = connection.execute(f"SELECT max(expert) FROM {table}").fetchone()
        known = {column.name for column in TABLES[table][0]}
        names = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
        # Columns that another program added would be lost: then the rows stay, which readers know as well.
        if isinstance(largest, int) and largest >= PACKED_ABOVE and {*names} == known:
            _pack(connection, table, names)


def _pack(connection: sqlite3.Connection, table: str, names: list[str]) -> None:
    """Replace the rows of each step by packed ones, if they are of many experts."""
    for (step,) in connection.execute(f"SELECT DISTINCT step FROM {table} ORDER BY step").fetchall():
        found = connection.execute(f"SELECT {', '.join(names)} FROM {table} WHERE step = ?", (step,))
        rows = [dict(zip(names, row, strict=True)) for row in found]
        if not is_large(table, rows):
            continue
        try:
            packed = [{"step": step, **row} for row in pack_rows(table, rows)]
        except (TypeError, OverflowError):  # a text in place of a number, which readers report
            continue
        columns, places = ", ".join(packed[0]), ", ".join(f":{name}" for name in packed[0])
        connection.executemany(f"INSERT INTO {PACKED_TABLES[table]} ({columns}) VALUES ({places})", packed)
        connection.execute(f"DELETE FROM {table} WHERE step = ?", (step,))


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    from_documented_table,
    with_half_products,
    with_pairs,
    with_token_shares,
    with_packed_rows,
)
assert len(MIGRATIONS) == SCHEMA_VERSION, "each version needs a migration from the version before"
