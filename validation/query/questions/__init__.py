"""Questions about runs, one `.sql` file each, asked of what `query.database.connect` returns."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa


@cache
def _sql(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is not the name of a query")
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")


def ask(con: duckdb.DuckDBPyConnection, name: str, **parameters: object) -> pa.Table:
    """Answer of `queries/{name}.sql`, its `$parameters` bound, on a cursor of its own: threads may not share one."""
    with con.cursor() as cursor:
        return cursor.sql(_sql(name), params=parameters or None).to_arrow_table()
