"""What a query may hold, without walls: each function of the installed DuckDB, writes at any depth, names of tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import duckdb
import pytest

from tests.support.hostile_sql import NESTED, WRITES, as_tree, run_as_text
from tests.support.simulated_runs import simulated_run, write
from validation.files.parquet_set import write_set
from validation.files.sources import read_sources
from validation.query import sql_worker
from validation.query.one_select import REFUSED, TABLE_FUNCTIONS, Refused, require_select
from validation.query.relations import load
from validation.query.set_database import relations_of_sets

LIMITS = {"seconds": 10, "rows": 100, "bytes": 1 << 20, "cell_bytes": 1 << 16}
HARMLESS = {  # although another call may return something else
    *("current_connection_id", "current_query", "current_query_id", "current_transaction_id", "error", "random"),
    *("gen_random_uuid", "uuid", "uuidv4", "uuidv7", "sleep_ms", "stats", "vector_type"),
}
PLACES = (
    "SELECT {}",
    'SELECT "{name}"({arguments})',
    "SELECT system.main.{}",
    "WITH a AS (SELECT {} AS x) SELECT * FROM a",
    "WITH RECURSIVE a AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM a WHERE {} IS NULL) SELECT * FROM a",
    "SELECT * FROM (SELECT {})",
    "SELECT (SELECT {})",
    "SELECT list_transform([1], lambda x: {})",
    "SELECT [{} FOR x IN [1]]",
    "SELECT [1].list_transform(x -> {})",
    "SELECT count(*) FILTER ({} IS NULL) FROM runs",
    "SELECT sum(1) OVER (ORDER BY {}) FROM runs",
    "SELECT run FROM runs GROUP BY run, {}",
    "SELECT run FROM runs ORDER BY {}",
    "SELECT run FROM runs WHERE {} IS NULL",
    "SELECT run FROM runs QUALIFY {} IS NULL",
    "SELECT run FROM runs LIMIT {}",
    "SELECT * FROM range({})",
    "SELECT * FROM runs, LATERAL (SELECT {})",
    "SELECT * FROM runs JOIN facts ON {} IS NULL",
    "SELECT * REPLACE ({} AS run) FROM runs",
    "SELECT CASE WHEN true THEN {} END",
    "SELECT TRY({})",
    "SELECT {{'a': {}}}",
    "VALUES ({})",
    "SUMMARIZE SELECT {}",
    "SELECT 1 UNION ALL SELECT {}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a set."""
    folder = tmp_path_factory.mktemp("set")
    write_set(read_sources([write(simulated_run(), folder / "run.db")])[0], folder / "set")
    (folder / "set" / "note.csv").write_text("secret\n1\n")
    return folder / "set"


@pytest.fixture(scope="module")
def con(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield the database of a worker over a set, which nothing but DuckDB's own settings confines."""
    with sql_worker.open_database(256 << 20) as con:
        load(con, relations_of_sets([folder]))
        yield con


def answer(con: duckdb.DuckDBPyConnection, sql: str) -> list[list[object]]:
    return [json.loads(line) for line in [*sql_worker.answer(con, sql, LIMITS)][1:]]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def functions(con: duckdb.DuckDBPyConnection, where: str) -> list[str]:
    rows = con.cursor().execute(f"SELECT DISTINCT function_name FROM duckdb_functions() WHERE {where} ORDER BY 1")
    return [name for (name,) in rows.fetchall()]


def test_a_write_in_the_text_of_a_function_writes_nothing_also_without_walls(con, folder: Path):
    before, runs = contents(folder), answer(con, "FROM runs")
    copies = [f"COPY (SELECT 42 AS x) TO '{folder / name}'" for name in ("out.csv", "out.parquet", "runs/out.json")]
    writes = [shape.format(write=write) for shape in NESTED for write in (*WRITES, *copies)]
    asked = [*writes, *chain.from_iterable(map(run_as_text, writes))]
    for sql in asked:
        with pytest.raises(
            Refused, match=r"found the (table )?function|expected one SELECT|relation .* does not exist"
        ):
            answer(con, sql)
    assert len(asked) > 200
    assert contents(folder) == before
    assert answer(con, "FROM runs") == runs


def test_a_tree_that_is_run_would_write_if_it_was_not_refused():
    with duckdb.connect() as con:
        con.execute("CREATE TABLE runs AS SELECT 'a' AS run")
        con.execute(f"FROM json_execute_serialized_sql('{as_tree(NESTED[0].format(write='DELETE FROM runs'))}')")
        con.fetchall()
        assert con.execute("FROM runs").fetchall() == []


def test_rows_come_only_from_relations_and_from_functions_that_compute_them(con):
    names = functions(con, "function_type IN ('table', 'table_macro', 'pragma')")
    assert set(TABLE_FUNCTIONS) <= set(names)
    for name in set(names) - {*TABLE_FUNCTIONS, "show"}:  # the last is a keyword
        for written in (name, name.upper(), f'"{name.title()}"', f"system.main.{name}"):
            for shape in ("SELECT * FROM {}('a')", "WITH a AS (SELECT 1 IN (FROM {}(x := 1))) FROM a"):
                with pytest.raises(Refused, match=f"found the table function {name}; select from the relations, or"):
                    require_select(con, shape.format(written))


def test_no_function_that_gives_rows_is_run_for_a_value(con):
    values = functions(con, "function_type IN ('scalar', 'aggregate', 'macro')")
    for name in set(functions(con, "function_type IN ('table', 'table_macro', 'pragma')")) - set(values):
        with pytest.raises(Refused):  # by DuckDB itself, or by the check
            answer(con, f"SELECT {name}('a')")


@pytest.mark.parametrize("place", PLACES)
def test_a_function_that_reads_or_keeps_more_is_refused_wherever_it_is(con, place: str):
    for name in sorted(REFUSED):
        for written in (name, name.upper(), f'"{name}"'):
            sql = place.format(f"{written}('a')", name=name.title(), arguments="'a'")
            with pytest.raises(Refused, match=f"found the function {name}, which reads or changes more"):
                require_select(con, sql)


def test_every_function_with_effects_is_refused_or_known(con):
    """A new version of DuckDB may bring another: then decide, and add it to one of the two."""
    found = functions(con, "function_type = 'scalar' AND (has_side_effects OR stability = 'VOLATILE')")
    assert set(found) - REFUSED - HARMLESS == set()


def test_a_macro_that_looks_into_the_catalog_is_refused(con):
    rows = con.cursor().execute(
        "SELECT function_name, macro_definition FROM duckdb_functions() WHERE function_type = 'macro' AND internal"
    )
    for name, definition in rows.fetchall():
        try:
            require_select(con, f"SELECT {definition}")
        except Refused:
            assert name in REFUSED, f"{name}: {definition}"


@pytest.mark.parametrize(
    "sql",
    [
        "FROM pg_settings",
        "FROM pg_catalog.pg_settings",
        "FROM duckdb_logs",
        "FROM system.main.duckdb_logs",
        "FROM information_schema.tables",
        "SELECT (SELECT count(*) FROM sqlite_master)",
        "WITH pg_settings AS (SELECT 1) FROM pg_settings",
        "SELECT * FROM (WITH pg_settings AS (SELECT 1) FROM pg_settings), pg_settings",
        "SHOW memory_limit",
        "FROM (SHOW allowed_directories)",
        "SHOW DATABASES",
        "FROM '{folder}/note.csv'",
        'FROM "{folder}/note.csv"',
        "DESCRIBE '{folder}/note.csv'",
        "SUMMARIZE '{folder}/note.csv'",
        'WITH "{folder}/note.csv" AS (FROM \'{folder}/note.csv\') FROM "{folder}/note.csv"',
        "PIVOT '{folder}/note.csv' ON secret IN (1) USING count(*)",
        "SELECT * FROM '/etc/passwd'",
        "FROM nowhere",
    ],
)
def test_a_name_reads_a_relation_and_nothing_else(con, folder: Path, sql: str):
    with pytest.raises(Refused, match=r"relation .* does not exist; SHOW TABLES lists those that a query can read"):
        require_select(con, sql.format(folder=folder))


@pytest.mark.parametrize(
    "sql",
    [
        "FROM RUNS",
        "FROM main.runs",
        "FROM memory.main.runs",
        "SHOW TABLES",
        "SHOW ALL TABLES",
        "SHOW runs",
        "DESCRIBE runs",
        "DESCRIBE SELECT 1",
        "SUMMARIZE dynamics",
        "SELECT * FROM range(3), generate_series(2), unnest([1]), json_each('[1]'), json_tree('[1]'), repeat(1, 2)",
        "SELECT * FROM (SELECT [1, 2] AS l) t, unnest(t.l) AS u(x)",
        "SELECT unnest(range(3)), range(3), generate_series(2), repeat('a', 3)",
        "WITH a AS (SELECT 1 AS x), b AS (FROM A) SELECT * FROM b, a",
        "WITH RECURSIVE a AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM a WHERE x < 3) FROM a",
        "WITH RECURSIVE a(x, y) USING KEY (x) AS (SELECT 1, 1 UNION SELECT x, 2 FROM recurring.a WHERE y < 2) FROM a",
        "SELECT * FROM (WITH a AS (SELECT 1) FROM a) JOIN runs ON true WHERE run IN (SELECT run FROM facts)",
        "PIVOT facts ON key IN ('merge') USING first(value) GROUP BY run",
        "UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b",
        "SELECT list_transform([1], lambda x: x + 1), COLUMNS(lambda c: c = 'run') FROM runs",
        "SELECT json_serialize_sql('SELECT 1'), random(), uuid(), now(), user, version()",
        "SELECT 'nextval(1) FROM read_csv' AS \"query('x')\", 'COPY runs TO ''x''' -- FROM pg_settings",
        "VALUES (1)",
    ],
)
def test_a_query_of_the_relations_is_answered(con, sql: str):
    header, *_ = sql_worker.answer(con, sql, LIMITS)
    assert header["columns"]


@pytest.mark.parametrize("wrong", ["'x'::INT", "FROM FROM"])
def test_an_error_names_the_line_of_the_question(con, wrong: str):
    with pytest.raises(Refused, match=r"LINE 2: "):
        answer(con, f"SELECT 1,\n{wrong} AS x\nFROM range(2)")


def test_rows_keep_their_order_when_their_types_are_cast(con):
    sql = "SELECT range::HUGEINT AS x FROM range(100000) ORDER BY hash(range)"
    expected = con.cursor().execute(f"{sql} LIMIT 100").fetchall()
    assert answer(con, sql) == [[str(x)] for (x,) in expected]
