"""Tables that arrive page by page: what a page may say, and that its pages are one table."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validation.files.limits import ReadLimits
from validation.files.sandbox import received
from validation.files.sandbox.received import ProtocolError, ReceivedTables

COLUMNS = [["step", "q"], ["expert_0_top_norm", "d"]]


def numbers(*values: float) -> bytes:
    return np.array(values).tobytes()


def page_of(rows: list[tuple[Any, Any, Any]]) -> tuple[bytes, list[list[str]]]:
    """Return the values of rows of `layers` (step, norm, source) as a worker sends them, and the columns."""
    steps, norms, sources = zip(*rows, strict=True) if rows else ((), (), ())
    absent = any(step is None for step in steps)
    sent = np.array([step or 0 for step in steps], np.int64).tobytes()
    sent += bytes(step is not None for step in steps) if absent else b""
    sent += np.array([np.nan if norm is None else norm for norm in norms], np.float64).tobytes()
    texts = [None if source is None else source.encode() for source in sources]
    sent += np.array([-1 if text is None else len(text) for text in texts], np.int32).tobytes()
    sent += b"".join(filter(None, texts))
    return sent, [["step", "q?" if absent else "q"], ["norm", "d"], ["source", "t"]]


rows_of_layers = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=False),
        st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(rows_of_layers.filter(bool), min_size=1, max_size=4))
def test_pages_are_one_table(pages: list[list[tuple[Any, Any, Any]]]) -> None:
    tables = ReceivedTables(ReadLimits())
    tables.page(io.BytesIO(), "dynamics", 0, COLUMNS)
    for rows in pages:
        sent, columns = page_of(rows)
        tables.page(io.BytesIO(sent), "layers", len(rows), columns)
    every = [row for rows in pages for row in rows]
    layers = tables.finish()["layers"]
    assert [*zip(*(layers[name].to_pylist() for name in ("step", "norm", "source")), strict=True)] == every
    layers.validate(full=True)


def test_a_page_may_not_change_the_columns_of_its_table() -> None:
    tables = ReceivedTables(ReadLimits())
    tables.page(io.BytesIO(numbers(1, 2) + numbers(1, 2)), "dynamics", 2, COLUMNS)
    with pytest.raises(ProtocolError, match="other columns"):
        tables.page(io.BytesIO(numbers(1, 2) + numbers(1, 2)), "dynamics", 2, COLUMNS[::-1])


@pytest.mark.parametrize("rows", [-1, 0, 1.0, True, "1", None])
def test_every_page_but_the_first_has_rows(rows: Any) -> None:
    tables = ReceivedTables(ReadLimits())
    tables.page(io.BytesIO(), "dynamics", 0, COLUMNS)
    with pytest.raises(ProtocolError, match="beyond the limits"):
        tables.page(io.BytesIO(bytes(100)), "dynamics", rows, COLUMNS)


def test_limits_hold_for_all_pages_together() -> None:
    for limits in (ReadLimits(rows=3), ReadLimits(values=7)):
        tables = ReceivedTables(limits)
        tables.page(io.BytesIO(bytes(32)), "dynamics", 2, COLUMNS)
        with pytest.raises(ProtocolError, match="beyond the limits"):
            tables.page(io.BytesIO(bytes(32)), "dynamics", 2, COLUMNS)


def test_texts_of_all_pages_together_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "TEXT_BYTES", 5)
    tables, text = ReceivedTables(ReadLimits()), np.int32(3).tobytes() + b"abc"
    tables.page(io.BytesIO(text), "run", 1, [["key", "t"]])
    with pytest.raises(ProtocolError, match="beyond the limits"):
        tables.page(io.BytesIO(text), "run", 1, [["key", "t"]])


def test_a_table_that_is_taken_back_is_not_there() -> None:
    tables = ReceivedTables(ReadLimits())
    tables.page(io.BytesIO(), "dynamics", 0, COLUMNS)
    tables.page(io.BytesIO(bytes(8)), "layers", 1, [["step", "q"]])
    tables.drop("layers")
    with pytest.raises(ProtocolError, match="without that table"):
        tables.drop("layers")
    assert {*tables.finish()} == {"dynamics"}


def test_an_empty_table_keeps_its_columns_and_their_types() -> None:
    tables = ReceivedTables(ReadLimits())
    tables.page(io.BytesIO(), "dynamics", 0, COLUMNS)
    found = tables.finish()["dynamics"]
    assert found.schema == pa.schema([("step", pa.int64()), ("expert_0_top_norm", pa.float64())])
