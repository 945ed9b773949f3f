"""The check that a text is one SELECT over the relations, on the tree that DuckDB parses it to.

No part of it, at any depth, may write, run a text as SQL, or read anything by its name but the relations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
"""The nodes of the tree that read; the others of this kind write."""
TABLE_FUNCTIONS = ("generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest")
"""Those that a query may select from: they compute rows from their arguments."""
REFUSED = {
    *("json_execute_serialized_sql", "json_serialize_plan", "query", "query_table"),  # they plan or run a text as SQL
    *("currval", "nextval", "setseed", "setval", "write_log"),  # they keep something for later
    *("current_setting", "getenv", "getvariable", "set_config"),
    *("format_type", "get_block_size", "pg_get_constraintdef", "pg_get_viewdef"),  # they look into the catalog
}
"""Functions of one value that read or change more than their arguments."""
OWN_SCHEMAS = {"main", "memory", "recurring"}  # the last is the previous rows of a recursive table
LISTINGS = {"", '"tables"', "__show_tables_expanded"}  # what SHOW TABLES and SHOW ALL TABLES name
NAMES = """
    SELECT table_name, 'relation' FROM duckdb_tables() WHERE NOT internal
    UNION ALL SELECT view_name, if(internal, 'catalog', 'relation') FROM duckdb_views()
    WHERE schema_name <> 'information_schema'
"""
ONE_SELECT = "expected one SELECT, found {}; the relations can be read but not changed"
OTHER_FUNCTION = "found the function {}, which reads or changes more than the relations; leave it out"
OTHER_ROWS = f"found the table function {{}}; select from the relations, or from {', '.join(TABLE_FUNCTIONS)}"
OTHER_TABLE = "a relation {} does not exist; SHOW TABLES lists those that a query can read"


class Refused(Exception):
    """The statement is not one SELECT, or has a mistake; the message is for its author."""


def require_select(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise Refused unless the text is one SELECT that only reads the relations, at every depth.

    con: a database of the relations and nothing else.
    """
    import duckdb

    try:
        kinds = [statement.type.name for statement in con.extract_statements(sql)]
    except duckdb.Error as error:
        raise Refused(first_words(error)) from None
    if kinds != ["SELECT"]:
        raise Refused(ONE_SELECT.format(", ".join(kinds) or "nothing"))
    [(serialized,)] = con.execute("SELECT json_serialize_sql($sql::VARCHAR)", {"sql": sql}).fetchall()
    tree = json.loads(serialized)
    if tree.get("error") is not False:
        raise Refused(str(tree.get("error_message"))[:500])
    nodes = [*_nodes(tree)]
    _require_reading(nodes)
    _require_functions(nodes)
    _require_relations(nodes, con.execute(NAMES).fetchall())


def first_words(error: Exception) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())[:500]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a parsed tree."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending += node.values()
        elif isinstance(node, list):
            pending += node


def _require_reading(nodes: list[dict[str, Any]]) -> None:
    kinds = {node["type"] for node in nodes if isinstance(node.get("type"), str)}
    other = {kind for kind in kinds if kind.endswith("_NODE")} - READING
    if other:
        raise Refused(ONE_SELECT.format(", ".join(sorted(kind.split("_")[0] for kind in other)) + " inside it"))


def _require_functions(nodes: list[dict[str, Any]]) -> None:
    for node in nodes:
        if node.get("type") == "TABLE_FUNCTION":
            name = str(node["function"].get("function_name")).lower()  # whatever its schema is
            if name not in TABLE_FUNCTIONS:
                raise Refused(OTHER_ROWS.format(name[:100]))
        if str(node.get("function_name")).lower() in REFUSED:
            raise Refused(OTHER_FUNCTION.format(node["function_name"].lower()))


def _require_relations(nodes: list[dict[str, Any]], names: list[tuple[str, str]]) -> None:
    """Refuse tables that are neither relations nor tables of a WITH.

    A name of a WITH is known in the whole text here and not only where it holds. So it may be none that means something
    else outside: no view of the catalog, and no file, which DuckDB knows by a dot in its name.
    """
    relations, catalog = ({name.lower() for name, of in names if of == kind} for kind in ("relation", "catalog"))
    common = {str(each["key"]).lower() for node in nodes if "cte_map" in node for each in node["cte_map"]["map"]}
    readable = relations | {name for name in common - catalog if "." not in name}
    for node in nodes:
        name, schemas = str(node.get("table_name")), node.get("qualified_name", {}).get("path", [])[:-1]
        listing = node.get("type") == "SHOW_REF" and name in LISTINGS
        table = node.get("type") in ("BASE_TABLE", "SHOW_REF") and not listing
        if table and (name.lower() not in readable or not {each.lower() for each in schemas} <= OWN_SCHEMAS):
            raise Refused(OTHER_TABLE.format(".".join((*schemas, name))[:100]))
