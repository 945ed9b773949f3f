"""The types in which an answer carries the values of DuckDB's types, so that each arrives exactly.

Truth values, integers of up to 64 bits, floats and texts are carried as they are, and lists, structs and maps of these
as JSON. Wider integers and decimals go as texts, which become numbers where all of a column fit. Any other type becomes
the text that DuckDB prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

INTEGERS = ("tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint")
KINDS = {"boolean": "boolean", "float": "real", "double": "real"} | dict.fromkeys(INTEGERS, "integer")
NUMBERS = ("decimal", "hugeint", "uhugeint")
NESTED = ("list", "array", "struct", "map")
EXACT_DIGITS = 15  # of a decimal number that a DOUBLE gives back as it was
LEVELS = 50  # of nested values; deeper ones are text


def kind_of(column: DuckDBPyType) -> str:
    """Return the kind of a column in the answer: boolean, integer, real, number (as text), json, or text."""
    if column.id in NUMBERS:
        return "number"
    if column.id in NESTED and carried_type(column) != "VARCHAR":
        return "json"
    return KINDS.get(column.id, "text")


def carried_type(column: DuckDBPyType) -> str:
    """Return the type that a column is cast to."""
    return "VARCHAR" if column.id in NUMBERS else _carried(column, LEVELS)


def _carried(value: DuckDBPyType, levels: int) -> str:
    if value.id in KINDS:
        return str(value)
    children: dict[str, Any] = dict(value.children) if value.id in (*NESTED, "decimal") else {}
    if value.id == "decimal" and children["precision"] <= EXACT_DIGITS:
        return "DOUBLE"
    if not levels or not children:
        return "VARCHAR"
    if value.id == "list":
        return f"{_carried(children['child'], levels - 1)}[]"
    if value.id == "array":
        return f"{_carried(children['child'], levels - 1)}[{children['size']}]"
    if value.id == "map":
        return f"MAP(VARCHAR, {_carried(children['value'], levels - 1)})"
    if value.id == "struct":
        return f"STRUCT({', '.join(f'{_quoted(name)} {_carried(of, levels - 1)}' for name, of in children.items())})"
    return "VARCHAR"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
