"""RunFile, one run as its file holds it, and Rejected, a file that could not be read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import pyarrow as pa

from prismatic.contract import schema
from prismatic.contract.options import options_of
from validation.files.errors import RunFileError

# The tables that a RunFile keeps: `run` becomes its facts, `scalars` become columns of the wide table.
RUN_TABLES = tuple(table for table in schema.SIDE_TABLES if table not in ("run", "scalars"))


@cache
def arrow_schema(table: str) -> pa.Schema:
    """Return the Arrow types of a side table's columns."""
    types = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string(), "BLOB": pa.list_(pa.float32())}
    return pa.schema([(column.name, types[column.type]) for column in schema.TABLES[table][0]])


@cache
def empty_table(table: str) -> pa.Table:
    """Return a side table without rows."""
    return arrow_schema(table).empty_table()


@dataclass(frozen=True, eq=False)
class RunFile:
    """A run as its file holds it. All names and texts are the author's: data, never markup, SQL or a path."""

    id: str  # short, unique among the files that were read together
    name: str  # the name to show for the file
    path: Path  # for a run in an archive, the archive's path: the unpacked copy is gone
    sha256: str  # of the main file; a file that is being written may have grown since
    wide: pa.Table  # `step` int64, the rest float64, ordered by step, each step once; means of packed experts, too
    facts: dict[str, object]
    experts: pa.Table
    tiers: pa.Table
    events: pa.Table
    layers: pa.Table
    pairs: pa.Table
    histograms: pa.Table
    duplicates: int  # rows dropped because a later row has the same step
    ignored: tuple[str, ...]  # columns that were not read
    notes: tuple[str, ...]  # sentences about anything else that was not read
    wal: bool  # in WAL mode and read without its -wal: rows may be missing
    application_id: int = 0
    version: int = 0  # PRAGMA user_version: the version of the schema
    damage: tuple[str, ...] = ()  # sentences about tables that are damaged or lost: the run carries no verdict
    # Many experts as arrays, lists of float32: rows that `layers` and `pairs` do not have.
    packed_layers: pa.Table = field(default_factory=lambda: empty_table("packed_layers"))
    packed_pairs: pa.Table = field(default_factory=lambda: empty_table("packed_pairs"))
    failure: str = ""  # the error of this program on the run's contents, which were removed for that

    @property
    def config(self) -> dict[str, object]:
        """The options of the training: `config.NAME` and `option.NAME` of the facts."""
        return options_of(self.facts)

    @cached_property
    def expert_ids(self) -> tuple[int, ...]:
        """The experts that have at least one known column: 0, 1, 2, ... unless the file has gaps."""
        known = {metric.name for metric in schema.METRICS}
        matches = [schema.EXPERT_COLUMN.fullmatch(name) for name in self.wide.column_names]
        return tuple(sorted({int(match[1]) for match in matches if match and match[2] in known}))

    @property
    def num_experts(self) -> int:
        """The number of experts that have at least one known column."""
        return len(self.expert_ids)


@dataclass(frozen=True)
class Rejected:
    """A file that could not be read, and the error with the reason."""

    name: str  # the path as it was given, or the name given with it
    path: Path
    error: RunFileError


def unique_id(run: str, taken: Collection[str]) -> str:
    """Return the id, with a number appended if another run has it already."""
    number, unique = 1, run
    while unique in taken:
        number += 1
        unique = f"{run}-{number}"
    return unique
