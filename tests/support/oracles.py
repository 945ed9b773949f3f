"""Questions in SQL that answer slowly what the pages compute fast: chart_series.sql and layer_norms.sql beside this."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa


def ask_oracle(con: duckdb.DuckDBPyConnection, name: str, **parameters: object) -> pa.Table:
    """Return the answer of `{name}.sql` in this folder, with its `$parameters` bound."""
    sql = Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")
    return con.sql(sql, params=parameters).to_arrow_table()
