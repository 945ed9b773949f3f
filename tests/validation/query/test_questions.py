"""Questions in SQL against slow plain Python on the same runs; and questions of the user's own, within limits."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import statistics
import threading
from collections import defaultdict
from pathlib import Path

import pytest

from prismatic import DynamicsLogger
from tests.support import bad_files as hostile
from tests.support.simulated_runs import simulated_run, write
from validation.cli.main import main
from validation.files.limits import ReadLimits
from validation.files.parquet_set import write_set
from validation.files.sandbox.sqlite_client import SqliteClient
from validation.files.sources import read_sources
from validation.frames.downsample import chart_series
from validation.query.database import connect
from validation.query.questions import ask
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
def con(runs):
    return connect(runs)


def values(run, expert: int, metric: str) -> list[float]:
    return run.wide[f"expert_{expert}_{metric}"].to_pylist()


def test_medians_are_those_of_each_expert(con, runs):
    found = {(row["run"], row["expert"]): row for row in ask(con, "medians").to_pylist()}
    assert len(found) == sum(run.num_experts for run in runs)
    for run in runs:
        for expert in run.expert_ids:
            row = found[run.run, expert]
            assert row["steps"] == len(run.wide)
            for tier in TIERS:
                assert row[f"{tier}_norm"] == statistics.median(values(run, expert, f"{tier}_norm"))


def test_runs_are_grouped_by_everything_but_the_seed(con, runs):
    expected = defaultdict(set)
    for run, options in zip(runs, OPTIONS, strict=True):
        expected[options["perturbation_scale"], options["merge"]].add(run.run)
    found = defaultdict(set)
    for row in ask(con, "groups", besides=["seed"]).to_pylist():
        found[row["group"]].add(row["run"])
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, expected.values()))
    together = ask(con, "groups", besides=["seed", "perturbation_scale", "merge"]).to_pylist()
    assert {row["members"] for row in together} == {len(runs)}


def test_the_sham_of_a_run_differs_in_nothing_but_its_scale(con, runs):
    found = [(row["run"], row["sham"]) for row in ask(con, "shams", sham_scale=0.001).to_pylist()]
    assert found == [(runs[0].run, runs[2].run)]


def test_pairs_are_the_log_ratios_by_tier(con, runs):
    found = [row for row in ask(con, "pairs").to_pylist() if row["run"] == runs[1].run]
    for tier in TIERS:
        own = [row["log_ratio"] for row in found if (row["tier"], row["expert"]) == (tier, 1)]
        pairs = zip(values(runs[1], 1, f"{tier}_norm"), values(runs[1], 0, f"{tier}_norm"), strict=True)
        assert own == pytest.approx([math.log(mine / clean) for mine, clean in pairs], rel=1e-12)


def test_the_heatmap_has_the_mean_of_each_layer_expert_and_tier(tmp_path: Path):
    layers = [
        {"layer": layer, "expert": expert, "source": source, **{f"{tier}_norm": 1.0 for tier in TIERS}}
        for layer in range(3)
        for expert in range(2)
        for source in ("merged", "isolated")
    ]
    with DynamicsLogger(tmp_path / "dynamics.db") as logger:
        for step in range(10):
            rows = [row | {"top_norm": step + row["layer"] + row["expert"] / 2} for row in layers]
            logger.log(step, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}, "layers": rows})
    (run,), _ = read_sources([tmp_path / "dynamics.db"])
    cells = ask(connect([run]), "heatmap", run=run.run, first_step=2, last_step=5).to_pylist()
    assert len(cells) == 3 * 2 * 3
    for cell in cells:
        expected = 3.5 + cell["layer"] + cell["expert"] / 2 if cell["tier"] == "top" else 1.0
        assert (cell["norm"], cell["steps"]) == (expected, 4)


def test_routing_tells_from_which_step_on_a_router_is_collapsed(tmp_path: Path):
    shares = [0.5, 0.6, 0.99, 0.7, 0.99, 0.995, 0.999, 0.999, 0.999, 0.999]
    with DynamicsLogger(tmp_path / "dynamics.db") as logger:
        for step, share in enumerate(shares):
            experts = {
                "expert_0": {"top_norm": 1.0, "routing_weight": share},
                "expert_1": {"routing_weight": 1 - share},
            }
            logger.log(10 * step, {"expert_gradients": experts})
    (run,), _ = read_sources([tmp_path / "dynamics.db"])
    first, second = ask(connect([run]), "routing", low=0.05, high=0.95).to_pylist()
    assert (first["first_share"], first["last_share"], first["collapsed_at"]) == (0.5, 0.999, 40)
    assert second["collapsed_at"] == 40
    calm, _ = ask(connect([run]), "routing", low=0.0, high=1.0).to_pylist()
    assert calm["collapsed_at"] is None


@pytest.mark.parametrize("points", [2, 7, 64, 101, 5000])
def test_a_chart_is_what_the_question_in_sql_finds(tmp_path: Path, points: int):
    noise = random.Random(points)
    odd = [None, math.inf, -math.inf, 0.0, 1.0, 1.0]  # also twice in a bucket: the first one is drawn
    rows = [
        (7 * step, *(noise.choice(odd) if noise.random() < 0.7 else noise.gauss(0, 1) for _ in range(6)))
        for step in range(501)
    ]
    rows[100:300] = [(step, *values[:2], None, *values[3:]) for step, *values in rows[100:300]]
    path = hostile.database(tmp_path / "a.db", *hostile.dynamics(rows))
    (run,), _ = read_sources([path])
    long = chart_series(run, points)
    assert long.equals(ask(connect([run]), "chart_series", run=run.run, points=points))
    assert long.num_rows <= 16 * points


def test_a_chart_of_no_rows_has_none(tmp_path: Path):
    path = hostile.database(tmp_path / "a.db", *hostile.dynamics([]))
    (run,), _ = read_sources([path])
    assert chart_series(run, 100).num_rows == 0


# -- Questions of the user's own ---------------------------------------------------------------------------------------


def test_a_question_is_answered(con, runs):
    found = run_query(con.cursor(), "SELECT run, count(*) AS n FROM dynamics GROUP BY run ORDER BY run")
    assert found.table.to_pylist() == [{"run": run, "n": 240} for run in sorted(run.run for run in runs)]
    assert not found.cut


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
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
        ("SELECT * FROM 'x.parquet'", "disabled"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled"),
        ("SELECT * FROM runs_that_are_not_there", "does not exist"),
        ("SELECT norm FROM dynamics WHERE", "syntax error"),
        ("SELECT * FROM files", "does not exist"),
    ],
)
def test_what_is_no_question_or_reaches_outside_is_refused_and_changes_nothing(con, sql: str, why: str):
    files = con  # a variable of Python is no table either
    with pytest.raises(BadQuery, match=why):
        run_query(files.cursor(), sql)
    assert con.execute("SELECT count(*) FROM dynamics").fetchall() == [(5 * 240,)]


def test_a_question_that_takes_too_long_is_ended(con):
    with pytest.raises(BadQuery, match=r"longer than 0\.2 seconds"):
        run_query(con.cursor(), "SELECT count(*) FROM range(100000000000) a, range(1000) b", seconds=0.2)
    assert run_query(con.cursor(), "SELECT 1 AS x").table.to_pylist() == [{"x": 1}]


def test_an_answer_with_too_many_rows_is_cut_and_says_so(con):
    found = run_query(con.cursor(), "SELECT * FROM range(100000000000)", rows=5)
    assert (len(found.table), found.cut) == (5, True)
    assert not run_query(con.cursor(), "SELECT * FROM range(5)", rows=5).cut


def test_the_command_answers_about_files_and_sets_alike(files: list[Path], runs, tmp_path: Path, capsys, monkeypatch):
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


def test_the_command_says_what_is_wrong_and_what_was_left_out(files: list[Path], tmp_path: Path, capsys):
    (tmp_path / "x.db").write_text("no database")
    assert main(["query", "DELETE FROM runs", str(files[0]), "--no-cache"]) == 2
    assert "expected one SELECT, found DELETE" in capsys.readouterr().err
    assert main(["query", "SELECT 1", str(files[0]), str(tmp_path / "x.db"), "--no-cache"]) == 0
    assert "skipped: " in capsys.readouterr().err
    assert main(["query", "SELECT * FROM range(9)", str(files[0]), "--rows", "3", "--no-cache"]) == 0
    assert "printed the first 3 rows" in capsys.readouterr().err


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


def test_at_most_two_workers_run_at_once(files: list[Path]):
    busy = [SqliteClient(ReadLimits()) for _ in range(2)]
    try:
        for client in busy:
            client.read(files[0], "x", immutable=True)
        third = threading.Thread(target=read_sources, args=(files[:1],))
        third.start()
        third.join(0.5)
        assert third.is_alive()
        busy[0].close()
        third.join(30)
        assert not third.is_alive()
    finally:
        for client in busy:
            client.close()
