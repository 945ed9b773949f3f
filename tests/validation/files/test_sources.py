"""Runs are the same from a run file, the cache, a set in a folder and a set in an object store."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from prismatic import DynamicsLogger
from tests.support import bad_files
from tests.support.oracles import ask_oracle
from tests.support.set_files import read_in_process
from tests.support.simulated_runs import simulated_run, write
from validation.files import cache as caching
from validation.files import parquet_set
from validation.files.cache import Cache
from validation.files.errors import NotASet
from validation.files.parquet_set import write_set
from validation.files.read_sets import fetch_parts
from validation.files.run_file import RunFile
from validation.files.set_manifest import Part, SetLocation, is_set
from validation.files.sources import read_sources
from validation.judgement.judge import judge
from validation.query.database import connect, open_database
from validation.query.questions import ask
from validation.query.set_database import relations_of_sets
from validation.query.user_sql import run_query
from validation.report.json_report import as_json

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.db"))
TABLES = ("wide", "layers", "pairs", "histograms", "experts", "tiers", "events")


@pytest.fixture(scope="module")
def runs() -> list[RunFile]:
    found, rejected = read_sources(EXAMPLES)
    assert len(found) == len(EXAMPLES) >= 3
    assert not rejected
    return found


@pytest.fixture
def folder(runs: list[RunFile], tmp_path: Path) -> Path:
    write_set(runs, tmp_path / "set")
    return tmp_path / "set"


def assert_equal(one: RunFile, other: RunFile) -> None:
    for table in TABLES:
        assert getattr(one, table).equals(getattr(other, table)), table
    for name in ("id", "sha256", "facts", "duplicates", "ignored", "notes", "wal", "application_id", "version"):
        assert getattr(one, name) == getattr(other, name), name


def many(folder: Path, count: int) -> list[Path]:
    return [write(simulated_run(seed=i), folder / f"{i}.db", **{"config.seed": i}) for i in range(count)]


# -- The cache ---------------------------------------------------------------------------------------------------------


def test_a_run_from_the_cache_is_the_run_from_the_file(runs: list[RunFile], tmp_path: Path):
    cache = Cache(tmp_path)
    read_sources(EXAMPLES, cache=cache)
    again, _ = read_sources(EXAMPLES, cache=cache)
    for one, other in zip(runs, again, strict=True):
        assert_equal(one, other)
        assert (one.name, one.path) == (other.name, other.path)
    assert as_json(judge(again)) == as_json(judge(runs))


def test_a_file_that_is_known_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = Cache(tmp_path / "cache")
    read_sources(EXAMPLES, cache=cache)
    monkeypatch.setattr("validation.files.sandbox.sqlite_client.SqliteClient.read", lambda *_, **__: 1 / 0)
    assert len(read_sources(EXAMPLES, cache=cache)[0]) == len(EXAMPLES)
    with pytest.raises(ZeroDivisionError):
        read_sources(EXAMPLES)


def test_a_file_that_changed_is_read_again(tmp_path: Path):
    path, cache = tmp_path / "dynamics.db", Cache(tmp_path / "cache")
    for steps in (2, 3):
        with DynamicsLogger(path) as logger:
            logger.log(steps, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
        (run,), _ = read_sources([path], cache=cache)
        assert len(run.wide) == steps - 1


def test_a_run_that_is_being_trained_is_not_cached(tmp_path: Path):
    cache = Cache(tmp_path / "cache")
    with DynamicsLogger(tmp_path / "dynamics.db") as logger:
        logger.log_run({"exit_state": "running"})
        logger.log(0, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
    read_sources([tmp_path / "dynamics.db"], cache=cache)
    assert not list((tmp_path / "cache").rglob("*.arrow"))


@pytest.mark.parametrize("damage", ["truncated", "text", "no metadata"])
def test_a_damaged_entry_is_replaced_from_the_file(tmp_path: Path, runs: list[RunFile], damage: str):
    cache = Cache(tmp_path)
    read_sources(EXAMPLES[:1], cache=cache)
    (entry,) = (file for file in tmp_path.rglob("*.arrow") if file.stem.count(".") == 0)
    if damage == "truncated":
        entry.write_bytes(entry.read_bytes()[:-100])
    elif damage == "text":
        entry.write_text("nonsense")
    else:
        table = pa.ipc.open_file(entry.read_bytes()).read_all().replace_schema_metadata(None)
        with pa.ipc.new_file(entry, table.schema) as file:
            file.write_table(table)
    for _ in range(2):
        (again,), _ = read_sources(EXAMPLES[:1], cache=cache)
        assert_equal(again, runs[0])
    assert cache.get(runs[0].sha256) is not None


def test_a_cache_that_cannot_be_written_is_ignored(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    assert len(read_sources(EXAMPLES, cache=Cache(tmp_path / "file"))[0]) == len(EXAMPLES)


def test_entries_of_another_version_of_the_reader_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read_sources(EXAMPLES, cache=Cache(tmp_path))
    monkeypatch.setattr(caching, "_reader_version", lambda: "another")
    assert Cache(tmp_path).get(read_sources(EXAMPLES[:1])[0][0].sha256) is None


def test_entries_used_longest_ago_are_removed_when_the_cache_is_full(tmp_path: Path):
    files = many(tmp_path, 6)
    for number, path in enumerate(files):
        read_sources([path], cache=Cache(tmp_path / "cache"))
        for entry in (tmp_path / "cache").rglob("*.arrow"):
            os.utime(entry, (number, number)) if entry.stat().st_mtime > 1000 else None
    one = max(entry.stat().st_size for entry in (tmp_path / "cache").rglob("*.arrow"))
    small = Cache(tmp_path / "cache", max_bytes=4 * one)
    (extra,) = many(tmp_path / "more", 7)[6:]
    read_sources([extra], cache=small)
    kept = [small.get(read_sources([path])[0][0].sha256) is not None for path in [*files, extra]]
    assert kept == sorted(kept)
    assert kept[-1]
    assert 1 <= sum(kept) <= 4


# -- Sets --------------------------------------------------------------------------------------------------------------


def test_a_set_holds_the_runs_as_their_files_do(runs: list[RunFile], folder: Path):
    back = {run.id: run for run in read_in_process(folder)}
    assert back.keys() == {run.id for run in runs}
    for run in runs:
        assert_equal(run, back[run.id])


def test_runs_of_different_shapes_share_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet_set, "PART_RUNS", 2)
    for number, experts in enumerate((2, 5, 3)):
        with DynamicsLogger(tmp_path / str(number) / "dynamics.db") as logger:
            logger.log_run({"config.perturbation_scale": 0.5 * number, "config.seed": number})
            for step in range(number):  # the first run has no rows
                gradients = {f"expert_{i}": {"top_norm": i + step, "odd": 7.0} for i in range(experts)}
                logger.log(step, {"expert_gradients": gradients}, loss=float(step))
            logger._ensure_schema(experts)
    before, _ = read_sources([tmp_path])
    write_set(before, tmp_path / "set")
    back = {run.id: run for run in read_in_process(tmp_path / "set")}
    assert len(back) == 3
    for run in before:
        assert_equal(run, back[run.id])
    assert {path.parent.name for path in (tmp_path / "set" / "runs").rglob("*.parquet")} == {
        "perturbation_scale=0",
        "perturbation_scale=0.5",
        "perturbation_scale=1",
    }


def test_the_verdict_on_a_set_is_the_verdict_on_its_files(runs: list[RunFile], folder: Path):
    from_set, rejected = read_sources([folder])
    assert not rejected
    order = [run.id for run in runs]
    in_order = sorted(from_set, key=lambda run: order.index(run.id))
    assert as_json(judge(in_order))["controlled"] == as_json(judge(runs))["controlled"]


def test_relations_of_a_set_are_those_of_its_files(runs: list[RunFile], folder: Path):
    files, lazily = connect(runs), open_database(relations_of_sets([folder]))
    for question in (
        "SELECT run, expert, role, count(*), median(top_norm), max(direction) FROM dynamics GROUP BY ALL ORDER BY ALL",
        "SELECT run, steps, experts, seed, perturbation_scale, merge FROM runs ORDER BY run",
        "SELECT * FROM facts ORDER BY run, key",
        "SELECT run, layer, expert, source, sum(norm) FROM layers GROUP BY ALL ORDER BY ALL",
        "SELECT run, layer, expert, other, sum(weight_distance) FROM pairs GROUP BY ALL ORDER BY ALL",
        "SELECT count(*) FROM histograms",
    ):
        assert files.sql(question).fetchall() == lazily.sql(question).fetchall(), question


def test_the_projects_own_questions_are_asked_of_sets_as_well(runs: list[RunFile], folder: Path):
    lazily = open_database(relations_of_sets([folder]))
    given = {"first": runs[0].id, "second": runs[1].id}
    assert ask(lazily, "facts_of_two", **given).equals(ask(connect(runs), "facts_of_two", **given))
    chart = {"run": runs[0].id, "points": 64}
    assert ask_oracle(lazily, "chart_series", **chart).equals(ask_oracle(connect(runs), "chart_series", **chart))


def test_a_set_opens_no_other_file(folder: Path, tmp_path: Path):
    (tmp_path / "secret.csv").write_text("x\n1\n")
    with pytest.raises(duckdb.PermissionException):
        open_database(relations_of_sets([folder])).sql(f"SELECT * FROM '{tmp_path}/secret.csv'").fetchall()


def test_several_sets_are_asked_together(tmp_path: Path):
    for number, path in enumerate(many(tmp_path, 2)):
        write_set(read_sources([path])[0], tmp_path / f"set{number}")
    con = open_database(relations_of_sets([tmp_path / "set0", tmp_path / "set1"]))
    assert con.sql("SELECT count(*), count(DISTINCT run) FROM runs").fetchall() == [(2, 2)]


def test_a_run_that_is_in_a_set_and_in_a_file_is_read_once(runs: list[RunFile], folder: Path):
    both, _ = read_sources([*EXAMPLES, folder])
    assert [run.id for run in both] == [run.id for run in runs]


def test_other_runs_with_the_same_id_get_another_one(tmp_path: Path):
    for number in (1, 2):
        path = tmp_path / f"{number}.db"
        with DynamicsLogger(path) as logger:
            logger.log_run({"run_hash": "abcdef123"})
            logger.log(number, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
    write_set(read_sources([tmp_path / "2.db"])[0], tmp_path / "set")
    assert [run.id for run in read_sources([tmp_path / "1.db", tmp_path / "set"])[0]] == ["abcdef123", "abcdef123-2"]


def test_a_set_is_written_once_and_only_if_there_is_a_run(runs: list[RunFile], folder: Path, tmp_path: Path):
    with pytest.raises(NotASet, match="there is a set already"):
        write_set(runs, folder)
    with pytest.raises(NotASet, match="there is no run to write"):
        write_set([], tmp_path / "empty")
    assert not is_set(tmp_path / "empty")


@pytest.mark.parametrize("damage", ["manifest", "format", "part", "missing", "fewer runs than promised"])
def test_a_damaged_set_is_an_error_beside_the_other_runs(folder: Path, damage: str):
    if damage == "manifest":
        (folder / "prismatic-set.json").write_text("{")
    elif damage == "format":
        (folder / "prismatic-set.json").write_text('{"format": "prismatic-set/9"}')
    elif damage == "fewer runs than promised":
        for part in (folder / "runs").rglob("*.parquet"):
            part.unlink()
    elif damage == "part":
        next((folder / "dynamics").rglob("*.parquet")).write_bytes(b"nonsense")
    else:
        next((folder / "layers").rglob("*.parquet")).unlink()
    found, rejected = read_sources([EXAMPLES[0], folder])
    assert len(rejected) == 1
    assert rejected[0].error.id == "not_a_set"
    assert any(run.path == EXAMPLES[0] for run in found)


# -- An object store ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        made = urllib.request.Request(f"http://{host}:{port}/runs", method="PUT")
        urllib.request.urlopen(made).close()
        yield "s3://runs"
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        server.stop()


def test_a_set_in_an_object_store_is_like_one_in_a_folder(runs: list[RunFile], bucket: str):
    assert write_set(runs, f"{bucket}/2026/all") == len(runs)
    found, rejected = read_sources([f"{bucket}/2026/all"])
    assert not rejected
    for run in found:
        assert_equal(run, next(one for one in runs if one.id == run.id))
    asked = run_query(relations_of_sets([f"{bucket}/2026/all"]), "SELECT count(*) AS n FROM runs")
    assert asked.table["n"].to_pylist() == [len(runs)]


def test_a_part_is_not_copied_to_a_place_that_its_name_leads_to(tmp_path: Path):
    """A store may have keys with `..` in them, which no client of ours can write."""
    (tmp_path / "set" / "runs").mkdir(parents=True)
    (tmp_path / "outside.parquet").write_bytes(b"x")
    location, part = SetLocation.parse(tmp_path / "set"), Part("../../outside", {"runs": ""})
    with pytest.raises(NotASet, match=r"runs/../../outside.parquet lies outside the set"):
        fetch_parts(location, [part], tmp_path / "deep" / "copy")
    assert not [*(tmp_path / "deep").rglob("*")]


def test_an_address_without_a_set_is_an_error(bucket: str):
    (rejected,) = read_sources([f"{bucket}/nothing"])[1]
    assert "found no prismatic-set.json" in str(rejected.error)


# -- Threads -----------------------------------------------------------------------------------------------------------


def test_one_connection_answers_many_threads(runs: list[RunFile]):
    con = connect(runs)
    given = {"runs": [run.id for run in runs], "points": 64, "shared": True}
    expected = ask(con, "compare_series", **given).num_rows
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.append(ask(con, "compare_series", **given).num_rows)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 8


def test_facts_are_asked_for_by_name(runs: list[RunFile]):
    con = connect(runs)
    found = dict(con.sql("SELECT run, value FROM facts WHERE key = 'config.merge'").fetchall())
    assert found == {run.id: run.config["merge"] for run in runs if "merge" in run.config}


def test_the_manifest_names_the_format_the_number_of_runs_and_the_hash_of_each_file(folder: Path, runs: list[RunFile]):
    manifest = json.loads((folder / "prismatic-set.json").read_text())
    assert (manifest["format"], manifest["runs"]) == ("prismatic-set/2", len(runs))
    recorded = {
        f"{table}/{part}.parquet": sha256
        for part, tables in manifest["parts"].items()
        for table, sha256 in tables.items()
    }
    assert recorded == {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.parquet")
    }


def test_a_file_with_a_journal_beside_it_is_not_cached(tmp_path: Path):
    path = write(simulated_run(), tmp_path / "dynamics.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM events")
        writer.execute("INSERT INTO events (code) VALUES ('x')")
        read_sources([path], cache=Cache(tmp_path / "cache"))
        writer.execute("ROLLBACK")
    assert not list((tmp_path / "cache").rglob("*.arrow"))


BAD = [
    bad_files.empty,
    bad_files.csv,
    bad_files.zeros,
    bad_files.half_a_file,
    bad_files.btree_that_holds_itself,
    bad_files.endless_view,
    bad_files.virtual_table,
    bad_files.text_value,
    bad_files.null_step,
    bad_files.other_tables,
]


def test_fifty_mixed_files_give_forty_verdicts_and_ten_errors(tmp_path: Path):
    good = many(tmp_path, 40)
    for number, make in enumerate(BAD):
        make(tmp_path / f"bad-{number}.db")
    mixed = sorted([*good, *tmp_path.glob("bad-*.db")], key=lambda path: path.stem[::-1])
    runs, rejected = read_sources(mixed)
    judgement = judge(runs, rejected)
    assert (len(runs), len(rejected)) == (40, 10)
    of_runs = [c for c in judgement.verdict.controlled.claims if c.expert is None and c.run]
    assert len({claim.run for claim in of_runs}) == 40
    sentences = [finding for finding in judgement.findings if finding.run is None]
    assert len(sentences) == 10
    assert all(finding.evidence and finding.cause and finding.fix for finding in sentences)
