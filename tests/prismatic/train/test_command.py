"""The command `prismatic train`: its output, its errors and their exit code."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest

from prismatic.cli import main
from tests.support.run_file import facts

TINY = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "sequence_length": 16, "steps": 25, "batch_size": 2}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in TINY.items()))
    return path


def test_the_command_trains_and_prints_the_file_and_the_next_command(config_file: Path, capsys):
    runs = config_file.parent / "runs"
    assert main(["train", "--config", str(config_file), "--set", "steps=2", "seed=3", "--runs", str(runs)]) == 0
    (db_path,) = runs.glob("*/dynamics.db")
    output = capsys.readouterr().out
    assert str(db_path) in output.splitlines()
    assert f"prismatic check {db_path}" in output
    assert (facts(db_path)["config.steps"], facts(db_path)["config.seed"]) == (2, 3)


@pytest.mark.parametrize("name", ["text.txt", "2024", "null", "notes: a draft.txt", "[x].txt"])
def test_the_command_reads_a_text_of_any_name(config_file: Path, name: str):
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
def test_a_mistake_is_one_error_and_exit_code_2(config_file: Path, capsys, extra, message: str):
    assert main(["train", "--config", str(config_file), "--runs", str(config_file.parent / "runs"), *extra]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err + captured.out
