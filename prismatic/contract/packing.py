"""Packed rows: one row of `packed_layers` in place of a row of `layers` for each of many experts, and `pairs` alike.

A packed row has a BLOB for each metric: little-endian float32, one for each expert (or pair), NaN for NULL. A BLOB that
is NULL has no value for any of them. An expert whose arrays all hold NaN has no row.
Training writes and judging reads by this file, so it imports the standard library only.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, overload

from prismatic.contract.schema import PACKED_ABOVE, PACKED_TABLES, TABLES

NAN = float("nan")
MAX_EXPERT = 9999  # the largest number of an expert, as in the names of columns


class Layout(NamedTuple):
    """The way in which the rows of a table are packed."""

    packed: str
    """The packed table."""
    key: tuple[str, ...]
    """Columns that are the same in all rows of a packed one."""
    length: str
    """The column with the length of the arrays."""
    arrays: tuple[str, ...]
    """The columns that become arrays."""
    integers: frozenset[str]
    """The arrays whose values are integers."""
    numbered: bool
    """True if place i of an array belongs to expert i, so that the numbers of the experts are not stored."""


def _layout(table: str) -> Layout:
    columns, _ = TABLES[PACKED_TABLES[table]]
    arrays = tuple(column.name for column in columns if column.type == "BLOB")
    key = tuple(c.name for c in columns if c.type != "BLOB" and c.name in {own.name for own in TABLES[table][0]})
    (length,) = (column.name for column in columns if column.name not in (*arrays, *key))
    integers = frozenset(column.name for column in TABLES[table][0] if column.type == "INTEGER")
    return Layout(PACKED_TABLES[table], key, length, arrays, integers & {*arrays}, "expert" not in arrays)


LAYOUTS = {table: _layout(table) for table in PACKED_TABLES}


def pack(values: Any) -> bytes | None:
    """Return numbers as a BLOB; None if all are NaN or None. Numbers beyond float32 become infinite.

    values: numbers or None, or a numpy array, which takes a hundredth of the time.
    """
    if hasattr(values, "astype"):
        return None if (values != values).all() else bytes(values.astype("<f4").tobytes())
    numbers = array("f", [NAN if value is None else value for value in values])
    if all(number != number for number in numbers):  # NaN differs from itself
        return None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def unpack(blob: bytes | None, count: int) -> list[float | None]:
    """Return the numbers of a BLOB, None for NaN. Raises ValueError unless it holds `count` of them."""
    if blob is None:
        return [None] * count
    if len(blob) != 4 * count:
        raise ValueError(f"an array of {len(blob)} bytes does not hold {count} numbers of 4 bytes")
    numbers = array("f", blob)
    if sys.byteorder == "big":
        numbers.byteswap()
    return [number if number == number else None for number in numbers]


def is_large(table: str, rows: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether these rows are of so many experts that they are stored packed, and can be."""
    if table not in LAYOUTS:
        return False
    numbers: list[Any] = [row.get(name) for row in rows for name in ("expert", "other") if name in row]
    known = all(type(number) is int and 0 <= number <= MAX_EXPERT for number in numbers)
    return known and max(numbers, default=0) >= PACKED_ABOVE


def pack_rows(table: str, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of `layers` or `pairs` packed; later rows of one expert replace earlier ones. Needs `is_large`."""
    layout = LAYOUTS[table]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in layout.key), []).append(row)
    return [
        {name: value for name, value in zip(layout.key, key, strict=True) if name in own[0]} | _arrays(layout, own)
        for key, own in groups.items()
    ]


def _arrays(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the length and the arrays of one packed row."""
    if layout.numbered:
        by_expert = {row["expert"]: row for row in rows}
        rows = [by_expert.get(expert, {}) for expert in range(1 + max(by_expert))]
    return {layout.length: len(rows), **{name: pack(row.get(name) for row in rows) for name in layout.arrays}}


def unpack_row(table: str, packed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of `layers` or `pairs` that a packed row stands for. Raises ValueError for a BLOB of wrong length.

    Arrays that the packed row lacks are None in every row.
    """
    layout = LAYOUTS[table]
    count = packed[layout.length]
    columns = {name: unpack(packed.get(name), count) for name in layout.arrays}
    for name in layout.integers:
        columns[name] = [None if value is None else int(value) for value in columns[name]]
    key = {name: packed[name] for name in layout.key if name in packed}
    for place, values in enumerate(zip(*columns.values(), strict=True)):
        if any(value is not None for value in values):
            number = {"expert": place} if layout.numbered else {}
            yield {**key, **number, **dict(zip(columns, values, strict=True))}


class PackedRows(Sequence[dict[str, Any]]):
    """The rows of `layers` or `pairs` of one step, kept packed: those of thousands of experts are never made as dicts.

    It reads like a list of rows, which are unpacked when one is first read.
    """

    def __init__(self, table: str, packed: Iterable[Mapping[str, Any]]) -> None:
        self.table = table
        self.packed = tuple(packed)

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return [row for packed in self.packed for row in unpack_row(self.table, packed)]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self._rows[place]

    def __add__(self, other: PackedRows) -> PackedRows:
        return PackedRows(self.table, (*self.packed, *other.packed))
