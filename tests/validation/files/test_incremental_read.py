"""IncrementalReader against whole readings of a run in training, after everything that the logger may do."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prismatic import DynamicsLogger
from tests.validation.files.test_sources import assert_equal
from validation.files.limits import ReadLimits
from validation.files.run_file import RunFile
from validation.files.sandbox.incremental_read import IncrementalReader
from validation.files.sandbox.sqlite_client import SqliteClient
from validation.files.sources import read_sources

TIERS = ("top", "bottom", "middle")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "dynamics.db"


@pytest.fixture
def growing() -> IncrementalReader:
    return IncrementalReader()


@pytest.fixture
def logger(path: Path) -> Iterator[DynamicsLogger]:
    with DynamicsLogger(path) as logger:
        logger.log_run({"exit_state": "running", "run_hash": "abcdef123456", "config.seed": 1})
        yield logger


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record for each request to the child whether it was only for the new rows."""
    seen: list[bool] = []
    read = SqliteClient.read

    def spy(self: SqliteClient, path: Path, name: str, **given: Any) -> Any:
        seen.append(bool(given.get("since")))
        return read(self, path, name, **given)

    monkeypatch.setattr(SqliteClient, "read", spy)
    return seen


def log(logger: DynamicsLogger, steps: range, *, experts: int = 2, layers: int = 2, **scalars: float) -> None:
    """Log rows of every growing table, with different numbers in each."""
    names = [f"{tier}_norm" for tier in TIERS]
    for step in steps:
        norms = {f"expert_{e}": dict.fromkeys(names, 1 + step + e / 8) for e in range(experts)}
        rows = [
            {"layer": layer, "expert": e, "source": "merged", **dict.fromkeys(names, step + layer + e / 4)}
            for layer in range(layers)
            for e in range(experts)
        ]
        logger.log(step, {"expert_gradients": norms, "layers": rows}, loss=1 / (1 + step), **scalars)
    logger.flush()


def whole(path: Path) -> RunFile:
    (run,), rejected = read_sources([path])
    assert not rejected
    return run


def again(path: Path, growing: IncrementalReader) -> RunFile:
    (run,), rejected = read_sources([path], growing=growing)
    assert not rejected
    return run


def test_only_the_new_rows_of_a_growing_file_are_read(
    path: Path, logger: DynamicsLogger, growing: IncrementalReader, asked: list[bool]
):
    for start in range(0, 50, 5):  # more often than MAX_CHUNKS
        log(logger, range(start, start + 5))
        assert_equal(again(path, growing), whole(path))
    assert asked == [False, False] + [True, False] * 9


def test_a_reading_without_new_rows_returns_the_same_run(
    path: Path, logger: DynamicsLogger, growing: IncrementalReader
):
    log(logger, range(5))
    assert_equal(again(path, growing), again(path, growing))


def test_the_first_rows_of_a_file_without_rows_are_read(path: Path, logger: DynamicsLogger, growing: IncrementalReader):
    logger._ensure_schema(2)
    logger.flush()
    for start in range(3):
        assert len(again(path, growing).wide) == start
        log(logger, range(start, start + 1))
    assert_equal(again(path, growing), whole(path))


@pytest.mark.parametrize("back_to", [0, 7, 9], ids=["the start", "a known step", "the last step"])
def test_a_rewind_in_between_is_noticed(path: Path, logger: DynamicsLogger, growing: IncrementalReader, back_to: int):
    log(logger, range(10))
    again(path, growing)
    log(logger, range(back_to, 12), learning_rate=5.0)
    read = again(path, growing)
    assert_equal(read, whole(path))
    assert read.wide["learning_rate"].null_count == back_to


def test_columns_that_come_later_are_empty_before(
    path: Path, logger: DynamicsLogger, growing: IncrementalReader, asked: list[bool]
):
    log(logger, range(5))
    again(path, growing)
    log(logger, range(5, 8), experts=4)
    grown = again(path, growing)
    assert asked[-1]
    assert_equal(grown, whole(path))
    assert grown.wide["expert_3_top_norm"].null_count == 5


def test_new_scalars_without_a_column_are_read(
    path: Path, logger: DynamicsLogger, growing: IncrementalReader, asked: list[bool]
):
    for start in range(0, 6, 2):
        log(logger, range(start, start + 2), experts=340, layers=0)
        assert_equal(again(path, growing), whole(path))
    assert True in asked


def test_another_run_in_its_place_is_read_whole(
    path: Path, logger: DynamicsLogger, growing: IncrementalReader, tmp_path: Path
):
    log(logger, range(5))
    again(path, growing)
    with DynamicsLogger(tmp_path / "other.db") as other:
        other.log_run({"exit_state": "running", "run_hash": "fedcba654321"})
        log(other, range(8), other=1.0)
    logger.close()
    shutil.copy(tmp_path / "other.db", path)
    assert_equal(again(path, growing), whole(path))
    (tmp_path / "other.db").replace(path)
    assert_equal(again(path, growing), whole(path))


def changed(sql: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(sql)

    return change


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE dynamics SET loss = 77 WHERE step = (SELECT max(step) FROM dynamics)",
        "DELETE FROM layers WHERE step >= 3",
        "DROP TABLE layers",
        "UPDATE run SET value = '\"finished\"' WHERE key = 'exit_state'",
        "ALTER TABLE dynamics DROP COLUMN loss",
    ],
)
def test_a_file_that_contradicts_the_known_rows_is_read_whole(
    path: Path, growing: IncrementalReader, asked: list[bool], sql: str
):
    with DynamicsLogger(path) as logger:
        logger.log_run({"exit_state": "running"})
        log(logger, range(5))
    again(path, growing)
    changed(sql)(path)
    assert_equal(again(path, growing), whole(path))
    assert asked == [False, True, False, False]


def test_a_limit_holds_for_old_and_new_rows_together(path: Path, logger: DynamicsLogger, growing: IncrementalReader):
    log(logger, range(5))
    limits = ReadLimits(rows=30)
    assert not read_sources([path], growing=growing, limits=limits)[0][0].notes
    log(logger, range(5, 10))
    (read,), _ = read_sources([path], growing=growing, limits=limits)
    (expected,), _ = read_sources([path], limits=limits)
    assert_equal(read, expected)
    assert "limit `rows`" in read.damage[0]


def test_files_of_other_writers_and_ended_runs_are_read_whole(
    path: Path, growing: IncrementalReader, asked: list[bool]
):
    with DynamicsLogger(path) as logger:
        logger.log_run({"exit_state": "finished"})
        log(logger, range(5))
    read_sources([path], growing=growing)
    changed("UPDATE run SET value = '\"running\"' WHERE key = 'exit_state'")(path)
    changed("PRAGMA application_id = 0")(path)
    for _ in range(2):
        again(path, growing)
    assert asked == [False] * 3
