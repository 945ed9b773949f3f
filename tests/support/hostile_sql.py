"""Questions in SQL that try to reach, change, exhaust or break what they must not, each with its kind.

Kinds: "reach" (files, network, settings, other databases), "change" (statements that write, at any depth), "time",
"memory", "crash" (what brings a process down, or tries to), "odd" (answers that are hard to send or to show).
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb

Question = tuple[str, str]

FILES = ("/etc/passwd", "/proc/self/environ", "/proc/1/environ", "/root/.ssh/id_rsa", "{data}", "../../etc/passwd")
READERS = (
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_blob('{file}')",
    "SELECT * FROM read_json('{file}')",
    "SELECT * FROM read_parquet('{file}')",
    "SELECT * FROM '{file}'",
    "SELECT * FROM glob('{file}*')",
    "SELECT * FROM sniff_csv('{file}')",
    "SELECT * FROM parquet_metadata('{file}')",
    "SELECT * FROM query('SELECT * FROM read_text(''{file}'')')",
    "SELECT (SELECT content FROM read_text('{file}'))",
    "WITH a AS (SELECT * FROM read_text('{file}')) SELECT * FROM a",
)
STATEMENTS = (
    "ATTACH '/tmp/prismatic-sql.db' AS other",
    "COPY (SELECT 1) TO '/tmp/prismatic-sql.csv'",
    "COPY dynamics TO '/tmp/prismatic-sql.parquet' (FORMAT parquet)",
    "EXPORT DATABASE '/tmp/prismatic-sql'",
    "IMPORT DATABASE '/tmp'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '/tmp/evil.duckdb_extension'",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE OR REPLACE VIEW runs AS SELECT 1",
    "CREATE MACRO median(x) AS 0",
    "CREATE SECRET s (TYPE S3, KEY_ID 'a', SECRET 'b')",
    "DROP TABLE runs",
    "DELETE FROM runs",
    "UPDATE runs SET run = 'x'",
    "INSERT INTO runs SELECT * FROM runs",
    "ALTER TABLE runs ADD COLUMN x INT",
    "SET memory_limit = '100GB'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET ALL",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "USE memory",
    "EXPLAIN ANALYZE SELECT 1",
    "PREPARE a AS SELECT 1",
    "SELECT 1; DROP TABLE runs",
    "SELECT 1; SELECT 2",
    "",
    ";",
    "-- nothing",
)
NESTED = (
    "WITH a AS ({write}) SELECT 1",
    "WITH a AS (WITH b AS ({write}) SELECT 1) SELECT * FROM a",
    "SELECT * FROM (WITH a AS ({write}) SELECT 1)",
    "SELECT (WITH a AS ({write}) SELECT 1)",
)
WRITES = (
    "COPY (SELECT 1) TO '/tmp/prismatic-sql.csv'",
    "INSERT INTO runs SELECT * FROM runs RETURNING *",
    "DELETE FROM runs RETURNING *",
    "UPDATE runs SET run = 'x' RETURNING *",
)
TEXTS = (
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('{text}'))",
    "SELECT * FROM json_execute_serialized_sql('{tree}')",
    "WITH a AS (FROM \"JSON_Execute_Serialized_SQL\"('{tree}')) SELECT (SELECT count(*) FROM a)",
    "SELECT * FROM runs, LATERAL (FROM system.main.json_execute_serialized_sql('{tree}'))",
    "PRAGMA json_execute_serialized_sql('{tree}')",
    "SELECT * FROM query('{text}')",
    "SELECT list_transform([1], lambda x: json_serialize_plan('{text}'))",
)
"""Statements that run or plan another one, given as a text or as its parsed tree."""
SETTINGS = (
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM pragma_database_size()",
    "SELECT current_setting('secret_directory')",
    "SELECT getenv('HOME')",
    "SELECT * FROM duckdb_temporary_files()",
    "SELECT * FROM duckdb_logs()",
    "SELECT * FROM enable_logging()",
    "SELECT * FROM force_checkpoint()",
    "SELECT * FROM sqlite_scan('{data}', 'dynamics')",
    "SELECT * FROM 'https://example.org/a.csv'",
    "SELECT * FROM read_csv('s3://bucket/a.csv')",
    "SELECT * FROM python_map_function()",
    "SELECT * FROM loading",
    "SELECT * FROM sys.modules",
    "SELECT write_log('a')",
    "SELECT * FROM test_all_types()",
    "FROM pg_settings",
    "SHOW allowed_directories",
    "SELECT * FROM query_table('duckdb_logs')",
    "SELECT * FROM histogram_values('{data}', 'step')",
    "SELECT * FROM read_duckdb('{data}')",
    "SELECT * FROM which_secret('s3://bucket', 's3')",
    "SELECT pg_get_viewdef(oid) FROM range(100000) t(oid)",
    "SELECT nextval('a'), setseed(0.5)",
    'WITH "{data}" AS (FROM \'{data}\') FROM "{data}"',
)
SLOW = (
    "SELECT count(*) FROM range(100000000000) a, range(1000) b",
    "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b",
    "WITH RECURSIVE a AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM a) SELECT count(*) FROM a",
    "WITH RECURSIVE a AS (SELECT 1::HUGEINT AS x UNION ALL SELECT x + 1 FROM a WHERE x < 1e30) SELECT max(x) FROM a",
    "SELECT count(*) FROM range(30000000) t(i) WHERE regexp_matches(repeat('a', i % 1000), '(a|aa)+$')",
    "SELECT max(levenshtein(repeat('ab', 20000), repeat('ba', 20000)))",
    "SELECT count(DISTINCT md5(i::TEXT)) FROM range(1000000000) t(i)",
    "SELECT i FROM range(1000000000) t(i) ORDER BY hash(i) LIMIT 1",
    "SELECT sum(sqrt(i)) OVER (ORDER BY hash(i)) FROM range(50000000) t(i)",
    "SELECT quantile_cont(hash(i)::DOUBLE, 0.5) FROM range(100000000) t(i)",
    "SELECT count(*) FROM dynamics a, dynamics b, dynamics c, dynamics d",
    "SELECT a.step FROM dynamics a, dynamics b, dynamics c ORDER BY random() LIMIT 1",
    "SELECT list_sum(list_transform(range(20000000), x -> x * x))",
    "SELECT list_reduce(range(5000000), (x, y) -> x + y)",
    "SELECT factorial(i::INT % 30) FROM range(1000000000) t(i) ORDER BY 1 DESC LIMIT 1",
    "SELECT sum(length(repeat('a', 100000))) FROM range(10000000)",
    "SELECT sleep_ms(100000)",
)
LARGE = (
    "SELECT repeat('x', 2000000000)",
    "SELECT repeat('x', 500000000)",
    "SELECT list(i) FROM range(1000000000) t(i)",
    "SELECT string_agg(i::TEXT, ',') FROM range(1000000000) t(i)",
    "SELECT range(1000000000)",
    "SELECT array_agg(repeat('x', 100000)) FROM range(100000)",
    "SELECT map(list(i), list(i)) FROM range(100000000) t(i)",
    "SELECT histogram(i) FROM range(100000000) t(i)",
    "SELECT DISTINCT repeat('x', 10000) || i FROM range(10000000) t(i)",
    "SELECT * FROM range(100000000) a JOIN range(100000000) b USING (range) ORDER BY 1 DESC",
    "SELECT lag(repeat('x', 10000)) OVER (ORDER BY hash(i)) FROM range(1000000) t(i)",
    "SELECT bitstring_agg(i::INT, 0, 2000000000) FROM range(10) t(i)",
    "SELECT lpad('x', 1000000000, 'y')",
    "SELECT format('{:>1000000000}', 'x')",
    "SELECT printf('%1000000000d', 1)",
    "SELECT repeat([1, 2, 3], 300000000)",
    "SELECT * FROM repeat_row(repeat('x', 1000000), num_rows = 1000000)",
    "SELECT json_group_array(repeat('x', 1000000)) FROM range(2000)",
    "SELECT list_resize([1], 2000000000, 1)",
    "SELECT array_to_string(range(200000000), ',')",
    "SELECT * FROM (SELECT unnest(range(100000000)) AS x) ORDER BY x DESC",
    "SELECT encode(repeat('x', 900000000))",
    "SELECT arg_max(repeat('x', 10000000), i, 1000) FROM range(1000) t(i)",
)
DEEP = (
    ("json_contains", "SELECT json_contains(repeat('[', {n}) || repeat(']', {n}), '1')"),
    ("json", "SELECT json(repeat('[', {n}) || repeat(']', {n}))"),
    ("json_valid", "SELECT json_valid(repeat('[', {n}) || repeat(']', {n}))"),
    ("json_structure", "SELECT json_structure(repeat('[', {n}) || repeat(']', {n}))"),
    ("json_keys", "SELECT json_keys(repeat('{{\"a\":', {n}) || '1' || repeat('}}', {n}))"),
    ("json_merge", "SELECT json_merge_patch(repeat('{{\"a\":', {n}) || '1' || repeat('}}', {n}), '{{}}')"),
    ("from_json", "SELECT from_json(repeat('[', {n}) || repeat(']', {n}), '\"JSON\"')"),
    ("from_json_text", "SELECT from_json(repeat('[', {n}) || repeat(']', {n}), '[\"VARCHAR\"]')"),
    ("variant", "SELECT (repeat('[', {n}) || repeat(']', {n}))::JSON::VARIANT"),
    ("cast_list", "SELECT (repeat('[', {n}) || repeat(']', {n}))::INT[][]"),
    ("cast_struct", "SELECT (repeat('{{a:', {n}) || repeat('}}', {n}))::STRUCT(a INT)"),
    ("regex", "SELECT regexp_matches('a', repeat('(', {n}) || 'a' || repeat(')', {n}))"),
    ("regex_star", "SELECT regexp_matches(repeat('a', {n}), '^(a+)+$')"),
    ("like", "SELECT repeat('a', {n}) LIKE repeat('%a', {n}) || 'b'"),
    ("glob", "SELECT repeat('a', {n}) GLOB repeat('*a', {n}) || 'b'"),
    ("serialize", "SELECT json_deserialize_sql(repeat('[', {n}))"),
    ("strptime", "SELECT strptime(repeat('1', {n}), repeat('%d', {n}))"),
    ("jaro", "SELECT jaro_winkler_similarity(repeat('a', {n}), repeat('b', {n}))"),
)
DEPTHS = (500, 20_000, 200_000)
WIDTHS = (100, 3_000)


def hostile_questions(data: str = "/tmp/data.db") -> Iterator[Question]:
    """Yield all questions. data: a file of the server that they must not reach."""
    for file in FILES:
        for reader in READERS:
            yield "reach", reader.format(file=file.format(data=data))
    yield from (("reach", sql.format(data=data)) for sql in SETTINGS)
    yield from (("change", sql) for sql in STATEMENTS)
    for shape in NESTED:
        yield from (("change", shape.format(write=write)) for write in WRITES)
    for write in WRITES:
        yield from (("change", sql) for sql in run_as_text(NESTED[0].format(write=write)))
    yield from (("time", sql) for sql in SLOW)
    yield from (("memory", sql) for sql in LARGE)
    for depth in DEPTHS:
        yield from (("crash", shape.format(n=depth)) for _, shape in DEEP)
    for width in WIDTHS:
        yield from (("crash", sql) for sql in _wide(width))
    yield from (("odd", sql) for sql in _odd())


def run_as_text(sql: str) -> Iterator[str]:
    """Yield statements that hold a SELECT as a text, and run or plan it."""
    text, tree = sql.replace("'", "''"), as_tree(sql)
    yield from (shape.format(text=text, tree=tree) for shape in TEXTS)


def as_tree(sql: str) -> str:
    """Return the parsed tree of a SELECT as the inside of a literal."""
    with duckdb.connect() as con:
        [(tree,)] = con.execute("SELECT json_serialize_sql($sql::VARCHAR)", {"sql": sql}).fetchall()
    return str(tree).replace("'", "''")


def _wide(n: int) -> Iterator[str]:
    """Yield statements whose text is deep or wide."""
    yield "SELECT " + "(" * n + "1" + ")" * n
    yield "SELECT " + "+".join(["1"] * n)
    yield "SELECT " + "-" * n + "1"
    yield "SELECT " + "NOT " * n + "true"
    yield "SELECT " + "[" * n + "]" * n
    yield "SELECT * FROM " + "(SELECT * FROM " * n + "runs" + ")" * n
    yield "SELECT 1" + " UNION ALL SELECT 1" * n
    yield "SELECT " + ", ".join(f"{i} AS c{i}" for i in range(n))
    yield "SELECT CASE " + " ".join(f"WHEN {i} THEN {i}" for i in range(n)) + " END"
    yield "WITH " + ", ".join(f"a{i} AS (SELECT 1 AS x)" for i in range(n)) + " SELECT 1"
    yield _chain(min(n, 40))
    yield f'SELECT 1 AS "{"a" * n * 20}"'
    yield "SELECT 1::" + "STRUCT(a " * min(n, 900) + "INT" + ")" * min(n, 900)
    yield "SELECT x FROM runs WHERE run IN (" + ", ".join(f"'{i}'" for i in range(n)) + ")"


def _chain(n: int) -> str:
    """Return a chain of common tables, each of which joins the one before with itself."""
    links = ", ".join(f"a{i} AS (SELECT l.x + r.x AS x FROM a{i - 1} l, a{i - 1} r)" for i in range(1, n))
    return f"WITH a0 AS (SELECT step AS x FROM dynamics LIMIT 100), {links} SELECT sum(x) FROM a{n - 1}"


def _odd() -> Iterator[str]:
    yield "SELECT 'a' AS x, 'b' AS x"
    yield "SELECT 1 AS x, 2 AS x, 3 AS x_1, 4 AS x_1, 5 AS x"
    yield "SELECT 123456789012345678901234567890123456789012345678901234567890::BIGNUM, {'a': 1}::VARIANT"
    yield "SELECT '12:34:56.123456789'::TIME_NS, [12345678901234567890::HUGEINT], MAP {[1]: 'nan'::DOUBLE}"
    yield 'SELECT 1 AS ""'
    yield "SELECT chr(27) || '[2J' AS x"
    yield "SELECT chr(0) || 'a'"
    yield "SELECT 'nan'::DOUBLE, 'inf'::DOUBLE, '-inf'::FLOAT"
    yield "SELECT 170141183460469231731687303715884105727::HUGEINT, (-1)::UTINYINT"
    yield "SELECT 340282366920938463463374607431768211455::UHUGEINT"
    yield "SELECT 18446744073709551615::UBIGINT"
    yield "SELECT '290309-12-22 (BC) 00:00:00'::TIMESTAMP, 'infinity'::TIMESTAMP, 'infinity'::DATE"
    yield "SELECT INTERVAL 1000000 YEARS, '00:00:00'::TIME, '12:00:00+15:59:59'::TIMETZ"
    yield "SELECT uuid(), '101'::BIT, 'a'::ENUM('a', 'b'), MAP {'a': 1}, {'a': {'b': [1, NULL]}}"
    yield "SELECT union_value(a := 1), [1, 2]::INT[2], '\\x00\\xFF'::BLOB"
    yield "SELECT 99999999999999999999999999999999999.999::DECIMAL(38, 3)"
    yield "SELECT unnest([{'a': 1}, {'a': NULL}, NULL])"
    yield "SELECT unnest(['{\"a\": 1}'::JSON, '[1]'::JSON, '1'::JSON])"
    yield "SELECT repeat('x', 70000) AS a, repeat('y', 70000)::BLOB AS b, range(30000) AS c"
    yield "SELECT " + ", ".join(f"repeat('x', 65000) AS c{i}" for i in range(300))
    yield "SELECT repeat('x', 65000) FROM range(10000)"
    yield "SELECT * FROM range(1000000)"
    yield "SELECT NULL"
    yield "SELECT 1 WHERE false"
    yield "SELECT '\U0001f600', 'ﷺ', 'a\u202eb', '<script>alert(1)</script>', '=1+1'"
    yield "FROM runs"
    yield "SUMMARIZE dynamics"
    yield "SHOW ALL TABLES"
    yield "VALUES (1, 'a'), (NULL, NULL)"
    yield "SELECT COLUMNS(*) FROM dynamics LIMIT 3"
    yield "SELECT error('boom')"
    yield "SELECT 1/0, 0::DOUBLE/0, 'x'::INT"
    yield "SELECT nothing FROM nowhere"
    yield "SELECT \ud800"
