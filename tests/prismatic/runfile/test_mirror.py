"""The mirror: metrics sent to real trackers, and to trackers that fail or hang."""

import gc
import json
import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import nn

from prismatic import DynamicsLogger, DynamicsLoggerCallback, Prismatic, RouterConfig
from prismatic.errors import ConfigError
from prismatic.runfile import mirror as mirroring
from prismatic.runfile.mirror import PREFIX, as_tracker

STEPS = 4


def metrics(step: int) -> dict:
    norms = {f"{tier}_norm": 0.5 + step for tier in ("top", "bottom", "middle")}
    experts = {"expert_0": {**norms, "routing_weight": 0.25}, "expert_1": {**norms, "routing_weight": None}}
    return {"expert_gradients": experts, "divergence_scores": {"expert_1_divergence": float("nan")}}


def log(path: Path, mirror: object, steps: int = STEPS) -> None:
    with DynamicsLogger(path, mirror=mirror) as logger:
        for step in range(steps):
            logger.log(step, metrics(step), loss=2.0 - step)


def wide(path: Path) -> list[dict]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM dynamics ORDER BY step")]


def mirrored_events(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT message FROM events WHERE code = 'mirror_failed' ORDER BY id")
        return [message for (message,) in found]


def test_a_function_gets_every_number_of_every_step_and_nothing_else(tmp_path: Path):
    got = {}
    log(tmp_path / "x.db", lambda step, values: got.update({step: values}))
    assert list(got) == list(range(STEPS))
    row = {name: value for name, value in got[1].items() if not name.endswith("divergence")}
    assert row == {
        f"{PREFIX}loss": 1.0,
        f"{PREFIX}expert_0_routing_weight": 0.25,
        **{f"{PREFIX}expert_{i}_{tier}_norm": 1.5 for i in range(2) for tier in ("top", "bottom", "middle")},
    }
    assert got[1][f"{PREFIX}expert_1_divergence"] != got[1][f"{PREFIX}expert_1_divergence"]  # NaN is not hidden


def test_tensorboard_has_what_the_run_file_has(tmp_path: Path):
    board = pytest.importorskip("torch.utils.tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    torch.manual_seed(0)
    model = nn.Sequential(Prismatic(nn.Linear(20, 20), 20, RouterConfig()), nn.Linear(20, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with board.SummaryWriter(str(tmp_path / "board")) as writer:
        callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1, mirror=writer)
        callback.attach(model, optimizer)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(4, 5, 20)).square().mean().backward()
            optimizer.step()
        callback.detach()
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    rows = wide(tmp_path / "x.db")
    for name in rows[0].keys() - {"step", "wall_time", "nan_values", "loss"}:
        points = {point.step: point.value for point in events.Scalars(PREFIX + name)}
        assert points == pytest.approx({row["step"]: row[name] for row in rows}, rel=1e-6), name
    assert mirrored_events(tmp_path / "x.db") == []


def test_wandb_gets_a_separate_step_axis(tmp_path: Path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(project="p", mode="offline", dir=str(tmp_path))
    run.log({"theirs": 1.0})
    log(tmp_path / "x.db", run)
    run.log({"theirs": 2.0})
    assert run.summary[f"{PREFIX}step"] == STEPS - 1
    assert run.summary[f"{PREFIX}loss"] == 2.0 - (STEPS - 1)
    assert run.summary["theirs"] == 2.0
    run.finish()
    assert mirrored_events(tmp_path / "x.db") == []


def test_trackio_has_the_steps(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    import trackio

    run = trackio.init(project="mirrored", name="mine")
    log(tmp_path / "x.db", run)
    trackio.finish()
    # trackio reads the environment only when it is first imported.
    with closing(sqlite3.connect(Path(trackio.utils.TRACKIO_DIR) / "mirrored.db")) as connection:
        kept = dict(connection.execute("SELECT step, metrics FROM metrics"))
    assert {step: json.loads(values)[f"{PREFIX}loss"] for step, values in kept.items()} == {
        step: 2.0 - step for step in range(STEPS)
    }


class Logger:
    """A logger with the interface of those of Lightning, MLflow and Comet."""

    def __init__(self):
        self.got = {}

    def log_metrics(self, metrics, step=None):
        self.got[step] = metrics


def test_a_logger_with_log_metrics_is_recognized(tmp_path: Path):
    logger = Logger()
    log(tmp_path / "x.db", logger)
    assert [values[f"{PREFIX}loss"] for values in logger.got.values()] == [2.0, 1.0, 0.0, -1.0]


@pytest.mark.parametrize("target", [7, "tensorboard", object()], ids=["a number", "a name", "an object"])
def test_an_object_that_is_not_a_tracker_is_refused_before_the_file_is_created(tmp_path: Path, target):
    with pytest.raises(ConfigError, match="is not a tracker; expected a SummaryWriter"):
        DynamicsLogger(tmp_path / "x.db", mirror=target)
    with pytest.raises(ConfigError, match="is not a tracker"):
        DynamicsLoggerCallback(tmp_path / "x.db", mirror=target)
    assert not (tmp_path / "x.db").exists()


def test_a_tracker_that_fails_is_an_event_and_costs_no_row(tmp_path: Path):
    def fails(step, values):
        if step:
            raise ConnectionError("no network")

    with pytest.warns(RuntimeWarning, match="did not reach the mirror: ConnectionError: no network; training goes on"):
        log(tmp_path / "x.db", fails)
    assert len(wide(tmp_path / "x.db")) == STEPS
    assert mirrored_events(tmp_path / "x.db") == [
        "metrics did not reach the mirror: ConnectionError: no network",
        "3 logged steps did not reach the mirror: ConnectionError: no network",
    ]


def test_a_tracker_that_hangs_delays_neither_training_nor_the_file(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(mirroring, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(mirroring, "MAX_WAITING", 2)
    let_go = threading.Event()
    with pytest.warns(RuntimeWarning, match="the tracker (hangs|is too slow)"):
        log(tmp_path / "x.db", lambda step, values: let_go.wait())
    let_go.set()
    assert len(wide(tmp_path / "x.db")) == STEPS
    assert mirrored_events(tmp_path / "x.db")[-2:] == [
        "2 logged steps did not reach the mirror: the tracker is too slow",
        "2 logged steps did not reach the mirror: the tracker hangs",
    ]


def test_a_logger_of_the_logging_module_does_not_stop_training(tmp_path: Path):
    with pytest.warns(RuntimeWarning, match="did not reach the mirror: TypeError"):
        log(tmp_path / "x.db", logging.getLogger("nobody"))


def test_another_mirror_takes_over(tmp_path: Path):
    first, second = Logger(), Logger()
    with DynamicsLogger(tmp_path / "x.db", mirror=first) as logger:
        logger.log(0, metrics(0))
        logger.mirror_to(second)
        logger.log(1, metrics(1))
    assert ([*first.got], [*second.got]) == ([0], [1])


def test_a_deleted_logger_leaves_no_thread(tmp_path: Path):
    before = {thread.ident for thread in threading.enumerate()}
    logger = DynamicsLogger(tmp_path / "x.db", mirror=lambda step, values: None)
    own = [t for t in threading.enumerate() if t.ident not in before and t.name == "prismatic mirror"]
    del logger
    gc.collect()
    own[0].join(10)
    assert not own[0].is_alive()


def test_a_tracker_is_recognized_by_its_methods():
    class Board:
        def __init__(self):
            self.got = []

        def add_scalar(self, name, value, step):
            self.got.append((name, value, step))

    board = Board()
    as_tracker(board)(3, {"a": 1.0, "b": 2.0})
    assert board.got == [("a", 1.0, 3), ("b", 2.0, 3)]
