"""Packed rows read back, against a second implementation by struct, number by number."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic.contract.packing import LAYOUTS, PackedRows, is_large, pack, pack_rows, unpack, unpack_row
from prismatic.contract.schema import LAYERS_COLUMNS, PACKED_ABOVE, PAIRS_COLUMNS

NUMBERS = st.one_of(st.none(), st.floats(width=32, allow_nan=False))
LAYER_METRICS = LAYERS_COLUMNS[4:]
PAIR_METRICS = ("half_product", "weight_distance", "output_distance")


def numbers_of(blob: bytes) -> list[float | None]:
    """The obvious way: one number after the other."""
    found = [struct.unpack("<f", blob[at : at + 4])[0] for at in range(0, len(blob), 4)]
    return [None if math.isnan(number) else number for number in found]


@given(st.lists(NUMBERS, max_size=200))
def test_an_array_holds_each_number_as_little_endian_float32(values: list[float | None]):
    blob = pack(values)
    assert unpack(blob, len(values)) == values
    assert (blob is None) == all(value is None for value in values)
    if blob is not None:
        assert numbers_of(blob) == values
    if values:
        assert pack(np.array(values, dtype=np.float64)) == blob


def test_numbers_beyond_float32_are_infinite_or_zero():
    assert numbers_of(pack([1e300, -1e300, 1e-300, 2.0**24 + 1]) or b"") == [math.inf, -math.inf, 0.0, 2.0**24]


@pytest.mark.parametrize("blob", [b"", b"abc", bytes(7), bytes(12)])
def test_an_array_of_another_length_is_an_error(blob: bytes):
    with pytest.raises(ValueError, match=f"{len(blob)} bytes does not hold 2 numbers"):
        unpack(blob, 2)


@st.composite
def layer_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    experts = draw(st.sets(st.integers(0, 40), max_size=8)) | {PACKED_ABOVE}
    keys = [(layer, source, e) for layer in (0, 3) for source in ("merged", "isolated") for e in sorted(experts)]
    rows = []
    for layer, source, expert in draw(st.permutations(keys)):
        values = {c.name: draw(NUMBERS if c.type == "REAL" else st.integers(0, 2**24)) for c in LAYER_METRICS}
        rows.append({"layer": layer, "expert": expert, "source": source, **values})
    return rows


@settings(deadline=None, max_examples=10)
@given(layer_rows())
def test_rows_of_layers_come_back_in_the_order_of_the_experts(rows: list[dict[str, Any]]):
    assert is_large("layers", rows)
    packed = pack_rows("layers", rows)
    assert len(packed) == len({(row["layer"], row["source"]) for row in rows})
    back = PackedRows("layers", packed)

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["layer"], row["source"], row["expert"]

    assert sorted(back, key=place) == sorted(rows, key=place)
    assert [row["expert"] for row in back] == [e for row in packed for e in experts_of(rows, row)]


def experts_of(rows: list[dict[str, Any]], packed: dict[str, Any]) -> list[int]:
    own = (packed["layer"], packed["source"])
    return sorted(row["expert"] for row in rows if (row["layer"], row["source"]) == own)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), unique=True, min_size=1), st.data())
def test_rows_of_pairs_keep_their_order_and_their_numbers(pairs: list[tuple[int, int]], data: st.DataObject):
    values = [{name: data.draw(NUMBERS) for name in PAIR_METRICS} for _ in pairs]
    rows = [{"layer": 2, "expert": e, "other": f, **own} for (e, f), own in zip(pairs, values, strict=True)]
    (packed,) = pack_rows("pairs", rows)
    assert [*unpack_row("pairs", packed)] == rows
    assert is_large("pairs", rows) == (max(map(max, pairs)) >= PACKED_ABOVE)


def test_an_expert_without_any_value_has_no_row():
    rows = [{"layer": 0, "source": "merged", "expert": e, "norm": 1.0} for e in (0, 2, 35)]
    (packed,) = pack_rows("layers", rows)
    assert packed["experts"] == 36
    assert [row["expert"] for row in unpack_row("layers", packed)] == [0, 2, 35]


def test_the_layouts_hold_every_column_of_their_tables():
    for table, columns in (("layers", LAYERS_COLUMNS), ("pairs", PAIRS_COLUMNS)):
        layout = LAYOUTS[table]
        implied = {"expert"} if layout.numbered else set()
        assert {*layout.key, *layout.arrays} | implied == {column.name for column in columns}


@pytest.mark.parametrize("expert", [-1, 10_000, 2.0, "40", None, True])
def test_rows_of_an_odd_expert_stay_rows(expert: object):
    assert not is_large("layers", [{"expert": 40}, {"expert": expert}])
    assert not is_large("histograms", [{"expert": 40}])
