"""SQL by the user against slow plain Python, and its limits; the commands `query` and `compact`."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.hostile_sql import hostile_questions
from tests.support.simulated_runs import simulated_run, write
from validation.cli.main import main
from validation.files.parquet_set import write_set
from validation.files.sources import read_sources
from validation.query.database import connect, relations_of
from validation.query.result import python_rows
from validation.query.user_sql import BadQuery, run_query

TIERS = ("top", "bottom", "middle")
OPTIONS = [
    {"seed": 0, "perturbation_scale": 1.0, "merge": "batch"},
    {"seed": 1, "perturbation_scale": 1.0, "merge": "batch"},
    {"seed": 0, "perturbation_scale": 0.0, "merge": "batch"},
    {"seed": 1, "perturbation_scale": 0.0, "merge": "example"},
    {"seed": 2, "perturbation_scale": 2.0, "merge": "batch"},
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        write(simulated_run(seed=i, steps=120), folder / f"{i}.db", **{f"config.{k}": v for k, v in options.items()})
        for i, options in enumerate(OPTIONS)
    ]


@pytest.fixture(scope="module")
def runs(files: list[Path]):
    return read_sources(files)[0]


@pytest.fixture(scope="module")
def relations(runs):
    return relations_of(runs)


def values(run, expert: int, metric: str) -> list[float]:
    return run.wide[f"expert_{expert}_{metric}"].to_pylist()


def test_medians_are_those_of_each_expert(relations, runs):
    medians = ", ".join(f"median({tier}_norm) AS {tier}_norm" for tier in TIERS)
    sql = f"SELECT run, expert, count(*) AS steps, {medians} FROM dynamics GROUP BY ALL"
    found = {(row["run"], row["expert"]): row for row in run_query(relations, sql).table.to_pylist()}
    assert len(found) == sum(run.num_experts for run in runs)
    for run in runs:
        for expert in run.expert_ids:
            row = found[run.id, expert]
            assert row["steps"] == len(run.wide)
            for tier in TIERS:
                assert row[f"{tier}_norm"] == statistics.median(values(run, expert, f"{tier}_norm"))


def test_a_query_returns_its_rows(relations, runs):
    found = run_query(relations, "SELECT run, count(*) AS n FROM dynamics GROUP BY run ORDER BY run")
    assert found.table.to_pylist() == [{"run": run, "n": 240} for run in sorted(run.id for run in runs)]
    assert not found.more


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("", "expected one SELECT, found nothing"),
        ("SELECT 1; SELECT 2", "found SELECT, SELECT"),
        ("DROP TABLE dynamics", "found DROP"),
        ("CREATE TABLE x AS SELECT 1", "found CREATE"),
        ("COPY runs TO 'x.csv'", "found COPY"),
        ("ATTACH 'x.db'", "found ATTACH"),
        ("SET memory_limit='90GB'", "found SET"),
        ("PRAGMA database_list", "found"),
        ("INSTALL httpfs", "found"),
        ("SELECT * FROM read_csv('/etc/passwd')", "found the table function read_csv; select from the relations"),
        ("SELECT * FROM 'x.parquet'", "a relation x.parquet does not exist; SHOW TABLES lists those"),
        (
            "SELECT nextval('a')",
            "found the function nextval, which reads or changes more than the relations; leave it out",
        ),
        ("SELECT * FROM runs_that_are_not_there", "does not exist"),
        ("SELECT norm FROM dynamics WHERE", "syntax error"),
        ("SELECT * FROM files", "does not exist"),
        ("WITH a AS (COPY (SELECT 1) TO 'x.csv') SELECT 1", "found COPY inside it"),
        ("SELECT (WITH a AS (DELETE FROM runs RETURNING *) SELECT 1)", "found DELETE inside it"),
        ("SELECT json_contains(repeat('[', 200000) || repeat(']', 200000), '1')", "broke the process .*SIGSEGV"),
        ("SELECT list(i) FROM range(1000000000) t(i)", "more memory"),
        ("SELECT '" + "x" * 100_000 + "'", "more than 100,000 bytes"),
        ("SELECT '\ud800'", "a lone surrogate"),
    ],
)
def test_anything_but_a_select_of_relations_is_refused(relations, sql: str, why: str):
    with pytest.raises(BadQuery, match=why):
        run_query(relations, sql)


@pytest.mark.parametrize("limits", [{"rows": -1}, {"seconds": -1}, {"seconds": math.nan}, {"seconds": math.inf}])
def test_limits_that_are_none_are_refused(relations, limits: dict[str, float]):
    with pytest.raises(BadQuery, match=r"limited to a number of rows and seconds, found .*; give others"):
        run_query(relations, "SELECT 1", **limits)


def test_a_query_that_takes_too_long_is_ended(relations):
    with pytest.raises(BadQuery, match=r"longer than 0\.2 seconds"):
        run_query(relations, "SELECT count(*) FROM range(100000000000) a, range(1000) b", seconds=0.2)


@pytest.mark.skipif(not Path("/proc").exists(), reason="it looks for processes as Linux lists them")
def test_a_question_ends_with_the_process_that_asked_it():
    ask = (
        "from validation.query.user_sql import run_query\nfrom validation.query.relations import Relations\n"
        "print('asks', flush=True)\n"
        "run_query(Relations(), 'SELECT count(*) FROM range(100000000000) a, range(1000) b', seconds=60)"
    )
    asking = subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True)
    assert asking.stdout
    asking.stdout.readline()
    children = children_of(asking.pid)
    while not children:
        children = children_of(asking.pid)
    asking.kill()
    asking.communicate()
    for _ in range(200):
        if not any(Path(f"/proc/{child}").exists() for child in children):
            return
        time.sleep(0.1)
    pytest.fail("the question went on without the process that asked it")


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_result_with_too_many_rows_says_so(relations):
    found = run_query(relations, "SELECT * FROM range(100000000000)", rows=5)
    assert (len(found.table), found.more) == (5, True)
    assert [*found.notes()] == ["These are the first 5 rows; the query has more."]
    assert not run_query(relations, "SELECT * FROM range(5)", rows=5).more


def test_a_result_of_many_bytes_is_cut(relations):
    found = run_query(relations, "SELECT repeat('x', 60000) FROM range(1000)")
    assert found.more
    assert 200 < len(found.table) < 300  # 16 MiB
    found = run_query(relations, "SELECT repeat('ä', 40000) AS x, 1 AS y UNION ALL SELECT 'short', 2")
    assert found.cut == 1
    assert found.table["x"][0].as_py() == "ä" * 32768 + " … (cut; 80,000 bytes)"
    assert [*found.notes()] == ["Cut: 1 cell of more than 64 KiB."]
    with pytest.raises(BadQuery, match="one row is larger"):
        run_query(relations, "SELECT " + ", ".join(["repeat('x', 65000)"] * 300))


def test_every_type_arrives(relations):
    sql = (
        "SELECT 1::TINYINT AS a, 0.5 AS b, true AS c, 'x' AS d, NULL AS e, sum(i) AS f, DATE '2026-01-02' AS g, "
        "TIMESTAMP '2026-01-02 03:04:05' AS h, [1, NULL] AS i, {'x': 'y'} AS j, '\\xAB'::BLOB AS k, "
        "170141183460469231731687303715884105727 AS l, MAP {'a': 1} AS m, 'nan'::DOUBLE AS n FROM range(4) t(i)"
    )
    (row,) = python_rows(run_query(relations, sql).table)
    assert math.isnan(row.pop("n"))
    assert row == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "x",
        "e": None,
        "f": 6,
        "g": "2026-01-02",
        "h": "2026-01-02 03:04:05",
        "i": [1, None],
        "j": {"x": "y"},
        "k": "\\xAB",
        "l": "170141183460469231731687303715884105727",
        "m": {"a": 1},
    }


def test_a_value_that_python_has_not_arrives_as_text(relations):
    (row,) = run_query(relations, "SELECT '2000-01-01 (BC)'::TIMESTAMP AS x").table.to_pylist()
    assert row == {"x": "2000-01-01 (BC) 00:00:00"}


def test_an_answer_is_the_same_as_that_of_the_database_itself(relations, runs):
    sql = "SELECT * FROM dynamics ORDER BY run, expert, step"
    asked, itself = run_query(relations, sql).table, connect(runs).sql(sql).to_arrow_table()
    assert asked.to_pylist() == itself.to_pylist()


def test_the_docs_say_how_many_hostile_questions_there_are():
    page = Path(__file__).parents[3] / "docs" / "reading.md"
    assert f"asks {len([*hostile_questions()])} questions" in page.read_text(encoding="utf-8")


SHORT = [*hostile_questions()][:: 1 if os.environ.get("PRISMATIC_QUESTIONS") else 16]


@pytest.mark.parametrize("kind", ["reach", "change", "time", "memory", "crash", "odd"])
def test_a_hostile_question_changes_and_shows_nothing(relations, kind: str):
    """All of them, with their seconds and bytes, are asked by benchmarks/questions.py."""
    for sql in [sql for of, sql in SHORT if of == kind]:
        with contextlib.suppress(BadQuery):
            answer = str(run_query(relations, sql, seconds=0.5).table.to_pylist())
            assert kind != "change", sql
            assert "root:" not in answer, sql
    assert not [*Path("/tmp").glob("prismatic-sql*")]


def test_the_command_reads_files_and_sets_alike(files: list[Path], runs, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("PRISMATIC_CACHE", str(tmp_path / "cache"))
    write_set(runs, tmp_path / "set")
    sql = "SELECT run, expert, max(top_norm) AS top FROM dynamics GROUP BY ALL ORDER BY run, expert"
    answers = []
    for sources in (
        [*map(str, files)],
        [str(tmp_path / "set")],
        [str(files[0].parent / "0.db"), str(tmp_path / "set")],
    ):
        assert main(["query", sql, *sources, "--format", "json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 10


def test_the_command_prints_tables_and_csv(files: list[Path], capsys):
    sql = "SELECT run, seed, NULL AS nothing, 'a,b' AS text FROM runs ORDER BY run LIMIT 2"
    assert main(["query", sql, *map(str, files), "--no-cache", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["nothing"], row["text"]) for row in rows] == [("", "a,b")] * 2
    assert main(["query", sql, *map(str, files), "--no-cache"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["run", "seed", "nothing", "text"]


def test_a_text_that_a_spreadsheet_would_run_is_marked(files: list[Path], capsys):
    sql = "SELECT '=1+1' AS a, '-x' AS \"+b\", -1.5 AS c, -2 AS d, 'x' AS e"
    assert main(["query", sql, str(files[0]), "--no-cache", "--format", "csv"]) == 0
    assert capsys.readouterr().out == "a,'+b,c,d,e\n'=1+1,'-x,-1.5,-2,x\n"


def test_the_command_prints_every_cell_and_what_json_has(files: list[Path], capsys):
    sql = "SELECT 1 AS x, 2 AS y, 3 AS x, 'nan'::DOUBLE AS z, 18446744073709551615 AS big"
    assert main(["query", sql, str(files[0]), "--no-cache", "--format", "csv"]) == 0
    assert capsys.readouterr().out == "x,y,x_1,z,big\n1,2,3,nan,18446744073709551615\n"
    assert main(["query", sql, str(files[0]), "--no-cache", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert row == {"x": 1, "y": 2, "x_1": 3, "z": None, "big": 2**64 - 1}


def test_the_command_reports_errors_and_skipped_files(files: list[Path], tmp_path: Path, capsys):
    (tmp_path / "x.db").write_text("no database")
    assert main(["query", "DELETE FROM runs", str(files[0]), "--no-cache"]) == 2
    assert "expected one SELECT, found DELETE" in capsys.readouterr().err
    assert main(["query", "SELECT 1", str(files[0]), str(tmp_path / "x.db"), "--no-cache"]) == 0
    assert "skipped: " in capsys.readouterr().err
    assert main(["query", "SELECT * FROM range(9)", str(files[0]), "--rows", "3", "--no-cache"]) == 0
    assert "the first 3 rows; the query has more" in capsys.readouterr().err


def test_the_command_compacts_runs_into_a_set_that_check_takes(files: list[Path], tmp_path: Path, capsys):
    target = str(tmp_path / "set")
    assert main(["compact", *map(str, files), "-o", target, "--no-cache"]) == 0
    assert "5 runs" in capsys.readouterr().out
    codes = [main(["check", "--json", "--no-cache", *sources]) for sources in ([target], [*map(str, files)])]
    assert codes[0] == codes[1]
    assert main(["compact", *map(str, files), "-o", target, "--no-cache"]) == 2
    assert "there is a set already" in capsys.readouterr().err


def test_a_limit_can_be_set_and_is_named_when_it_is_met(files: list[Path], capsys):
    assert main(["query", "SELECT count(*) AS n FROM runs", str(files[0]), "--no-cache", "--limit", "rows=50"]) == 0
    captured = capsys.readouterr()
    assert "limit `rows`" in captured.err
    for wrong, why in (
        ("row=5", "unknown limit 'row'"),
        ("rows=many", "expected a number above 0"),
        ("rows=-1", "above 0"),
    ):
        assert main(["check", str(files[0]), "--no-cache", "--limit", wrong]) == 2
        assert why in capsys.readouterr().err
