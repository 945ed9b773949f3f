"""Roles and facts are the same for every integration, and each reads what its framework knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import lightning
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prismatic import DynamicsLoggerCallback, Prismatic, RouterConfig
from prismatic.contract.options import options_of
from prismatic.errors import ConfigError
from prismatic.integrations.accelerate import AccelerateDynamics
from prismatic.integrations.huggingface import TrainerDynamicsCallback
from prismatic.integrations.lightning import LightningDynamicsCallback
from tests.support.mixtures import MIXTURES
from tests.support.run_file import facts, rows, steps
from validation.analysis.cohort import options_of as options_of_group
from validation.analysis.load import load_runs
from validation.files.read_files import read_files

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]
TOKENS = torch.randint(1, 60, (4, 12), generator=torch.Generator().manual_seed(1))


def with_trainer(path: Path, model: nn.Module, *, seed: int = 42, **options: Any) -> None:
    arguments = transformers.TrainingArguments(
        str(path.parent),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=3e-4,
        dataloader_pin_memory=False,
        seed=seed,
    )
    data = [{"input_ids": row, "labels": row} for row in TOKENS]
    callback = TrainerDynamicsCallback(path, log_freq=1, **options)
    transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()


class Module(lightning.LightningModule):
    def __init__(self, model: nn.Module, **hyperparameters: Any):
        super().__init__()
        self.save_hyperparameters(hyperparameters)
        self.model = model

    def training_step(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, labels=tokens).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def with_lightning(path: Path, model: nn.Module, **options: Any) -> None:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    callback = LightningDynamicsCallback(path, log_freq=1, **options)
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=1, callbacks=[callback], **quiet)
    trainer.fit(model if isinstance(model, Module) else Module(model), DataLoader(TOKENS, batch_size=2))


def with_accelerate(path: Path, model: nn.Module, **options: Any) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with AccelerateDynamics(accelerator, model, optimizer, path, log_freq=1, planned_steps=2, **options) as dynamics:
        for tokens in TOKENS.split(2):
            accelerator.backward(model(input_ids=tokens, labels=tokens).loss)
            dynamics.before_step()
            optimizer.step()


def with_attach(path: Path, model: nn.Module, **options: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(path, log_freq=1, **options)
    callback.attach(model, optimizer, planned_steps=2)
    for tokens in TOKENS.split(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    callback.detach()


TRAINERS = {"trainer": with_trainer, "lightning": with_lightning, "accelerate": with_accelerate, "attach": with_attach}
each_trainer = pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
Train = Callable[..., None]


def of(path: Path) -> dict[str, Any]:
    return options_of(facts(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@each_trainer
def test_roles_and_facts_are_given_alike_to_every_integration(path: Path, train: Train):
    given = {"seed": 7, "perturbation_scale": 0.5, "data": "wiki"}
    roles = ["clean", "perturbed", "perturbed", "control"]
    train(path, MIXTURES["Mixtral"].build(), roles=roles, facts=given)
    assert of(path).items() >= given.items()
    assert [row["role"] for row in rows(path, "SELECT role FROM experts")] == roles
    assert steps(path) == [0, 1]
    assert facts(path)["planned_steps"] == 2


@each_trainer
def test_without_roles_experts_are_peers(path: Path, train: Train):
    train(path, MIXTURES["Mixtral"].build())
    assert {row["role"] for row in rows(path, "SELECT role FROM experts")} == {"peer"}


@each_trainer
def test_an_option_that_does_not_exist_is_refused_before_any_file_is_made(path: Path, train: Train):
    with pytest.raises((ConfigError, TypeError), match="log_frq"):
        train(path, MIXTURES["Mixtral"].build(), log_frq=1)
    assert not path.exists()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda path: TrainerDynamicsCallback(path, log_frq=1), "'log_frq' is not an option.*Did you mean log_freq"),
        (lambda path: LightningDynamicsCallback(path, seed=1), "'seed' is not an option.*facts="),
        (lambda path: AccelerateDynamics(None, None, None, path, last_step=1), "'last_step' is not an option"),
    ],
    ids=["trainer", "lightning", "accelerate"],
)
def test_a_callback_names_its_options_when_one_is_unknown(path: Path, made: Callable[[Path], object], words: str):
    with pytest.raises(ConfigError, match=words):
        made(path)


def test_three_seeds_of_a_trainer_are_three_replicas_of_one_experiment(tmp_path: Path):
    paths = [tmp_path / f"{seed}" / "dynamics.db" for seed in range(3)]
    for seed, path in enumerate(paths):
        with_trainer(path, MIXTURES["Mixtral"].build(seed), seed=seed)
    assert of(paths[1]).items() >= {"seed": 1, "learning_rate": 3e-4, "batch_size": 4}.items()
    runs = load_runs(read_files(paths)[0])
    assert [run.seed for run in runs] == [0, 1, 2]
    assert len({options_of_group(run) for run in runs}) == 1


def test_lightnings_hyperparameters_and_seed_are_options(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    module = Module(MIXTURES["Mixtral"].build(), width=32, kind="small", layers=[1, 2], loss="mean")
    with_lightning(path, module, facts={"width": 64})
    assert of(path).items() >= {"seed": 5, "width": 64, "kind": "small"}.items()
    assert "layers" not in of(path)
    assert "loss" not in facts(path)


class OwnLoss(nn.Module):
    """A model with a Prismatic layer, as the Trainer wants it."""

    def __init__(self, seed: int):
        super().__init__()
        self.table = nn.Embedding(64, 8)
        self.layer = Prismatic(nn.Linear(8, 8), 8, RouterConfig(seed=seed))

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": self.layer(self.table(input_ids)).square().mean()}


def test_the_seed_of_a_perturbation_is_not_replaced_by_that_of_the_trainer(path: Path):
    with_trainer(path, OwnLoss(seed=2), seed=9)
    assert (of(path)["seed"], of(path)["data_seed"]) == (2, 9)
