"""Every row of a relation as a file for other programs: nothing is downsampled, nothing left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from validation.query.database import RELATIONS

ROWS_AT_ONCE = 100_000


def export(con: duckdb.DuckDBPyConnection, relation: str, target: Path) -> int:
    """Write a relation to a .csv or .parquet file, piece by piece, and say how many rows it has.

    Raises ValueError for another relation or another kind of file, OSError where it cannot be written.
    """
    if relation not in RELATIONS:
        raise ValueError(f"there is no relation {relation!r}; the relations are {', '.join(RELATIONS)}")
    writers: dict[str, Callable[[str, pa.Schema], pa.csv.CSVWriter | pq.ParquetWriter]] = {
        ".csv": pa.csv.CSVWriter,
        ".parquet": pq.ParquetWriter,
    }
    if target.suffix not in writers:
        raise ValueError(f"{target}: its name must end in {' or '.join(writers)}, which says what is written")
    order = ", ".join(column for column in ("run", "step", "layer", "expert") if column in RELATIONS[relation])
    # The name is one of ours, never the user's own words.
    found = con.sql(f"SELECT * FROM {relation} ORDER BY {order}").to_arrow_reader(ROWS_AT_ONCE)
    rows = 0
    with writers[target.suffix](str(target), found.schema) as writer:
        for batch in found:
            writer.write_batch(batch)
            rows += len(batch)
    return rows
