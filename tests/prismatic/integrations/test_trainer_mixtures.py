"""Mixtures of transformers under the Hugging Face Trainer: each number as of experts that are cut out by hand.

The numbers by hand come from the very gradients that the optimizer is about to use, so they agree to 1e-6 also where
these gradients are rounded: under clipping, autocast, and in weights of bfloat16.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from prismatic.experts.discovery import find_routers
from prismatic.integrations.huggingface import TrainerDynamicsCallback
from tests.support.experts_by_hand import TIERS, cut_by_hand, slow_norms, spies_on
from tests.support.mixtures import MIXTURES
from tests.support.run_file import events, facts, rows

ROWS = torch.randint(1, 60, (12, 12), generator=torch.Generator().manual_seed(1))
CHECKPOINTING = {"activation_checkpointing": True}
REENTRANT = {**CHECKPOINTING, "activation_checkpointing_kwargs": {"use_reentrant": True}}
ACCUMULATION = {"gradient_accumulation_steps": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "clipping": {"max_grad_norm": 0.01},
    "accumulation": ACCUMULATION,
    "bf16": {"bf16": True},
    "checkpointing": CHECKPOINTING,
    "reentrant checkpointing": REENTRANT,
    "compiled": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
    "evaluation": {"eval_strategy": "steps", "eval_steps": 1},
    "all": {**ACCUMULATION, **CHECKPOINTING, "bf16": True, "max_grad_norm": 0.01, "eval_strategy": "epoch"},
}
REFUSED = {  # by transformers 5.24 itself, also without any callback
    ("DBRX", "bf16"),  # index_add_ of float and bfloat16 under autocast
    ("DBRX", "all"),
    ("JetMoE", "checkpointing"),  # "does not support activation checkpointing"
    ("JetMoE", "reentrant checkpointing"),
    ("JetMoE", "all"),
}
QUICK = {
    ("Mixtral", "all"),
    ("Mixtral", "reentrant checkpointing"),
    ("gpt-oss", "accumulation"),
    ("Llama 4", "all"),
    ("JetMoE", "bf16"),
    ("Switch", "evaluation"),
}
CASES = [
    pytest.param(name, setting, id=f"{name}, {setting}", marks=() if (name, setting) in QUICK else pytest.mark.long)
    for name in MIXTURES
    for setting in SETTINGS
    if (name, setting) not in REFUSED
]

pytestmark = [  # of torch's own compiler, which looks at everything
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated"),
]


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Reset Accelerate, which keeps its state and options in the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class ByHand(transformers.TrainerCallback):
    """Computes in each step, before the optimizer's, what our callback should log."""

    def __init__(self, model: nn.Module):
        self.layers = find_routers(model)
        self.spies = spies_on(self.layers)
        self.initial = [[self._weights(layer, e) for e in range(len(layer))] for layer in self.layers]
        self.rows: list[dict[str, float]] = []

    @staticmethod
    def _weights(layer: Any, expert: int) -> list[Tensor]:
        return [weight.clone() for weight, _ in cut_by_hand(layer, expert)]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for number, (layer, spy) in enumerate(zip(self.layers, self.spies, strict=True)):
            weights, tokens = spy.take()
            for expert in range(len(layer)):
                gradients = [gradient for _, gradient in cut_by_hand(layer, expert)]
                norms = slow_norms([*zip(self.initial[number][expert], gradients, strict=True)])
                own = {"routing_weight": weights[expert], "token_share": tokens[expert]}
                own |= {"step": state.global_step, "layer": number, "expert": expert}
                self.rows.append(own | {f"{tier}_norm": norms[tier] for tier in TIERS})


def train(model: nn.Module, path: Path, *callbacks: Any, **settings: Any) -> None:
    """Train a mixture for one epoch of four steps."""
    arguments = transformers.TrainingArguments(
        output_dir=str(path.parent),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        per_device_train_batch_size=3,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        dataloader_pin_memory=False,
        **{"save_strategy": "no", "learning_rate": 1e-3} | settings,
    )
    data = [{"input_ids": row, "labels": row} for row in ROWS]
    trainer = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data[:3], callbacks=[*callbacks])
    trainer.train()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dynamics.db"


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_every_number_is_that_of_experts_cut_out_by_hand(path: Path, name: str, setting: str):
    model = MIXTURES[name].build()
    hand = ByHand(model)
    train(model, path, hand, TrainerDynamicsCallback(path, log_freq=1), **SETTINGS[setting])
    logged = rows(path, "SELECT * FROM layers WHERE source = 'merged' ORDER BY step, layer, expert")
    assert len(logged) == len(hand.rows) > 0
    for row, wanted in zip(logged, hand.rows, strict=True):
        assert {key: row[key] for key in wanted} == pytest.approx(wanted, rel=1e-6, abs=1e-30)
    assert any(row["bottom_norm"] > 0 for row in logged)
    assert events(path) == [("experts_found", None)]


@pytest.mark.parametrize("name", ["Mixtral", "NLLB-MoE"])
def test_weights_of_bfloat16_are_measured_from_their_own_gradients(path: Path, name: str):
    model = MIXTURES[name].build().to(torch.bfloat16)
    hand = ByHand(model)
    train(model, path, hand, TrainerDynamicsCallback(path, log_freq=1))
    for row, wanted in zip(rows(path, "SELECT * FROM layers"), hand.rows, strict=True):
        assert {key: row[key] for key in wanted} == pytest.approx(wanted, rel=1e-6, abs=1e-30)
    assert facts(path)["precision"] == "bfloat16"


class InTheMiddle(transformers.TrainerCallback):
    """Saves, copies and pickles the model in the middle of the training."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.copies: list[nn.Module] = []

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **_: Any) -> None:
        if state.global_step == 1:
            model.save_pretrained(self.folder)
            torch.save(model, self.folder / "whole.pt")
            self.copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
            self.copies.append(torch.load(self.folder / "whole.pt", weights_only=False))
            self.copies.append(type(model).from_pretrained(self.folder).train())
            with torch.random.fork_rng():  # dropout
                for made in self.copies:  # a copy that is trained does not count into the measurement of the original
                    made(input_ids=ROWS[:3], labels=ROWS[:3]).loss.backward()


@pytest.mark.parametrize("name", ["Mixtral", "Llama 4", "Switch"])
def test_a_model_can_be_saved_copied_and_pickled_while_it_is_logged(path: Path, name: str):
    model = MIXTURES[name].build()
    hand, middle = ByHand(model), InTheMiddle(path.parent / "saved")
    for spy in hand.spies:
        spy.handle.remove()  # functions of this test could not be pickled
    train(model, path, middle, TrainerDynamicsCallback(path, log_freq=1))
    alone = path.with_name("alone.db")
    train(MIXTURES[name].build(), alone, TrainerDynamicsCallback(alone, log_freq=1))
    shares = "SELECT routing_weight, token_share, norm FROM layers ORDER BY step, layer, expert"
    assert rows(path, shares) == rows(alone, shares)
    for made in middle.copies:
        assert made.state_dict().keys() == model.state_dict().keys()
        assert all(layer.routing.peek() is None for layer in find_routers(made))
    assert len(middle.copies) == 4


def test_no_hook_is_left_after_the_training(path: Path):
    model = MIXTURES["Mixtral"].build()
    before = {name: _hooks(module) for name, module in model.named_modules()}
    train(model, path, TrainerDynamicsCallback(path, log_freq=1, probe_freq=2))
    assert {name: _hooks(module) for name, module in model.named_modules()} == before


def _hooks(module: nn.Module) -> int:
    return len(module._forward_pre_hooks) + len(module._forward_hooks) + len(module._backward_hooks)


def test_the_probe_uses_the_models_own_loss_also_under_checkpointing(path: Path):
    found = []
    for setting in ("accumulation", "checkpointing", "reentrant checkpointing"):
        model, own = MIXTURES["Mixtral"].build(), path.with_name(f"{setting}.db")
        train(model, own, TrainerDynamicsCallback(own, log_freq=1, probe_freq=1), **SETTINGS[setting])
        assert events(own) == [("experts_found", None)]
        norms = rows(own, "SELECT norm FROM layers WHERE source = 'isolated' AND step = 0 ORDER BY layer, expert")
        found.append([row["norm"] for row in norms])
    assert all(norm > 0 for norm in found[0])
    assert found[1] == pytest.approx(found[2], rel=1e-5)
