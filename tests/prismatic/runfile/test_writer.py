"""The writing thread: rows wait while the file is locked or memory is full, and lost rows are counted."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from prismatic.runfile import database, writer
from prismatic.runfile.logger import DynamicsLogger
from tests.support.logged_runs import codes, dynamics, log_steps, pragma, rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "build" / "runs" / "abc" / "dynamics.db"


def test_without_a_flush_interval_rows_are_written_after_a_lock_ends(path: Path, short_waits, monkeypatch):
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.05)
    with DynamicsLogger(path, flush_seconds=0) as logger:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            logger.log(0, dynamics())
            time.sleep(0.2)
            other.execute("ROLLBACK")
        deadline = time.monotonic() + 10
        while not rows(path) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(rows(path)) == 1
        with pytest.warns(RuntimeWarning, match="cannot be written now"):
            logger.flush()


def test_rows_may_wait_for_the_end_of_the_run(path: Path):
    with DynamicsLogger(path, flush_seconds=math.inf) as logger:
        for step in range(10):
            logger.log(step, dynamics())
    assert len(rows(path)) == 10


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time that the writer waits for a lock."""
    monkeypatch.setattr(database, "WRITE_SECONDS", 0.05)


def test_a_locked_file_delays_rows_and_loses_none(path: Path, short_waits):
    logger = DynamicsLogger(path, flush_seconds=0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(RuntimeWarning, match="cannot be written now") as warned:
            log_steps(logger)
        assert not logger.flush()
        other.execute("ROLLBACK")
    logger.log(3, dynamics())
    assert logger.flush()
    logger.close()
    assert len(warned) == 1
    assert [row["step"] for row in rows(path)] == [0, 1, 2, 3]


def test_a_reader_that_holds_its_lock_while_a_row_is_written_loses_none(path: Path, short_waits):
    with DynamicsLogger(path, flush_seconds=0) as logger:
        logger.log(0, dynamics())
        logger.flush()
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM dynamics").fetchone() == (1,)
            logger.log(1, dynamics())
            with pytest.warns(RuntimeWarning, match="cannot be written now"):
                assert not logger.flush()
    assert [row["step"] for row in rows(path)] == [0, 1]


def test_a_reader_does_not_delay_rows_in_wal_mode(path: Path):
    with DynamicsLogger(path, journal_mode="wal") as logger:
        logger.log(0, dynamics())
        logger.flush()
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM dynamics").fetchone() == (1,)
            logger.log(1, dynamics())
            assert logger.flush()
    assert [row["step"] for row in rows(path)] == [0, 1]
    assert pragma(path, "journal_mode") == "delete"  # the finished file is complete without a -wal file


def test_closing_waits_for_a_reader_to_finish(path: Path):
    logger = DynamicsLogger(path, flush_seconds=1e9)
    logger.log(0, dynamics())
    logger.log(1, dynamics())
    locked = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    locked.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.7, locked.close)
    timer.start()
    logger.close()
    timer.join()
    assert [row["step"] for row in rows(path)] == [0, 1]


def test_rows_that_could_not_be_written_at_close_are_counted_and_warned_of(path: Path, short_waits, monkeypatch):
    monkeypatch.setattr(writer, "CLOSE_SECONDS", 0.2)
    logger = DynamicsLogger(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for step in range(5):
            logger.log(step, dynamics())
        with pytest.warns(RuntimeWarning, match="cannot be written now|5 logged steps were lost") as warned:
            logger.close()
    assert (logger.dropped, len(warned)) == (5, 2)
    assert rows(path) == []


def test_columns_for_more_experts_wait_for_a_lock_like_rows(path: Path, short_waits):
    with DynamicsLogger(path, flush_seconds=0) as logger, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(RuntimeWarning, match="cannot be written now"):
            logger._ensure_schema(3)
        logger.log(0, dynamics(3))
        other.execute("ROLLBACK")
    assert rows(path)[0]["expert_2_top_norm"] == 2.5


def test_a_full_memory_drops_further_steps_and_counts_them(path: Path, short_waits, monkeypatch):
    monkeypatch.setattr(writer, "MAX_WAITING", 1000)
    step_dynamics = {"expert_gradients": {"expert_0": {"top_norm": 1.0}, "expert_1": {"top_norm": 1.0}}}
    logger = DynamicsLogger(path)
    with warnings.catch_warnings(record=True) as caught:  # the thread may or may not try to write before the lock ends
        warnings.simplefilter("always")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for step in range(2000):
                logger.log(step, step_dynamics, surprise=0.5)
            logger.log_run({"seed": 0})
            other.execute("ROLLBACK")
        assert logger.flush()
    assert not logger._writer.warnings
    assert {str(warning.message).partition(": ")[2][:21] for warning in caught} <= {"cannot be written now"}
    seen = [row["step"] for row in rows(path, "SELECT step FROM dynamics ORDER BY step")]
    assert seen == list(range(len(seen)))
    assert logger.dropped == 2000 - len(seen) > 1500
    assert set(codes(path)) == {"dropped"}
    last = rows(path, "SELECT message FROM events ORDER BY id DESC")[0]["message"]
    assert last.startswith(f"{logger.dropped} logged steps were dropped")
    assert rows(path, "SELECT key FROM run") == [{"key": "seed"}]
    logger.log(3000, step_dynamics)
    logger.close()
    assert [row["step"] for row in rows(path)][-1] == 3000


def test_closing_twice_has_no_further_effect(path: Path):
    logger = DynamicsLogger(path)
    logger.log(0, dynamics())
    logger.close()
    logger.close()
    with logger:
        pass
    assert len(rows(path)) == 1


def test_the_file_is_closed_and_complete_after_an_exception(path: Path):
    with pytest.raises(KeyError), DynamicsLogger(path, flush_seconds=1e9) as logger:  # noqa: PT012
        log_steps(logger)
        raise KeyError("a bug in a training loop")
    assert [row["step"] for row in rows(path)] == [0, 1, 2]
    with pytest.warns(RuntimeWarning, match="steps are no longer logged: the logger is closed") as warned:
        log_steps(logger)
    assert (len(warned), logger.dropped) == (1, 3)


def test_rows_reach_the_file_when_the_program_ends_without_closing(path: Path):
    program = f"""if True:
        from prismatic.runfile.logger import DynamicsLogger
        logger = DynamicsLogger({str(path)!r}, flush_seconds=1e9)
        for step in range(3):
            logger.log(step, {{"expert_gradients": {{"expert_0": {{"top_norm": 1.0}}}}}})
        raise SystemExit(3)"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 3
    assert [row["step"] for row in rows(path)] == [0, 1, 2]


def test_another_thread_may_log(path: Path):
    with DynamicsLogger(path, flush_seconds=0) as logger:
        thread = threading.Thread(target=logger.log, args=(0, dynamics()))
        thread.start()
        thread.join()
    assert len(rows(path)) == 1


def test_rows_are_on_disk_while_training_goes_on(path: Path):
    with DynamicsLogger(path, flush_seconds=0) as logger:
        for step in range(3):
            logger.log(step, dynamics())
            logger.flush()
            assert len(rows(path)) == step + 1
