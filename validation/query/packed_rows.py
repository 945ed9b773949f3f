"""The rows of `layers` and `pairs` of runs with many experts, which SQL unpacks from lists when a question is asked.

It costs next to nothing: DuckDB reads only the lists of the columns that a question names, and only the rows of the
steps and layers that it asks for.
"""

from __future__ import annotations

from prismatic.contract.packing import LAYOUTS
from prismatic.contract.schema import TABLES

TYPES = {"INTEGER": "BIGINT", "REAL": "DOUBLE", "TEXT": "VARCHAR"}


def unpacked_rows(table: str, place: str) -> str:
    """Return the SELECT of the rows of a table (layers or pairs) from its packed form.

    place: what goes after FROM, with a column `run`. An expert without any value has a row of NULLs.
    """
    layout = LAYOUTS[table]
    columns = ["run"]
    for column in TABLES[table][0]:
        if column.name in layout.arrays:
            value = f"{column.name}[number + 1]"
            columns.append(f"CASE WHEN NOT isnan({value}) THEN {value}::{TYPES[column.type]} END AS {column.name}")
        else:
            columns.append("number AS expert" if column.name == "expert" else column.name)
    return f"SELECT {', '.join(columns)} FROM (SELECT *, unnest(range({layout.length})) AS number FROM {place})"


def with_unpacked_rows(table: str, rows: str, packed: str | None) -> str:
    """Return the SELECT of a relation: the rows of its own table, and those of its packed form if there is one."""
    select = f"SELECT * FROM {rows}"
    return select if packed is None else f"{select} UNION ALL BY NAME {unpacked_rows(table, packed)}"
