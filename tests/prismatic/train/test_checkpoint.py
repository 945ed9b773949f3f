"""Checkpoints: a run that crashed and was resumed is the run that did not crash."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prismatic.errors import CheckpointError
from prismatic.train.checkpoint import Checkpoints
from prismatic.train.config import RunConfig
from prismatic.train.corpus import Corpus
from prismatic.train.train import TrainResult, _Training, train
from tests.support.run_file import events, facts, rows

TINY = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "sequence_length": 16, "steps": 25, "batch_size": 2}


def tiny(**options) -> RunConfig:
    return RunConfig(**TINY | options)


def numbers(path: Path) -> list[dict]:
    """Return every measured number of a run, without the wall time."""
    wide = [{name: value for name, value in row.items() if name != "wall_time"} for row in rows(path)]
    return wide + rows(path, "SELECT * FROM layers ORDER BY step, layer, expert")


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make training crash once, when it reads the batch of a step."""
    healthy = Corpus.batch

    def at(step: int) -> None:
        def batch(corpus: Corpus, current: int, **options: object) -> Tensor:
            if current == step:
                monkeypatch.setattr(Corpus, "batch", healthy)
                raise ZeroDivisionError("a crash")
            return healthy(corpus, current, **options)

        monkeypatch.setattr(Corpus, "batch", batch)

    return at


RESUMED = {"steps": 60, "log_freq": 5, "expert_dropout": 0.3, "merge": "example", "warmup_steps": 40}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Train the run that does not crash."""
    return train(tiny(**RESUMED), runs=tmp_path_factory.mktemp("uninterrupted"), checkpoint_freq=0)


@pytest.mark.parametrize(("crashed_at", "resumed_at"), [(37, 20), (50, 40), (7, 0)])
def test_a_resumed_run_equals_the_run_that_did_not_crash(
    tmp_path: Path, crash, uninterrupted: TrainResult, crashed_at: int, resumed_at: int
):
    crash(crashed_at)
    with pytest.raises(ZeroDivisionError):
        train(tiny(**RESUMED), runs=tmp_path / "broken", checkpoint_freq=20)
    (db_path,) = (tmp_path / "broken").glob("*/dynamics.db")
    assert facts(db_path)["exit_state"] == "crashed"
    again = train(tiny(**RESUMED), runs=tmp_path / "broken", resume="must", checkpoint_freq=20)
    assert (again.loss, again.held_out_loss) == (uninterrupted.loss, uninterrupted.held_out_loss)
    assert numbers(again.db_path) == numbers(uninterrupted.db_path)
    assert facts(again.db_path)["exit_state"] == "finished"
    assert events(again.db_path) == [("resumed", resumed_at), ("rewind", resumed_at)]
    assert not list(db_path.parent.glob("checkpoint*"))


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, crash):
    crash(15)
    with pytest.raises(ZeroDivisionError):
        train(tiny(), runs=tmp_path, checkpoint_freq=10)
    (checkpoint,) = tmp_path.glob("*/checkpoint-10")
    for part in (next(checkpoint.glob("*.distcp")), checkpoint / ".metadata"):
        part.write_bytes(part.read_bytes()[:500])
        with pytest.raises(CheckpointError, match=r"checkpoint-10: cannot be resumed from .* begin again at step 0"):
            train(tiny(), runs=tmp_path, resume="allow")
    (checkpoint / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"has no \.metadata"):
        train(tiny(), runs=tmp_path, resume="allow")
    shutil.rmtree(checkpoint)
    assert train(tiny(), runs=tmp_path, resume="allow").loss > 0


def test_a_checkpoint_of_the_older_one_file_format_can_be_resumed(tmp_path: Path, crash, uninterrupted: TrainResult):
    crash(15)
    with pytest.raises(ZeroDivisionError):
        train(tiny(**RESUMED), runs=tmp_path / "broken", checkpoint_freq=10)
    (folder,) = (tmp_path / "broken").glob("*/checkpoint-10")
    training = _Training.of(tiny(**RESUMED), Corpus.load(), torch.device("cpu"), folder.parent, 0, None)
    assert training.checkpoints.load() == 10
    parts = {name: getattr(training, name).state_dict() for name in ("model", "optimizer", "schedule")}
    torch.save({**parts, "step": 10, "rng": torch.get_rng_state(), "cuda_rng": []}, folder.with_name("checkpoint.pt"))
    shutil.rmtree(folder)
    again = train(tiny(**RESUMED), runs=tmp_path / "broken", resume="must", checkpoint_freq=20)
    assert numbers(again.db_path) == numbers(uninterrupted.db_path)
    assert not list(folder.parent.glob("checkpoint*"))


def test_an_unfinished_checkpoint_is_not_used(tmp_path: Path, crash, monkeypatch):
    crash(25)
    with pytest.raises(ZeroDivisionError):
        train(tiny(steps=30), runs=tmp_path, checkpoint_freq=10)
    (folder,) = tmp_path.glob("*/checkpoint-20")
    folder.rename(folder.with_name("checkpoint-20.new"))  # killed while writing it
    result = train(tiny(steps=30), runs=tmp_path, resume="must")
    assert rows(result.db_path, "SELECT step FROM events WHERE code = 'resumed'") == [{"step": 0}]


def test_a_checkpoint_without_its_run_is_not_used(tmp_path: Path, crash):
    crash(15)
    with pytest.raises(ZeroDivisionError):
        train(tiny(), runs=tmp_path, checkpoint_freq=10)
    (db_path,) = tmp_path.glob("*/dynamics.db")
    db_path.unlink()
    assert [row["step"] for row in rows(train(tiny(), runs=tmp_path).db_path)] == [0, 10, 20, 24]


def test_a_checkpoint_that_cannot_be_written_does_not_stop_training(tmp_path: Path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.FileSystemWriter.write_data", full)
    with pytest.warns(RuntimeWarning, match="cannot be written .*No space left on device.*training goes on"):
        result = train(tiny(), runs=tmp_path, checkpoint_freq=10)
    assert facts(result.db_path)["exit_state"] == "finished"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_a_checkpoint_is_written_ends_the_training(tmp_path: Path, interrupt: type[BaseException]):
    class Interrupted:
        def __reduce__(self):
            raise interrupt

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    schedule.held = Interrupted()
    with pytest.raises(interrupt):
        Checkpoints(tmp_path, model, optimizer, schedule, torch.device("cpu")).save(1)


def test_no_checkpoint_is_ahead_of_its_rows(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("prismatic.runfile.logger.DynamicsLogger.flush", lambda _: False)
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda *arguments: saved.append(arguments))
    result = train(tiny(), runs=tmp_path, checkpoint_freq=10)
    assert saved == []
    assert {row["code"] for row in rows(result.db_path, "SELECT code FROM events WHERE code != 'measuring'")} == {
        "no_checkpoint"
    }


class Runs:
    """A pickle that runs a function when it is loaded."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def checkpoint_of(folder: Path) -> tuple[Path, Checkpoints]:
    """Save a checkpoint of a tiny model, and return its folder and what loads it."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    checkpoints = Checkpoints(folder, model, optimizer, schedule, torch.device("cpu"))
    checkpoints.save(5)
    return folder / "checkpoint-5", checkpoints


def test_metadata_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    checkpoint, checkpoints = checkpoint_of(tmp_path)
    assert checkpoints.load() == 5
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    for planted in (Runs(os.mkdir, str(tmp_path / "owned")), Runs(eval, "1 / 0"), [1], Runs(getattr, "x", "upper")):
        metadata.planner_data = planted
        (checkpoint / ".metadata").write_bytes(pickle.dumps(planted if planted == [1] else metadata))
        with pytest.raises(CheckpointError, match="its metadata"):
            checkpoints.load()
    assert not (tmp_path / "owned").exists()


def test_a_value_that_runs_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.lr_scheduler.LambdaLR, "state_dict", lambda self: {"last_epoch": planted})
    planted = Runs(os.mkdir, str(tmp_path / "owned"))
    _, checkpoints = checkpoint_of(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError):
        checkpoints.load()
    assert not (tmp_path / "owned").exists()
