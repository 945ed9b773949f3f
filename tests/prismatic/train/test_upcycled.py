"""The trainer of upcycled models: its options, and runs that depend on their options and seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from prismatic.contract.study import Study
from prismatic.errors import ConfigError, LoggerError
from prismatic.train.trainers import parse, train_any
from tests.support.run_file import facts, rows
from validation import judge, read_sources

DENSE = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
DENSE |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32}
TINY = {"trainer": "upcycled", "dense": DENSE, "dense_steps": 2, "num_experts": 4, "control_experts": 1}
TINY |= {"sequence_length": 16, "batch_size": 4, "steps": 6, "log_freq": 2, "probe_freq": 2, "load_balancing": 0.01}
PAIRS = "SELECT expert, other, step, weight_distance, output_distance, half_product FROM pairs ORDER BY 1, 2, 3"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dense": {"hidden_size": 16}}, "dense needs model_type"),
        ({"top_k": 5}, "top_k=5 must be at most num_experts=4"),
        ({"control_experts": 3}, "control_experts = 3 leaves none of 4 experts to be perturbed"),
        ({"upcycle_clean": False}, "control_experts need upcycle_clean"),
        ({"upcycle_method": "magic"}, "upcycle_method = 'magic' is not allowed"),
        ({"upcycle_drop": 0}, "upcycle_drop = 0 is not allowed"),
        ({"merge": "example"}, "unknown option 'merge'"),
    ],
)
def test_options_that_make_no_mixture_are_refused(changed: dict, message: str):
    with pytest.raises(ConfigError) as error:
        parse({**TINY, **changed})
    assert message in str(error.value)


def test_copies_are_the_sham_runs_of_the_other_methods():
    assert [parse({**TINY, "upcycle_method": method}).role for method in ("copy", "noise", "drop")] == [
        "sham run",
        "treated run",
        "treated run",
    ]
    assert parse({**TINY, "upcycle_clean": False, "control_experts": 0}).role == "run"


@pytest.mark.long
def test_a_run_depends_on_its_options_and_seed_alone(tmp_path: Path):
    config = parse({**TINY, "upcycle_method": "drop"})
    study = Study((0, 1), 2, "ab" * 32)
    first, again = (train_any(config, runs=tmp_path / name, study=study) for name in ("first", "again"))
    other = train_any(config.model_copy(update={"seed": 1}), runs=tmp_path / "first")
    assert first.held_out_loss == again.held_out_loss != other.held_out_loss
    assert rows(first.db_path, PAIRS) == rows(again.db_path, PAIRS) != rows(other.db_path, PAIRS)
    found = facts(first.db_path)
    assert (found["exit_state"], found["study.seeds"], found["config.upcycle_method"]) == ("finished", [0, 1], "drop")
    assert found["held_out_loss"] == first.held_out_loss
    roles = [row["role"] for row in rows(first.db_path, "SELECT role FROM experts ORDER BY expert")]
    assert roles == ["clean", "perturbed", "perturbed", "control"]
    with pytest.raises(LoggerError, match="a run of these options exists"):
        train_any(config, runs=tmp_path / "first")


@pytest.mark.long
def test_a_run_finds_its_twin_of_plain_copies(tmp_path: Path):
    for method in ("copy", "drop"):
        train_any(parse({**TINY, "upcycle_method": method}), runs=tmp_path)
    judgement = judge(*read_sources([tmp_path]))
    assert not {finding.id for finding in judgement.findings} & {"facts_disagree", "missing_experts"}
    assert sorted(group.role for group in judgement.verdict.groups) == ["sham", "treated"]
    (treated,) = (run for run in judgement.measured if not run.run.is_sham)
    assert judgement.cohort.twin_of(treated.run) is not None
