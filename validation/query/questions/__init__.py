"""SQL questions about runs, one `.sql` file each, for a database that `query.database.connect` returns."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa


@cache
def _sql(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is not the name of a question")
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")


def ask(con: duckdb.DuckDBPyConnection, name: str, **parameters: object) -> pa.Table:
    """Return the answer of `{name}.sql` in this folder, with its `$parameters` bound.

    It runs on its own cursor, because threads must not share one.
    """
    with con.cursor() as cursor:
        return cursor.sql(_sql(name), params=parameters or None).to_arrow_table()
