"""Training from a config to a run file: tiny models, real text, real files."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from prismatic import DynamicsLogger
from prismatic.contract import schema
from prismatic.errors import ConfigError, CorpusError, LoggerError
from prismatic.train.config import RunConfig, load_config
from prismatic.train.corpus import Corpus
from prismatic.train.train import TrainResult, train
from tests.support.run_file import facts, rows

TINY = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "sequence_length": 16, "steps": 25, "batch_size": 2}
EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def tiny(**options) -> RunConfig:
    return RunConfig(**TINY | options)


def numbers(path: Path) -> list[dict]:
    """Return every measured number of a run, without the wall time."""
    wide = [{name: value for name, value in row.items() if name != "wall_time"} for row in rows(path)]
    return wide + rows(path, "SELECT * FROM layers ORDER BY step, layer, expert")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(tiny(), runs=tmp_path_factory.mktemp("runs"))


def test_the_run_table_holds_the_whole_config(finished: TrainResult):
    seen = facts(finished.db_path)
    assert {name: seen[f"config.{name}"] for name in tiny().facts()} == tiny().facts()


def test_the_run_table_holds_what_reproduces_the_run(finished: TrainResult):
    seen = facts(finished.db_path)
    assert (seen["run_hash"], seen["exit_state"]) == (finished.run_hash, "finished")
    assert seen["held_out_loss"] == finished.held_out_loss
    assert seen["started"] <= seen["ended"] <= time.time()
    names = {"corpus_sha256", "git_commit", "git_dirty", "prismatic", "torch", "python", "host", "device", "world_size"}
    assert names | {"hook", "precision", "clip_state", "planned_steps", "log_freq", "causal", "routers"} <= set(seen)


def test_a_run_is_logged_every_ten_steps_and_at_its_end(finished: TrainResult):
    assert [row["step"] for row in rows(finished.db_path)] == [0, 10, 20, 24]
    assert rows(finished.db_path, "SELECT * FROM events WHERE code != 'measuring'") == []
    assert rows(finished.db_path)[-1]["loss"] == finished.loss


def test_a_run_measures_every_documented_column(finished: TrainResult):
    expected = [column.name for column in schema.dynamics_columns(3)]
    for row in rows(finished.db_path):
        assert list(row) == expected
        assert None not in row.values()


def test_the_columns_stand_in_the_documented_order(finished: TrainResult):
    documented = ["step", *(f"expert_0_{name}_norm" for name in ("top", "bottom", "middle", "clean"))]
    assert list(rows(finished.db_path)[0])[:5] == documented


def test_the_warm_up_of_the_learning_rate_is_logged(finished: TrainResult):
    expected = [1e-3 * (step + 1) / 51 for step in (0, 10, 20, 24)]
    assert [row["learning_rate"] for row in rows(finished.db_path)] == pytest.approx(expected)


def test_losses_are_those_of_bytes_and_training_lowers_them(tmp_path: Path):
    result = train(tiny(steps=150, learning_rate=1e-2, log_freq=50), runs=tmp_path)
    first = rows(result.db_path)[0]["loss"]
    assert first == pytest.approx(5.545, abs=0.2)  # log(256): an untrained model
    assert result.loss < first - 1
    assert result.held_out_loss < first - 1


def test_the_held_out_loss_is_that_of_text_never_trained_on(tmp_path: Path):
    (tmp_path / "text.txt").write_text("a" * 900 + "z" * 100)
    result = train(tiny(steps=60, learning_rate=1e-2, data=tmp_path / "text.txt"), runs=tmp_path)
    assert result.loss < 0.5
    assert result.held_out_loss > 3


def test_the_run_is_in_the_folder_of_its_hash(finished: TrainResult):
    assert finished.db_path.parts[-2:] == (finished.run_hash, "dynamics.db")
    assert len(finished.run_hash) == 9


def test_the_same_config_gives_the_same_hash_and_the_same_numbers(finished: TrainResult, tmp_path: Path):
    runs = tmp_path / "runs"
    train(tiny(), runs=runs)
    again = train(tiny(), runs=runs, overwrite=True)
    assert again.run_hash == finished.run_hash
    assert (again.loss, again.held_out_loss) == (finished.loss, finished.held_out_loss)
    assert numbers(again.db_path) == numbers(finished.db_path)


def test_another_seed_is_another_run(finished: TrainResult, tmp_path: Path):
    other = train(tiny(seed=1), runs=tmp_path)
    assert other.run_hash != finished.run_hash
    assert other.loss != finished.loss
    hashes = [rows(run.db_path, "SELECT hash FROM tiers WHERE tier = 'top'") for run in (other, finished)]
    assert hashes[0] != hashes[1]  # other base weights, not only other batches


def test_an_earlier_run_of_the_same_options_is_not_overwritten(finished: TrainResult):
    before = finished.db_path.read_bytes()
    with pytest.raises(LoggerError, match=f"(?s){finished.run_hash}.*these options exists.*--set seed=1.*--overwrite"):
        train(tiny(), runs=finished.db_path.parent.parent)
    assert finished.db_path.read_bytes() == before


def test_an_interrupted_run_keeps_its_rows_and_records_its_state(tmp_path: Path):
    started = threading.Thread(target=_interrupt_once_training, args=(tmp_path,))
    started.start()
    with pytest.raises(KeyboardInterrupt):
        train(tiny(steps=5000, log_freq=1), runs=tmp_path)
    started.join()
    (db_path,) = tmp_path.glob("*/dynamics.db")
    assert facts(db_path)["exit_state"] == "interrupted"
    steps = [row["step"] for row in rows(db_path)]
    assert steps
    assert steps == [*range(len(steps))]  # every step up to the last one


def test_a_finished_run_is_not_trained_again(finished: TrainResult):
    before = finished.db_path.read_bytes()
    assert train(tiny(), runs=finished.db_path.parent.parent, resume="allow") == finished
    assert finished.db_path.read_bytes() == before


def test_resume_must_without_an_earlier_run_is_refused(tmp_path: Path):
    with pytest.raises(LoggerError, match="there is no run of these options to resume"):
        train(tiny(), runs=tmp_path, resume="must")
    assert train(tiny(steps=2), runs=tmp_path, resume="allow").loss > 0


def test_replacing_a_run_that_is_being_trained_is_refused_and_leaves_it_alone(tmp_path: Path):
    run_hash = tiny().run_hash(Corpus.load().sha256)
    db_path = tmp_path / run_hash / "dynamics.db"
    with DynamicsLogger(db_path) as logger:
        logger.log(0, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
        with pytest.raises(LoggerError, match="another DynamicsLogger is writing this file"):
            train(tiny(), runs=tmp_path, overwrite=True)
        logger.log(10, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
    assert [row["step"] for row in rows(db_path)] == [0, 10]


def test_two_trainings_of_one_experiment_at_once_are_refused(tmp_path: Path):
    run_hash = tiny().run_hash(Corpus.load().sha256)
    with (
        DynamicsLogger(tmp_path / run_hash / "dynamics.db"),
        pytest.raises(LoggerError, match="another DynamicsLogger is writing this file"),
    ):
        train(tiny(), runs=tmp_path, resume="allow")


def _interrupt_once_training(runs: Path) -> None:
    """Send SIGINT, as Ctrl-C does, once the run file holds a step."""
    for _ in range(600):
        time.sleep(0.05)
        if any(_holds_a_step(path) for path in runs.glob("*/dynamics.db")):
            break
    os.kill(os.getpid(), signal.SIGINT)


def _holds_a_step(path: Path) -> bool:
    made = rows(path, "SELECT name FROM sqlite_master WHERE name = 'dynamics'")
    return bool(made and rows(path))


def test_a_run_of_other_text_is_another_run(finished: TrainResult, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    result = train(tiny(data=text, steps=2), runs=tmp_path)
    assert result.run_hash != train(tiny(steps=2), runs=tmp_path).run_hash
    assert facts(result.db_path)["corpus"] == "text.txt"


def test_the_hash_depends_on_the_text_and_not_on_its_path(tmp_path: Path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("the same text " * 50)
    hashes = [train(tiny(data=tmp_path / n, steps=1), runs=tmp_path / n[0]).run_hash for n in ("a.txt", "b.txt")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("size", [0, 10, 100])  # 100: long enough for training, too short for the held-out part
def test_text_that_is_too_short_is_refused_before_anything_is_written(tmp_path: Path, size: int):
    text = tmp_path / "short.txt"
    text.write_bytes(b"x" * size)
    with pytest.raises(CorpusError, match=r"short\.txt has \d+ bytes in its .* part, one sequence needs 17"):
        train(tiny(data=text), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_missing_text_is_refused_by_name(tmp_path: Path):
    for missing in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(CorpusError, match=f"{missing.name} cannot be read"):
            train(tiny(data=missing), runs=tmp_path / "runs")


def test_a_missing_device_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ConfigError, match="device = 'abacus' cannot be used here"):
        train(tiny(device="abacus"), runs=tmp_path)


@pytest.mark.parametrize(
    ("options", "causal"),
    [
        ({}, False),
        ({"merge": "example"}, False),
        ({"router_input": "first"}, False),
        ({"merge": "example", "router_input": "first"}, True),
        ({"routing": "frozen"}, True),
    ],
)
def test_a_run_records_whether_positions_could_see_the_future(tmp_path: Path, options: dict, causal: bool):
    assert facts(train(tiny(steps=1, **options), runs=tmp_path).db_path)["causal"] is causal


def test_gradients_are_logged_before_they_are_clipped(finished: TrainResult, tmp_path: Path):
    clipped = train(tiny(steps=1, max_grad_norm=1e-6), runs=tmp_path)
    norms = [rows(path)[0]["expert_0_clean_norm"] for path in (clipped.db_path, finished.db_path)]
    assert norms[0] == norms[1]


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yml")), ids=lambda path: path.stem)
def test_the_experiments_that_are_shipped_train(path: Path, tmp_path: Path):
    small = [f"{name}={value}" for name, value in (TINY | {"steps": 2}).items()]
    result = train(load_config(path, small), runs=tmp_path)
    assert [row["step"] for row in rows(result.db_path)] == [0, 1]


def test_at_least_four_experiments_are_shipped():
    assert len(list(EXPERIMENTS.glob("*.yml"))) >= 4
