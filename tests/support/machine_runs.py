"""Runs in the server's own folders: finished ones, and one in the middle of its training."""

import time

import pytest

from prismatic.runfile.logger import DynamicsLogger
from tests.support.simulated_runs import simulated_run, write
from ui.session import catalog


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The server's folder of runs."""
    monkeypatch.setenv("PRISMATIC_RUNS", str(tmp_path))
    catalog._catalog.clear()
    yield tmp_path
    catalog._catalog.clear()


def a_run(folder, name, **facts):
    path = folder / name / "dynamics.db"
    path.parent.mkdir(parents=True)
    return write(simulated_run(steps=120, seed=len(name)), path, run_hash=name, **facts)


def running(folder, name, steps=40):
    """Write a run in the middle of its training; return its open logger and its path."""
    path = folder / name / "dynamics.db"
    path.parent.mkdir(parents=True)
    logger = DynamicsLogger(path, num_experts=2, flush_seconds=0.01)
    logger.log_run({"run_hash": name, "exit_state": "running", "started": time.time(), "planned_steps": 1000})
    for step in range(steps):
        norms = {f"{tier}_norm": 0.0 for tier in ("top", "bottom", "middle")}
        logger.log(step, {"expert_gradients": {"expert_0": norms, "expert_1": norms}, "wall_time": time.time()})
    logger.flush()
    return logger, path
