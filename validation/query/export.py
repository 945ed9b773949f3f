"""Export all rows of a relation to CSV or Parquet, without downsampling."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from validation.query.database import RELATIONS
from validation.text import FORMULA_BEGINS

BATCH_ROWS = 100_000
FORMULA = f"^([{''.join(map(re.escape, FORMULA_BEGINS))}])"


def export(con: duckdb.DuckDBPyConnection, relation: str, target: Path) -> int:
    """Write a relation to a .csv or .parquet file, batch by batch, and return the number of rows.

    Raises ValueError for an unknown relation or another kind of file, OSError if the file cannot be written.
    """
    if relation not in RELATIONS:
        raise ValueError(f"there is no relation {relation!r}; the relations are {', '.join(RELATIONS)}")
    writers: dict[str, Callable[[str, pa.Schema], pa.csv.CSVWriter | pq.ParquetWriter]] = {
        ".csv": pa.csv.CSVWriter,
        ".parquet": pq.ParquetWriter,
    }
    if target.suffix not in writers:
        raise ValueError(f"{target}: the file name must end in {' or '.join(writers)}")
    order = ", ".join(column for column in ("run", "step", "layer", "expert") if column in RELATIONS[relation])
    # `relation` is a key of RELATIONS, not text of the user.
    found = con.sql(f"SELECT * FROM {relation} ORDER BY {order}").to_arrow_reader(BATCH_ROWS)
    rows = 0
    marked = target.suffix == ".csv"
    with writers[target.suffix](str(target), found.schema) as writer:
        for batch in found:
            writer.write_batch(_marked(batch) if marked else batch)
            rows += len(batch)
    return rows


def _marked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows with `spreadsheet_text` in place of each text, as names and options come from anyone's file."""
    columns = [
        pc.replace_substring_regex(column, FORMULA, r"'\1") if pa.types.is_string(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)
