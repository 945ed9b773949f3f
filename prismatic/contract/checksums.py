"""Checksums of the columns of a run file: the logger records them when it closes the file, and readers compare them.

SQLite notices damage of a file's structure, and not a flipped bit in a number. So the fact `checksums` in table `run`
holds, by table and column, a hash of the values in the order of the rows. It is no proof against a forger, who can
compute it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prismatic.contract.schema import EXPERT_COLUMN, ROLE_COLUMN, ROUTING_COLUMNS, STEP_COLUMNS, TABLES

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FACT = "checksums"
DIGITS = 16
KINDS = {"REAL": "d", "INTEGER": "q", "TEXT": "t", "BLOB": "b"}


class ColumnHash:
    """The hash of one column, fed with its values in any number of pieces, as two streams of little-endian bytes.

    kind "d": float64, NaN for NULL, and nothing. kind "q": int64, 0 for NULL, and a byte per row, 0 for NULL. kind "t":
    int32 lengths, -1 for NULL, and the UTF-8 of all rows. kind "b": the same with the bytes of all BLOBs.
    """

    def __init__(self) -> None:
        self._values, self._rest = hashlib.sha256(), hashlib.sha256()

    def add(self, values: ReadableBuffer, rest: ReadableBuffer = b"") -> None:
        """Add the next values of both streams."""
        self._values.update(values)
        if rest:
            self._rest.update(rest)

    def hexdigest(self) -> str:
        """Return the hash as DIGITS hex digits."""
        return hashlib.sha256(self._values.digest() + self._rest.digest()).hexdigest()[:DIGITS]


def covered_columns(table: str, names: Iterable[str]) -> dict[str, str]:
    """Return the kind (d, q, t or b) of each of these columns that has a checksum: those that every reader knows."""
    if table == "dynamics":
        known = {column.name for column in (*STEP_COLUMNS, *ROUTING_COLUMNS)}
        return {
            name: "q" if name == "step" else "d"
            for name in names
            if name in known or (name.isascii() and (EXPERT_COLUMN.fullmatch(name) or ROLE_COLUMN.fullmatch(name)))
        }
    kinds = {column.name: KINDS[column.type] for column in TABLES[table][0]}
    return {name: kinds[name] for name in names if name in kinds}
