"""The result of a query: names of its columns, and its rows as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from validation.files.sandbox.received import ProtocolError
from validation.query.result import format_rows, python_rows, result_table


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x", "y", "x"], ["x", "y", "x_1"]),
        (["x", "x", "x_1"], ["x", "x_2", "x_1"]),
        (["x", "x_1", "x_1", "x"], ["x", "x_1", "x_1_1", "x_2"]),
        (["x", "x", "x"], ["x", "x_1", "x_2"]),
        (["x", "X"], ["x", "X"]),
        (["", ""], ["", "_1"]),
        (["x", "x_1", "x", "x_2", "x"], ["x", "x_1", "x_3", "x_2", "x_4"]),
    ],
)
def test_each_column_keeps_its_cells_in_every_format(names: list[str], expected: list[str]):
    cells = [*range(len(names))]
    table = result_table([(name, "integer") for name in names], [cells])
    assert table.column_names == expected
    rows = [dict(zip(expected, cells, strict=True))]
    assert json.loads(format_rows(table, "json")) == python_rows(table) == rows
    assert [*csv.reader(io.StringIO(format_rows(table, "csv")))] == [expected, [*map(str, cells)]]
    assert format_rows(table, "table").splitlines()[-1].split() == [*map(str, cells)]


def test_very_many_columns_of_one_name_are_named_quickly():
    table = result_table([("x", "integer")] * 20_000, [])
    assert table.column_names[-1] == "x_19999"


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def test_json_has_null_for_what_is_no_number():
    values = [[float("nan"), [1.5, float("inf")], {"a": {"b": float("-inf")}}, "NaN"]]
    table = result_table([("a", "real"), ("b", "json"), ("c", "json"), ("d", "text")], values)
    shown = json.loads(format_rows(table, "json"), parse_constant=refuse)
    assert shown == [{"a": None, "b": [1.5, None], "c": {"a": {"b": None}}, "d": "NaN"}]


def test_maps_with_other_keys_stay_what_they_are():
    table = result_table([("m", "json")], [[{"a": 1}], [{"b": 2}], [None], [{}]])
    assert [row["m"] for row in json.loads(format_rows(table, "json"))] == [{"a": 1}, {"b": 2}, None, {}]
    assert format_rows(table, "csv") == 'm\n"{""a"": 1}"\n"{""b"": 2}"\n""\n{}'


def test_csv_holds_whole_values_and_a_table_is_for_people():
    row = [0.1 + 0.2, 1234567, "x" * 300, "ä\x1b[2J", True, "-170141183460469231731687303715884105728", "-1 day"]
    kinds = ("real", "integer", "text", "text", "boolean", "number", "text")
    table = result_table([*zip("abcdefg", kinds, strict=True)], [row])
    [_, shown] = csv.reader(io.StringIO(format_rows(table, "csv")))
    assert shown == ["0.30000000000000004", "1234567", "x" * 300, "ä\ufffd[2J", "true", row[5], "'-1 day"]
    [_, shown] = [line.split("  ") for line in format_rows(table, "table").splitlines()]
    assert shown[:2] == ["0.3", "1234567"]
    assert "x" * 199 + "…" in shown


def test_a_cell_that_was_cut_is_text_among_nested_ones():
    table = result_table([("a", "json")], [[[1, 2]], ["[1, 1 … (cut; 9 bytes)"]])
    assert [row["a"] for row in python_rows(table)] == [[1, 2], "[1, 1 … (cut; 9 bytes)"]


def test_rows_that_no_worker_sends_are_refused():
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ProtocolError):
        result_table([("a", "json")], [[deep]])
    with pytest.raises(ValueError, match="could not convert"):
        result_table([("a", "number")], [["=1+1"]])
