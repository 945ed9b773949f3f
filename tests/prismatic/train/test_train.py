"""Training from a config to a run file, and the command line in front of it: tiny models, real text, real files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import chdir, closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

import prismatic
from prismatic import DynamicsLogger
from prismatic.cli import main
from prismatic.contract import schema
from prismatic.errors import CheckpointError, ConfigError, CorpusError, LoggerError
from prismatic.train.checkpoint import Checkpoints
from prismatic.train.config import RunConfig, load_config
from prismatic.train.corpus import Corpus
from prismatic.train.train import TrainResult, _Training, train

TINY = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "sequence_length": 16, "steps": 25, "batch_size": 2}
EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def tiny(**options) -> RunConfig:
    return RunConfig(**TINY | options)


def rows(path: Path, query: str = "SELECT * FROM dynamics ORDER BY step") -> list[dict]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def facts(path: Path) -> dict[str, object]:
    return {row["key"]: json.loads(row["value"]) for row in rows(path, "SELECT * FROM run")}


def numbers(path: Path) -> list[dict]:
    """Every measured number of a run; the wall time is no measurement of it."""
    wide = [{name: value for name, value in row.items() if name != "wall_time"} for row in rows(path)]
    return wide + rows(path, "SELECT * FROM layers ORDER BY step, layer, expert")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(tiny(), runs=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in TINY.items()))
    return path


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
    assert rows(finished.db_path, "SELECT * FROM events") == []
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
    assert first == pytest.approx(5.545, abs=0.2)  # log(256): nothing is known of a byte yet
    assert result.loss < first - 1
    assert result.held_out_loss < first - 1


def test_the_held_out_loss_is_that_of_text_never_trained_on(tmp_path: Path):
    (tmp_path / "text.txt").write_text("a" * 900 + "z" * 100)
    result = train(tiny(steps=60, learning_rate=1e-2, data=tmp_path / "text.txt"), runs=tmp_path)
    assert result.loss < 0.5
    assert result.held_out_loss > 3


def test_the_run_lies_in_the_folder_of_its_hash(finished: TrainResult):
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
    assert hashes[0] != hashes[1]  # other base weights, not only other text


def test_an_experiment_that_was_run_before_is_not_lost(finished: TrainResult):
    before = finished.db_path.read_bytes()
    with pytest.raises(LoggerError, match=f"(?s){finished.run_hash}.*these options exists.*--set seed=1.*--overwrite"):
        train(tiny(), runs=finished.db_path.parent.parent)
    assert finished.db_path.read_bytes() == before


def test_an_interrupted_run_keeps_its_rows_and_says_so(tmp_path: Path):
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


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes training break once, when it asks for the text of a step."""
    healthy = Corpus.batch

    def at(step: int) -> None:
        def batch(corpus: Corpus, asked: int, **options: object) -> Tensor:
            if asked == step:
                monkeypatch.setattr(Corpus, "batch", healthy)
                raise ZeroDivisionError("a crash")
            return healthy(corpus, asked, **options)

        monkeypatch.setattr(Corpus, "batch", batch)

    return at


RESUMED = {"steps": 60, "log_freq": 5, "expert_dropout": 0.3, "merge": "example", "warmup_steps": 40}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The run that did not crash."""
    return train(tiny(**RESUMED), runs=tmp_path_factory.mktemp("whole"), checkpoint_freq=0)


@pytest.mark.parametrize(("crashed_at", "resumed_at"), [(37, 20), (50, 40), (7, 0)])
def test_a_run_that_crashed_and_went_on_is_the_run_that_did_not_crash(
    tmp_path: Path, crash, whole: TrainResult, crashed_at: int, resumed_at: int
):
    crash(crashed_at)
    with pytest.raises(ZeroDivisionError):
        train(tiny(**RESUMED), runs=tmp_path / "broken", checkpoint_freq=20)
    (db_path,) = (tmp_path / "broken").glob("*/dynamics.db")
    assert facts(db_path)["exit_state"] == "crashed"
    again = train(tiny(**RESUMED), runs=tmp_path / "broken", resume="must", checkpoint_freq=20)
    assert (again.loss, again.held_out_loss) == (whole.loss, whole.held_out_loss)
    assert numbers(again.db_path) == numbers(whole.db_path)
    assert facts(again.db_path)["exit_state"] == "finished"
    told = [(row["code"], row["step"]) for row in rows(again.db_path, "SELECT * FROM events ORDER BY id")]
    assert told == [("resumed", resumed_at), ("rewind", resumed_at)]
    assert not list(db_path.parent.glob("checkpoint*"))


def test_a_finished_run_is_not_trained_again(finished: TrainResult):
    before = finished.db_path.read_bytes()
    assert train(tiny(), runs=finished.db_path.parent.parent, resume="allow") == finished
    assert finished.db_path.read_bytes() == before


def test_resuming_what_was_never_begun_is_refused_where_it_must_be_there(tmp_path: Path):
    with pytest.raises(LoggerError, match="there is no run of these options to resume"):
        train(tiny(), runs=tmp_path, resume="must")
    assert train(tiny(steps=2), runs=tmp_path, resume="allow").loss > 0


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


def test_a_checkpoint_of_version_0_1_is_gone_on_with(tmp_path: Path, crash, whole: TrainResult):
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
    assert numbers(again.db_path) == numbers(whole.db_path)
    assert not list(folder.parent.glob("checkpoint*"))


def test_a_checkpoint_that_was_not_finished_is_not_taken(tmp_path: Path, crash, monkeypatch):
    crash(25)
    with pytest.raises(ZeroDivisionError):
        train(tiny(steps=30), runs=tmp_path, checkpoint_freq=10)
    (folder,) = tmp_path.glob("*/checkpoint-20")
    folder.rename(folder.with_name("checkpoint-20.new"))  # killed before it was whole
    result = train(tiny(steps=30), runs=tmp_path, resume="must")
    assert rows(result.db_path, "SELECT step FROM events WHERE code = 'resumed'") == [{"step": 0}]


def test_a_checkpoint_whose_run_is_gone_is_not_taken(tmp_path: Path, crash):
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


def test_no_checkpoint_is_ahead_of_its_rows(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("prismatic.runfile.logger.DynamicsLogger.flush", lambda _: False)
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda *arguments: saved.append(arguments))
    result = train(tiny(), runs=tmp_path, checkpoint_freq=10)
    assert saved == []
    assert {row["code"] for row in rows(result.db_path, "SELECT code FROM events")} == {"no_checkpoint"}


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
    """What Ctrl-C does, once the run file holds a step."""
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


def test_the_hash_stands_for_the_text_and_not_for_its_path(tmp_path: Path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("the same text " * 50)
    hashes = [train(tiny(data=tmp_path / n, steps=1), runs=tmp_path / n[0]).run_hash for n in ("a.txt", "b.txt")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("size", [0, 10, 100])  # 100: enough to train on, too little held out
def test_text_that_is_too_short_is_refused_before_anything_is_written(tmp_path: Path, size: int):
    text = tmp_path / "short.txt"
    text.write_bytes(b"x" * size)
    with pytest.raises(CorpusError, match=r"short\.txt has \d+ bytes in its .* part, one sequence needs 17"):
        train(tiny(data=text), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_text_that_is_not_there_is_refused_by_name(tmp_path: Path):
    for missing in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(CorpusError, match=f"{missing.name} cannot be read"):
            train(tiny(data=missing), runs=tmp_path / "runs")


def test_a_device_that_is_not_there_is_refused_by_name(tmp_path: Path):
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
def test_a_run_says_whether_positions_could_see_the_future(tmp_path: Path, options: dict, causal: bool):
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


def test_there_are_experiments_to_ship():
    assert len(list(EXPERIMENTS.glob("*.yml"))) >= 4


def test_the_command_trains_and_says_where_the_run_is_and_what_comes_next(config_file: Path, capsys):
    runs = config_file.parent / "runs"
    assert main(["train", "--config", str(config_file), "--set", "steps=2", "seed=3", "--runs", str(runs)]) == 0
    (db_path,) = runs.glob("*/dynamics.db")
    output = capsys.readouterr().out
    assert str(db_path) in output.splitlines()
    assert f"prismatic check {db_path}" in output
    assert (facts(db_path)["config.steps"], facts(db_path)["config.seed"]) == (2, 3)


@pytest.mark.parametrize("name", ["text.txt", "2024", "null", "notes: a draft.txt", "[x].txt"])
def test_the_command_reads_the_text_it_is_given_whatever_its_name(config_file: Path, name: str):
    text, runs = config_file.parent / name, config_file.parent / "runs"
    text.write_text("some text to learn from " * 30)
    options = ["train", "--config", str(config_file), "--set", "steps=1", "--runs", str(runs), "--data"]
    with chdir(config_file.parent):
        assert main([*options, name]) == 0
    (db_path,) = runs.glob("*/dynamics.db")
    assert (facts(db_path)["corpus"], facts(db_path)["config.data"]) == (name, name)


def test_the_command_refuses_a_second_run_unless_told_to_overwrite(config_file: Path, capsys):
    command = ["train", "--config", str(config_file), "--set", "steps=1", "--runs", str(config_file.parent)]
    assert [main(command), main(command), main([*command, "--overwrite"])] == [0, 2, 0]
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--resume", "allow"]) == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--set", "perturbation_scale=-1"], "perturbation_scale = -1 is not allowed"),
        (["--set", "data=["], "--set data=[: the value cannot be read as YAML"),
        (["--data", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--config", "nowhere.yml"], "nowhere.yml: cannot be read as YAML"),
    ],
)
def test_the_command_answers_a_mistake_with_one_error_and_code_2(config_file: Path, capsys, extra, message: str):
    assert main(["train", "--config", str(config_file), "--runs", str(config_file.parent / "runs"), *extra]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_the_command_prints_the_schema(capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema.describe() + "\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--config"]])
def test_a_command_line_that_is_no_command_is_usage_and_code_2(capsys, arguments: list[str]):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: prismatic" in capsys.readouterr().err


def test_the_package_and_its_schema_are_free_of_torch():
    program = """if True:
        import sys, prismatic, prismatic.contract.schema, prismatic.cli
        assert prismatic.cli.main(["schema"]) == 0
        print(sorted({"torch", "numpy", "pydantic", "yaml"} & set(sys.modules)))"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_the_package_offers_the_names_it_lists():
    assert all(getattr(prismatic, name) for name in prismatic.__all__)
    assert dir(prismatic) == sorted(prismatic.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'Prism'; it has .*Prismatic"):
        _ = prismatic.Prism
