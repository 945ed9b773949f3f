"""DynamicsLoggerCallback: the steps it logs, and the experts and tiers it records, with real models and files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from prismatic.contract import schema
from prismatic.errors import ConfigError
from prismatic.experts.discovery import find_routers
from prismatic.integrations.pytorch import DynamicsLoggerCallback
from prismatic.measure.gradients import log_gradient_dynamics
from prismatic.runfile.logger import DynamicsLogger
from prismatic.train.config import RunConfig
from prismatic.train.model import ByteLM
from tests.support.run_file import events, rows, steps


def tiny(**options) -> ByteLM:
    torch.manual_seed(0)
    return ByteLM(RunConfig(hidden_size=16, num_heads=2, sequence_length=16, **options))


def train(model: ByteLM, callback: DynamicsLoggerCallback, count: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(count):
        loss = model.loss(torch.randint(0, 256, (2, 17)))
        optimizer.zero_grad()
        loss.backward()
        callback.on_before_optimizer_step(model, step, loss=loss, learning_rate=0.1)
        optimizer.step()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dynamics.db"


@pytest.mark.parametrize(
    ("log_freq", "last_step", "expected"),
    [
        (10, None, [0, 10, 20]),
        (10, 24, [0, 10, 20, 24]),
        (10, 20, [0, 10, 20]),
        (1, None, [*range(25)]),
        (100, 24, [0, 24]),
    ],
)
def test_the_due_steps_are_logged(path: Path, log_freq: int, last_step: int | None, expected: list[int]):
    callback, model = DynamicsLoggerCallback(path, log_freq=log_freq, last_step=last_step), tiny()
    callback.on_train_begin(model)
    train(model, callback, 25)
    callback.on_train_end()
    assert steps(path) == expected
    assert events(path) == []


def test_a_frequency_that_is_never_due_is_refused_before_training(path: Path):
    with pytest.raises(ConfigError, match="log_freq = 0 is not allowed"):
        DynamicsLoggerCallback(path, log_freq=0)
    assert not path.exists()


def test_the_documented_loop_written_by_hand_gives_the_same_rows_as_the_callback(tmp_path: Path):
    by_callback, model = DynamicsLoggerCallback(tmp_path / "a.db", log_freq=2), tiny()
    by_callback.on_train_begin(model)
    train(model, by_callback, 5)
    by_callback.on_train_end()
    _documented_loop(tmp_path / "b.db", tiny(), 5)
    query = "SELECT step, expert_0_clean_norm, expert_1_bottom_norm, expert_2_divergence FROM dynamics ORDER BY step"
    assert len(rows(tmp_path / "a.db", query)) == 3
    assert rows(tmp_path / "a.db", query) == rows(tmp_path / "b.db", query)


def _documented_loop(path: Path, model: ByteLM, count: int) -> None:
    optimizer, logger, log_freq = torch.optim.SGD(model.parameters(), lr=0.1), DynamicsLogger(path), 2
    for step in range(count):
        loss = model.loss(torch.randint(0, 256, (2, 17)))
        loss.backward()
        dynamics_metrics = log_gradient_dynamics(model, step)
        optimizer.step()
        optimizer.zero_grad()
        if dynamics_metrics and step % log_freq == 0:
            logger.log_dynamics(step, dynamics_metrics)
    logger.close()


def test_further_metrics_of_the_step_are_logged_beside_the_norms(path: Path):
    callback, model = DynamicsLoggerCallback(DynamicsLogger(path)), tiny()
    callback.on_train_begin(model)
    train(model, callback, 1)
    callback.on_train_end()
    (row,) = rows(path, "SELECT * FROM dynamics")
    assert row["learning_rate"] == 0.1
    assert 4 < row["loss"] < 7
    assert row["expert_0_clean_norm"] > 0


def test_a_measurement_that_fails_becomes_an_event_and_training_goes_on(path: Path):
    callback, model = DynamicsLoggerCallback(path), tiny()
    callback.on_train_begin(model)
    with pytest.warns(RuntimeWarning, match="the measurement of step 0: .*training goes on"):
        train(_with_a_router_that_cannot_be_measured(model), callback, 3)
    callback.on_train_end()
    assert (steps(path), events(path)) == ([], [("measurement_failed", 0)])


def _with_a_router_that_cannot_be_measured(model: ByteLM) -> ByteLM:
    find_routers(model)[1].tiers.top_2 = torch.tensor([10**9])  # an index outside of this block
    return model


def test_a_step_without_any_gradient_is_an_event(path: Path):
    callback, model = DynamicsLoggerCallback(path), tiny()
    callback.on_train_begin(model)
    callback.on_before_optimizer_step(model, 0)
    callback.on_train_end()
    assert (steps(path), events(path)) == ([], [("no_gradients", 0)])


def test_a_model_without_routers_is_reported_once_and_trains(path: Path):
    callback, model = DynamicsLoggerCallback(path, log_freq=1), nn.Linear(2, 2)
    with pytest.warns(RuntimeWarning, match="Linear has no layer of experts.*Ways on: .*Prismatic layer"):
        callback.on_train_begin(model, seed=7)
    for step in range(3):
        callback.on_before_optimizer_step(model, step, loss=1.0)
    callback.on_train_end(exit_state="finished")
    assert (steps(path), events(path)) == ([], [("no_router", None)])
    facts = {row["key"]: row["value"] for row in rows(path, "SELECT * FROM run")}
    assert (facts["option.seed"], facts["routers"], facts["exit_state"]) == ("7", "0", '"finished"')


def test_experts_are_recorded_with_role_seed_and_scale(path: Path):
    callback = DynamicsLoggerCallback(path)
    callback.on_train_begin(tiny(num_experts=3, control_experts=1, perturbation_scale=0.5, seed=9))
    callback.on_train_end()
    recorded = rows(path, "SELECT expert, role, seed, scale FROM experts ORDER BY expert")
    assert [tuple(row.values()) for row in recorded] == [
        (0, "clean", None, 0.0),
        (1, "perturbed", 9, 0.5),
        (2, "perturbed", 9, 0.5),
        (3, "control", 9, 0.001),
    ]


def test_experts_are_recorded_with_the_share_of_each_tier_that_changed(path: Path):
    callback, model = DynamicsLoggerCallback(path), tiny(perturbation_strategy="bottom_only")
    callback.on_train_begin(model)
    callback.on_train_end()
    clean, perturbed, _ = rows(path, "SELECT changed_top, changed_bottom, changed_middle FROM experts ORDER BY expert")
    assert set(clean.values()) == {0.0}
    assert perturbed == pytest.approx({"changed_top": 0, "changed_bottom": 1, "changed_middle": 0}, abs=0.02)


def test_tiers_are_recorded_with_sizes_and_hashes(path: Path):
    callback, model = DynamicsLoggerCallback(path), tiny(num_layers=3)
    callback.on_train_begin(model)
    callback.on_train_end()
    recorded = rows(path, "SELECT * FROM tiers ORDER BY layer, tier")
    assert len(recorded) == 3 * len(schema.TIERS)
    for row in recorded:
        block, tiers = model.decoder.locals[row["layer"]].router.experts[0], find_routers(model)[row["layer"]].tiers
        assert row["weights"] == tiers.sizes(sum(p.numel() for p in block.parameters()))[row["tier"]]
        assert row["hash"] == tiers.hashes().get(row["tier"])
        assert row["tier"] == "middle" or re.fullmatch("[0-9a-f]{16}", row["hash"])


def test_columns_exist_before_the_first_row(path: Path):
    callback = DynamicsLoggerCallback(path)
    callback.on_train_begin(tiny(num_experts=5))
    assert "expert_4_divergence" in [row["name"] for row in rows(path, "PRAGMA table_info(dynamics)")]
    callback.on_train_end()


def test_training_that_ends_inside_the_loggers_context_does_not_warn(path: Path):
    with DynamicsLogger(path) as logger:
        callback, model = DynamicsLoggerCallback(logger), tiny()
        callback.on_train_begin(model)
        train(model, callback, 1)
        callback.on_train_end()
    assert steps(path) == [0]
