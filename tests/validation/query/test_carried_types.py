"""Values of every type of DuckDB, as an answer shows them, against the text that DuckDB itself prints."""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from validation.query import sql_worker
from validation.query.relations import Relations, load
from validation.query.result import python_rows
from validation.query.user_sql import _read_line, _read_result

LIMITS = {"seconds": 10, "rows": 1000, "bytes": 1 << 24, "cell_bytes": 1 << 16}
LEAVES = re.compile(r"TIMESTAMP WITH TIME ZONE|[A-Z]+(\(\d+,\s*\d+\))?(?=[\[\],) ]|$)")


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield the database of a worker, with a relation `every` that has a column of each type."""
    with sql_worker.open_database(256 << 20) as con:
        con.execute("CREATE TABLE every AS SELECT * FROM test_all_types()").fetchall()
        load(con, Relations())
        yield con


def answered(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """Return the answer of a worker, as the parent receives it."""
    reply = b"".join(
        line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
        for line in sql_worker.answer(con, sql, LIMITS)
    )
    stream = io.BytesIO(reply)
    return _read_result(stream, _read_line(stream), 1000).table


def in_float_32(number: float) -> float:
    return struct.unpack("f", struct.pack("f", number))[0]


def same(shown: Any, printed: Any, of: str) -> bool:
    """Return whether a value is what DuckDB prints. of: its type, of which each leaf is printed on its own."""
    if isinstance(shown, dict):
        return shown.keys() == printed.keys() and all(same(shown[key], printed[key], of) for key in shown)
    if isinstance(shown, list):
        return len(shown) == len(printed) and all(same(*pair, of) for pair in zip(shown, printed, strict=True))
    if isinstance(shown, bool):
        return printed == str(shown).lower()
    if isinstance(shown, int):
        return printed == str(shown)
    if isinstance(shown, float):
        as_float = in_float_32 if of == "FLOAT" else float
        return repr(as_float(float(printed))) == repr(shown)
    return shown == printed


def test_every_type_is_shown_as_duckdb_prints_it(con):
    shown = answered(con, "FROM every")
    nested = {field.name for field in shown.schema if field.metadata == {b"form": b"json"}}
    with duckdb.connect() as plain:
        every = plain.sql("FROM test_all_types()")
        types = dict(zip(every.columns, map(str, every.types), strict=True))
        texts = {name: LEAVES.sub("VARCHAR", of) if name in nested else "VARCHAR" for name, of in types.items()}
        casts = ", ".join(f'CAST("{name}" AS {text}) AS "{name}"' for name, text in texts.items())
        printed = plain.execute(f"SELECT {casts} FROM test_all_types()").fetchall()
    wrong = [
        (name, types[name], row[name], expected)
        for row, values in zip(python_rows(shown), printed, strict=True)
        for name, expected in zip(types, values, strict=True)
        if not same(row[name], [*expected] if isinstance(expected, tuple) else expected, types[name])
    ]
    assert not wrong
    assert len(nested) > 15
    assert len(types) > 50


@pytest.mark.parametrize(
    "value",
    [
        "'12:34:56.123456789'::TIME_NS",
        "'12:34:56.123456'::TIME",
        "'12:00:00+15:59:59'::TIMETZ",
        "'2026-01-02 03:04:05.123456789'::TIMESTAMP_NS",
        "'2026-01-02 03:04:05.5+02'::TIMESTAMPTZ",
        "'290309-12-22 (BC) 00:00:00'::TIMESTAMP",
        "'-infinity'::DATE",
        "INTERVAL '1 month 2 days 00:00:00.000001'",
        "123456789012345678901234567890123456789012345678901234567890::BIGNUM",
        "-5::BIGNUM",
        "{'a': [1, NULL]}::VARIANT",
        "5::VARIANT",
        "'{\"a\": [1, null]}'::JSON",
        "'\\xAB\\x00a'::BLOB",
        "'10101'::BIT",
        "'b'::ENUM('a', 'b')",
        "union_value(a := 1::TINYINT)",
        "'1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed'::UUID",
        "ROW(1, 'a')",
        "170141183460469231731687303715884105727",
        "-170141183460469231731687303715884105728",
        "340282366920938463463374607431768211455::UHUGEINT",
        "99999999999999999999999999999999999.999::DECIMAL(38, 3)",
        "0.1234567890123456789",
        "NULL",
    ],
)
def test_a_value_that_json_has_not_is_the_text_that_duckdb_prints(con, value: str):
    with duckdb.connect() as plain:
        [(expected,)] = plain.execute(f"SELECT CAST({value} AS VARCHAR)").fetchall()
    (shown,) = answered(con, f"SELECT {value} AS x").to_pylist()
    assert shown == {"x": expected}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[1::HUGEINT, 0.5]", ["1.0", "0.5"]),
        ("[170141183460469231731687303715884105727]", ["170141183460469231731687303715884105727"]),
        ("[0.1, 123456789012345.6]", ["0.1", "123456789012345.6"]),
        ("[0.1, 12345678901234.5]", [0.1, 12345678901234.5]),
        ("[18446744073709551615::UBIGINT]", [18446744073709551615]),
        (
            "{'a b\"c': ['2026-01-02'::DATE, NULL], 'd': {'e': '\\xAB'::BLOB}}",
            {'a b"c': ["2026-01-02", None], "d": {"e": "\\xAB"}},
        ),
        ("MAP {'2026-01-02'::DATE: 1, '2026-01-03'::DATE: NULL}", {"2026-01-02": 1, "2026-01-03": None}),
        ("MAP {}", {}),
        ("[MAP {1: 'a'}, MAP {2: 'b'}]", [{"1": "a"}, {"2": "b"}]),
        ("[1.5, 'nan'::DOUBLE]::DOUBLE[2]", [1.5, float("nan")]),
        ("[]", []),
        ("[1, 'a'::VARIANT]", ["1", "a"]),
        ("['12:34:56.123456789'::TIME_NS]", ["12:34:56.123456789"]),
    ],
)
def test_a_nested_value_holds_each_part_exactly(con, value: str, expected: Any):
    (shown,) = python_rows(answered(con, f"SELECT {value} AS x"))
    assert repr(shown["x"]) == repr(expected)


@pytest.mark.parametrize(
    ("sql", "expected", "of"),
    [
        (
            "SELECT 18446744073709551615::UBIGINT AS x UNION ALL SELECT 9007199254740993",
            [9007199254740993, 2**64 - 1],
            "uint64",
        ),
        ("SELECT 18446744073709551615::UBIGINT AS x UNION ALL SELECT -1", ["-1", "18446744073709551615"], "string"),
        ("SELECT 18446744073709551615::UBIGINT AS x", [2**64 - 1], "uint64"),
        ("SELECT sum(range) AS x FROM range(4)", [6], "int64"),
        ("SELECT (-9223372036854775808)::HUGEINT AS x", [-(2**63)], "int64"),
        ("SELECT 9223372036854775808::HUGEINT AS x UNION ALL SELECT NULL", [2**63, None], "uint64"),
        ("SELECT unnest([0.50, 1.00, 2.25]) AS x", [0.5, 1.0, 2.25], "double"),
        ("SELECT unnest([0.1, 12345678901234567.8]) AS x", ["0.1", "12345678901234567.8"], "string"),
        ("SELECT 12345678901234567890::DECIMAL(38, 0) AS x", [12345678901234567890], "uint64"),
        ("SELECT 0.1::FLOAT AS x", [in_float_32(0.1)], "double"),
        ("SELECT NULL::HUGEINT AS x", [None], "int64"),
    ],
)
def test_a_number_stays_one_where_all_of_its_column_fit(con, sql: str, expected: list[Any], of: str):
    column = answered(con, sql).column("x")
    assert str(column.type) == of
    assert sorted(column.to_pylist(), key=lambda x: (x is None, x)) == expected
