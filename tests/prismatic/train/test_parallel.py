"""Two processes that train one model measure the same as one process: a real torchrun with gloo, started once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor, nn

from prismatic.errors import ConfigError, ModelError
from prismatic.integrations.pytorch import DynamicsLoggerCallback
from prismatic.train.config import RunConfig
from prismatic.train.corpus import Corpus
from prismatic.train.train import TrainResult, train
from tests.support.run_file import events, facts, rows
from tests.support.two_processes import CASES, FREQUENCIES, MICRO_BATCHES, RESUMED, ROOT, STEPS, TINY, Network, own_loop

MODES = ("ddp", "fsdp2")
UNLIKE = {"wall_time"}


def numbers(path: Path) -> list[dict]:
    """Return every measured number of a run."""
    wide = rows(path, "SELECT * FROM dynamics ORDER BY step")
    layers = rows(path, "SELECT * FROM layers ORDER BY step, layer, expert, source")
    pairs = rows(path, "SELECT * FROM pairs ORDER BY step, layer, expert, other")
    return [{name: value for name, value in row.items() if name not in UNLIKE} for row in wide + layers + pairs]


def assert_alike(found: Path, expected: Path) -> None:
    """Compare relative to 1e-5, and absolutely to 1e-6 for differences of nearly equal numbers."""
    pairs = list(zip(numbers(found), numbers(expected), strict=True))
    assert pairs
    for one, other in pairs:
        measured = {name for name, value in other.items() if isinstance(value, float)}
        assert {name: one[name] for name in measured} == pytest.approx(
            {name: other[name] for name in measured}, rel=1e-5, abs=1e-6
        )
        assert {k: v for k, v in one.items() if k not in measured} == {k: other[k] for k in other.keys() - measured}


def the_run(folder: Path) -> Path:
    (path,) = folder.glob("*/dynamics.db")
    return path


def crashed(folder: Path) -> None:
    """Train by one process and crash at step 6, with a checkpoint of step 4."""
    healthy = Corpus.batch

    def batch(corpus: Corpus, step: int, **options: object) -> Tensor:
        if step == 6:
            raise ZeroDivisionError("a crash")
        return healthy(corpus, step, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Corpus, "batch", batch)
        with pytest.raises(ZeroDivisionError):
            train(RunConfig(**TINY | RESUMED), runs=folder, checkpoint_freq=4)


pytestmark = pytest.mark.long  # two processes of PyTorch, which compile for themselves


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two_processes.py once and return its folder."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "tiny.yml").write_text("".join(f"{name}: {value}\n" for name, value in TINY.items()))
    crashed(folder / "one-then-two-ddp")
    shutil.copytree(folder / "one-then-two-ddp", folder / "one-then-two-fsdp2")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--module", "tests.support.two_processes", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainResult]:
    """Train the same configs by one process."""
    folder = tmp_path_factory.mktemp("alone")
    configs = {case: RunConfig(**TINY | FREQUENCIES | options) for case, options in CASES.items()}
    configs["resumed"] = RunConfig(**TINY | RESUMED)
    return {case: train(config, runs=folder, checkpoint_freq=0) for case, config in configs.items()}


def seen(folder: Path) -> list[dict]:
    """Return what each process reported."""
    return [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_measure_what_one_measures(together: Path, alone: dict[str, TrainResult], mode: str, case: str):
    found, expected = the_run(together / f"{mode}-{case}"), alone[case].db_path
    assert_alike(found, expected)
    assert {row["source"] for row in numbers(found) if "source" in row} == {"merged", "isolated"}
    assert events(found) == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_compare_pairs_as_one_does(together: Path, alone: dict[str, TrainResult], mode: str, case: str):
    query = "SELECT * FROM pairs ORDER BY step, layer, expert, other"
    found, expected = (rows(path, query) for path in (the_run(together / f"{mode}-{case}"), alone[case].db_path))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
        assert None not in one.values()


@pytest.mark.parametrize("mode", MODES)
def test_the_tiers_are_those_of_the_whole_tensors(together: Path, alone: dict[str, TrainResult], mode: str):
    tables = ("SELECT * FROM tiers ORDER BY layer, tier", "SELECT * FROM experts ORDER BY expert")
    for query in tables:
        assert rows(the_run(together / f"{mode}-batch"), query) == rows(alone["batch"].db_path, query)


@pytest.mark.parametrize("mode", MODES)
def test_histograms_count_every_entry_once(together: Path, alone: dict[str, TrainResult], mode: str):
    query = "SELECT step, layer, expert, tier, sum(count) AS count FROM histograms GROUP BY 1, 2, 3, 4"
    found, expected = (rows(path, query) for path in (the_run(together / f"{mode}-batch"), alone["batch"].db_path))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        # A gradient that is rounding error only may be 0 in one of the runs, and then is in no bin.
        assert one == pytest.approx(other, abs=0.05 * other["count"] + 2)


@pytest.mark.parametrize("mode", MODES)
def test_the_run_has_the_same_hash_and_records_its_processes(together: Path, alone: dict[str, TrainResult], mode: str):
    path = the_run(together / f"{mode}-batch")
    known = facts(path)
    assert path.parent.name == known["run_hash"] == alone["batch"].run_hash
    assert (known["world_size"], known["parallel"], known["exit_state"]) == (2, mode, "finished")
    assert known["held_out_loss"] == pytest.approx(alone["batch"].held_out_loss, rel=1e-5)
    by_one = facts(alone["batch"].db_path)
    assert (by_one["world_size"], by_one["parallel"]) == (1, None)
    assert {name for name in by_one if name.startswith("config.")} == {n for n in known if n.startswith("config.")}


def test_only_rank_0_prints(together: Path):
    first, second = seen(together)
    for mode in MODES:
        assert first[f"{mode} batch"][0] == second[f"{mode} batch"][0] == 0
        assert "held-out loss" in first[f"{mode} batch"][1]
        assert second[f"{mode} batch"][1] == ""


def test_an_error_in_one_process_is_raised_in_all(together: Path):
    first, second = seen(together)
    for name, message in {"again": "a run of these options exists", "uneven": "batch_size = 3 cannot be"}.items():
        assert (first[name][0], second[name]) == (2, [2, ""])
        assert message in first[name][1]
    assert first["refused"] == second["refused"] == ["LoggerError", "ModelError"]


def test_one_process_resumes_what_two_began(together: Path, alone: dict[str, TrainResult]):
    assert [each["crash"] for each in seen(together)] == ["a crash"] * 2
    path = the_run(together / "two-then-one")
    assert [folder.name for folder in path.parent.glob("checkpoint*")] == ["checkpoint-4"]
    result = train(RunConfig(**TINY | RESUMED), runs=together / "two-then-one", resume="must")
    assert_alike(path, alone["resumed"].db_path)
    assert result.held_out_loss == pytest.approx(alone["resumed"].held_out_loss, rel=1e-5)
    assert events(path) == [("resumed", 4), ("rewind", 4)]
    assert (facts(path)["world_size"], facts(path)["parallel"]) == (1, None)


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_resume_what_one_began(together: Path, alone: dict[str, TrainResult], mode: str):
    path = the_run(together / f"one-then-two-{mode}")
    assert_alike(path, alone["resumed"].db_path)
    assert events(path) == [("resumed", 4), ("rewind", 4)]
    assert (facts(path)["world_size"], facts(path)["exit_state"]) == (2, "finished")
    assert not list(path.parent.glob("checkpoint*"))


@pytest.mark.parametrize("mode", MODES)
def test_in_a_custom_loop_a_process_counts_as_a_micro_batch(together: Path, tmp_path: Path, mode: str):
    every = [[2 * MICRO_BATCHES * step + number for number in range(2 * MICRO_BATCHES)] for step in range(STEPS)]
    own_loop(tmp_path / "alone.db", Network(), every)
    found = together / f"loop-{mode}.db"
    assert_alike(found, tmp_path / "alone.db")
    assert (facts(found)["world_size"], facts(found)["parallel"]) == (2, mode)
    assert events(found) == []
    query = "SELECT tier, sum(count) FROM histograms GROUP BY 1"
    assert rows(found, query) == rows(tmp_path / "alone.db", query)


def test_a_loop_that_logs_by_hand_logs_once(together: Path):
    assert [row["step"] for row in rows(together / "loop-by-hand.db", "SELECT step FROM dynamics")] == [0, 1, 2]


def test_the_documented_loop_logs_one_run_in_which_all_experts_share_one_gradient(together: Path):
    path = together / "build" / "runs" / "shared" / "dynamics.db"
    found = rows(path, "SELECT step, gradient_cosine FROM layers WHERE expert > 0")
    assert {row["step"] for row in found} == {0, 1, 2}
    # share_routing merges by the routing of all processes; otherwise the gradients are not parallel.
    assert [row["gradient_cosine"] for row in found] == pytest.approx([1.0] * len(found), abs=1e-6)
    assert events(path) == []


def test_a_logger_that_fails_stops_and_hangs_nobody(together: Path):
    assert numbers(together / "failing.db") == []
    assert events(together / "failing.db") == [("measurement_failed", step) for step in range(STEPS)]
    assert facts(together / "failing.db")["exit_state"] == "finished"


def test_a_process_that_cannot_measure_fails_for_all_and_hangs_nobody(together: Path):
    path = together / "unmeasured.db"
    assert [row["step"] for row in rows(path, "SELECT step FROM dynamics ORDER BY step")] == [0, 2]
    assert events(path) == [("measurement_failed", 1)]
    assert (
        "failed in 1 of 2 processes" in rows(path, "SELECT message FROM events WHERE code != 'measuring'")[0]["message"]
    )


def test_unexpected_or_missing_processes_are_refused(tmp_path: Path, monkeypatch):
    config = RunConfig(**TINY, steps=1)
    with pytest.raises(ConfigError, match=r"--parallel ddp needs processes .*torchrun --nproc-per-node=2"):
        train(config, runs=tmp_path, parallel="ddp")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"2 processes were started .* --parallel ddp or fsdp2"):
        train(config, runs=tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "abc")
    for parallel in (None, "ddp"):
        with pytest.raises(ConfigError, match=r"WORLD_SIZE = 'abc', which is not a number\. Unset it"):
            train(config, runs=tmp_path, parallel=parallel)


def test_the_first_generation_of_sharding_is_refused_by_name(tmp_path: Path):
    class FullyShardedDataParallel(nn.Sequential):
        """A class of the same name, because torch's needs a process group."""

    with pytest.raises(ModelError, match=r"fully_shard \(FSDP2\)"):
        DynamicsLoggerCallback(tmp_path / "x.db").on_train_begin(FullyShardedDataParallel(Network()))
