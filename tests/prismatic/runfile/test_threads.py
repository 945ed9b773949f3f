"""Threads that log at the same time, and a program that ends while one of them still logs."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from prismatic.runfile.logger import DynamicsLogger
from tests.support.logged_runs import codes, rows


def step_of(value: float) -> dict:
    layer = {"layer": 0, "expert": 0, "source": "merged", "top_norm": value}
    return {"expert_gradients": {"expert_0": {"top_norm": value}}, "layers": [layer]}


@pytest.fixture
def tight_switch_interval():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(number: int, work) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_eight_threads_that_share_a_counter_lose_no_row(tmp_path: Path, tight_switch_interval):
    path, steps = tmp_path / "dynamics.db", itertools.count()

    def work():
        for step in iter(lambda: next(steps), None):
            if step >= 5_000:
                return
            logger.log(step, step_of(float(step)))

    with DynamicsLogger(path, flush_seconds=0.1) as logger:
        in_threads(8, work)
        assert logger.last_step == 4_999
    seen = rows(path, "SELECT step, expert_0_top_norm AS value FROM dynamics ORDER BY step")
    assert [(row["step"], row["value"]) for row in seen] == [(step, float(step)) for step in range(5_000)]
    assert rows(path, "SELECT count(*) AS n FROM layers") == [{"n": 5_000}]
    assert (codes(path), logger.dropped) == ([], 0)


def test_a_step_that_arrives_late_from_another_thread_takes_its_place(tmp_path: Path):
    path = tmp_path / "dynamics.db"
    with DynamicsLogger(path) as logger:
        for step in (0, 3, 4):
            logger.log(step, step_of(1.0))
        in_threads(1, lambda: [logger.log(step, step_of(2.0)) for step in (1, 2)])
        logger.log(5, step_of(1.0))
    seen = rows(path, "SELECT step, expert_0_top_norm AS value FROM dynamics ORDER BY step")
    assert [row["value"] for row in seen] == [1.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    assert codes(path) == []


def test_a_step_that_two_threads_log_is_replaced_and_reported(tmp_path: Path):
    path = tmp_path / "dynamics.db"
    with DynamicsLogger(path) as logger:
        for step in (0, 1, 2):
            logger.log(step, step_of(1.0))
        in_threads(1, lambda: logger.log(1, {"expert_gradients": {"expert_0": {"top_norm": 2.0}}}))
    seen = rows(path, "SELECT step, expert_0_top_norm AS value FROM dynamics ORDER BY step")
    assert [row["value"] for row in seen] == [1.0, 2.0, 1.0]
    assert [row["step"] for row in rows(path, "SELECT step FROM layers ORDER BY step")] == [0, 2]
    (event,) = rows(path, "SELECT code, step, message FROM events")
    assert event == {
        "code": "repeated_step",
        "step": 1,
        "message": "step 1 was logged twice; the later row replaced it",
    }


def test_threads_that_go_back_together_rewind_once(tmp_path: Path):
    path, turns = tmp_path / "dynamics.db", threading.Barrier(2)
    logger = DynamicsLogger(path)

    def work(first: int) -> None:
        for step in range(first, 20, 2):
            logger.log(step, step_of(1.0))
        turns.wait()
        for step in range(10 + first, 20, 2):
            with order:
                logger.log(step, step_of(2.0))

    order = threading.Lock()
    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.warns(RuntimeWarning, match="are replaced") as warned:
        logger.close()
    assert len(warned) == 1
    seen = rows(path, "SELECT step, expert_0_top_norm AS value FROM dynamics ORDER BY step")
    assert [row["value"] for row in seen] == [1.0] * 10 + [2.0] * 10
    assert codes(path).count("rewind") == 1


def test_a_rewind_is_said_on_the_console_once(tmp_path: Path):
    logger = DynamicsLogger(tmp_path / "dynamics.db")
    for step in (0, 10, 0, 10, 0, 10):
        logger.log(step, step_of(1.0))
    with pytest.warns(RuntimeWarning, match="step 0 came after step 10; 2 logged steps from step 0 on") as warned:
        logger.close()
    assert len(warned) == 1
    assert codes(tmp_path / "dynamics.db") == ["rewind", "rewind"]


DAEMONS = """
import itertools, sys, threading, time
from prismatic.runfile.logger import DynamicsLogger
logger = DynamicsLogger(sys.argv[1])
steps = itertools.count()
norms = {f"expert_{i}": {"top_norm": 1.0, "bottom_norm": 0.5} for i in range(3)}
def work():
    while True:
        logger.log(next(steps), {"expert_gradients": norms})
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print(time.time(), flush=True)
"""


def test_a_program_ends_while_daemon_threads_still_log(tmp_path: Path):
    path = tmp_path / "dynamics.db"
    done = subprocess.run([sys.executable, "-c", DAEMONS, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.time() - float(done.stdout) < 5
    steps = [row["step"] for row in rows(path)]
    assert len(steps) > 100
    assert steps[:100] == list(range(100))
