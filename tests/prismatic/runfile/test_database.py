"""Opening run files for writing: locks, resume, overwrite, and files that are refused by name and not changed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from prismatic.contract import schema
from prismatic.errors import LoggerError
from prismatic.runfile.logger import DynamicsLogger
from tests.support.logged_runs import columns, dynamics, execute, pragma, rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "build" / "runs" / "abc" / "dynamics.db"


def test_overwrite_replaces_a_run(path: Path):
    with DynamicsLogger(path, num_experts=4) as logger:
        logger.log(50, dynamics(4))
        with pytest.raises(LoggerError, match="another DynamicsLogger"):
            DynamicsLogger(path, overwrite=True)
        logger.log(60, dynamics(4))
    assert len(rows(path)) == 2
    with DynamicsLogger(path, resume="never", overwrite=True) as logger:
        logger.log(0, dynamics(2))
    assert [row["step"] for row in rows(path)] == [0]
    assert "expert_3_top_norm" not in columns(path)


def test_a_run_file_is_a_rollback_journal_database_marked_as_ours(path: Path):
    DynamicsLogger(path).close()
    marks = [pragma(path, name) for name in ("application_id", "user_version", "journal_mode")]
    assert marks == [schema.APPLICATION_ID, schema.SCHEMA_VERSION, "delete"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["dynamics.db"]


def _text(path: Path) -> None:
    path.write_text("step,expert_0_top_norm\n" * 100)


def _directory(path: Path) -> None:
    path.mkdir()


def _file_in_the_way(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file where a folder should be")


def _marked_by_another_program(path: Path) -> None:
    execute(path, "PRAGMA application_id = 1196444487", "CREATE TABLE t (x)")


def _database_of_something_else(path: Path) -> None:
    execute(path, "CREATE TABLE moz_places (id INTEGER PRIMARY KEY, url TEXT)")


def _view_in_place_of_the_table(path: Path) -> None:
    execute(path, "CREATE VIEW dynamics AS SELECT 1 AS step")


FOREIGN = [
    _text,
    _directory,
    _file_in_the_way,
    _marked_by_another_program,
    _database_of_something_else,
    _view_in_place_of_the_table,
]


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__.strip("_"))
def test_other_files_are_refused_by_name_and_not_changed(path: Path, make):
    path.parent.mkdir(parents=True)
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(LoggerError, match=f"{path.name}: .*choose another path"):
        DynamicsLogger(path, num_experts=2)
    assert before == (path.read_bytes() if path.is_file() else None)


def test_a_file_that_is_locked_from_the_start_is_refused_by_name(path: Path):
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LoggerError, match=r"dynamics\.db: .*locked"):
            DynamicsLogger(path)


def test_a_file_that_is_being_written_has_no_second_writer(path: Path):
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics())
        with pytest.raises(LoggerError, match=r"dynamics\.db: another DynamicsLogger is writing this file"):
            DynamicsLogger(path)
        program = f"from prismatic.runfile.logger import DynamicsLogger; DynamicsLogger({str(path)!r})"
        second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert "another DynamicsLogger is writing this file" in second.stderr
        logger.log(1, dynamics())
    DynamicsLogger(path).close()
    assert [row["step"] for row in rows(path)] == [0, 1]


def test_a_deleted_logger_releases_its_file(path: Path):
    DynamicsLogger(path).log(0, dynamics())
    with DynamicsLogger(path) as logger:
        logger.log(1, dynamics())
    assert [row["step"] for row in rows(path)] == [0, 1]


def test_resume_says_whether_a_run_may_or_must_exist(path: Path):
    with pytest.raises(LoggerError, match="no run to resume"):
        DynamicsLogger(path, resume="must")
    DynamicsLogger(path, resume="never").close()
    with pytest.raises(LoggerError, match="already exists"):
        DynamicsLogger(path, resume="never")
    DynamicsLogger(path, resume="must").close()


def test_a_file_of_a_later_schema_version_is_refused_and_not_changed(path: Path):
    DynamicsLogger(path).close()
    execute(path, f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(
        LoggerError,
        match=f"has schema version {schema.SCHEMA_VERSION + 1}, newer than version {schema.SCHEMA_VERSION} known",
    ):
        DynamicsLogger(path)
    assert path.read_bytes() == before


def test_a_damaged_run_is_refused_at_resume(path: Path):
    with DynamicsLogger(path) as logger:
        for step in range(500):
            logger.log(step, dynamics())
    damaged = bytearray(path.read_bytes())
    damaged[8192:8292] = bytes(100)
    path.write_bytes(damaged)
    with pytest.raises(LoggerError, match=r"dynamics\.db: .*(damaged|malformed)"):
        DynamicsLogger(path)
    assert path.read_bytes() == bytes(damaged)


def test_a_run_file_of_another_program_is_continued(path: Path):
    path.parent.mkdir(parents=True)
    execute(path, "CREATE TABLE dynamics (step INTEGER PRIMARY KEY, expert_0_top_norm REAL)")
    with DynamicsLogger(path) as logger:
        logger.log(5, dynamics())
    assert rows(path)[0].items() >= {"step": 5, "expert_1_top_norm": 1.5}.items()
