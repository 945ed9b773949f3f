"""Lightning, the Hugging Face Trainer and Accelerate, each compared to a loop written by hand."""

from __future__ import annotations

import importlib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import accelerate
import lightning
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prismatic.errors import ConfigError
from prismatic.experts.discovery import find_routers
from prismatic.integrations.accelerate import AccelerateDynamics
from prismatic.integrations.huggingface import TrainerDynamicsCallback
from prismatic.integrations.lightning import LightningDynamicsCallback
from prismatic.measure.gradients import measure
from prismatic.measure.metrics import aggregate
from prismatic.runfile.logger import DynamicsLogger
from prismatic.train.config import RunConfig
from prismatic.train.model import ByteLM
from tests.support.run_file import events, facts, rows, steps
from tests.support.source_tree import ROOT, imported

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]
BATCHES = torch.randint(0, 256, (6, 2, 17), generator=torch.Generator().manual_seed(0))
NORMS = [f"expert_{i}_{tier}_norm" for i in range(3) for tier in ("top", "bottom", "middle")]
RATE = 0.1


class Model(nn.Module):
    """A tiny language model whose output is its loss, as the Hugging Face Trainer expects."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.lm = ByteLM(RunConfig(hidden_size=16, num_heads=2, sequence_length=16, **options))
        self.before_forward: Callable[[int], None] = lambda batch: None
        self.seen = 0

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        self.before_forward(self.seen)
        self.seen += 1
        return {"loss": self.lm.loss(tokens)}


class WithoutRouters(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(256, 1)
        self.seen = 0

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        return {"loss": self.table(tokens).square().mean()}


def loss_by(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda tokens: model(tokens)["loss"]


class LightningModel(lightning.LightningModule):
    def __init__(self, model: nn.Module, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD, **options):
        super().__init__()
        self.model, self.optimizer, self.options = model, optimizer, {"lr": RATE} | options

    def training_step(self, batch: Tensor) -> Tensor:
        return self.model(batch)["loss"]

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), **self.options)


def fit(module: LightningModel, callback: LightningDynamicsCallback, *, ckpt_path: Path | None = None, **options):
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, **dict.fromkeys(quiet, False), **options}
    trainer = lightning.Trainer(devices=1, callbacks=[callback], **options)
    trainer.fit(module, DataLoader(BATCHES, batch_size=None), ckpt_path=ckpt_path)
    return trainer


def with_lightning(logger, model: nn.Module, *, accumulate: int = 1, clip: float | None = None, **frequencies):
    probe_loss = loss_by(model) if "probe_freq" in frequencies else None
    callback = LightningDynamicsCallback(logger, probe_loss=probe_loss, **frequencies)
    fit(LightningModel(model), callback, accumulate_grad_batches=accumulate, gradient_clip_val=clip)


def hugging_face(model: nn.Module, callback: TrainerDynamicsCallback, folder: Path, **options) -> transformers.Trainer:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        per_device_train_batch_size=2,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        lr_scheduler_type="constant",
        dataloader_pin_memory=False,
        **{"save_strategy": "no", "max_grad_norm": 0.0} | options,
    )
    optimizers = (torch.optim.SGD(model.parameters(), lr=RATE), None)
    rows = [{"tokens": row} for row in BATCHES.flatten(0, 1)]
    return transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[callback], optimizers=optimizers)


def with_trainer(logger, model: nn.Module, *, accumulate: int = 1, clip: float | None = None, **frequencies):
    folder = Path(getattr(logger, "db_path", logger)).parent
    options = {"gradient_accumulation_steps": accumulate, "max_grad_norm": clip or 0.0}
    hugging_face(model, TrainerDynamicsCallback(logger, **frequencies), folder, **options).train()


def with_accelerate(
    logger, model: nn.Module, *, accumulate: int = 1, clip: float | None = None, scaler=None, **options
):
    loss_of = loss_by(model) if "probe_freq" in options else None
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    accelerator.scaler = scaler  # Accelerate makes one only on a GPU
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=RATE))
    options = {"planned_steps": len(BATCHES) // accumulate, **options}
    with AccelerateDynamics(accelerator, model, optimizer, logger, **options) as dynamics:
        for batch in BATCHES:
            with accelerator.accumulate(model):
                loss = model(batch)["loss"]
                accelerator.backward(loss)
                dynamics.before_step(loss=loss, probe=(loss_of, batch) if loss_of else None)
                if accelerator.sync_gradients and clip:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()


TRAINERS = {"lightning": with_lightning, "transformers": with_trainer, "accelerate": with_accelerate}
each_trainer = pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)


def by_hand(accumulate: int = 1) -> list[dict[str, float]]:
    """Return what a plain loop measures, a dict per step."""
    model, rows, losses = Model(), [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for number, batch in enumerate(BATCHES, start=1):
        loss = model(batch)["loss"]
        (loss / accumulate).backward()
        losses.append(loss.item())
        if number % accumulate == 0:
            measured = aggregate(measure(find_routers(model)))["expert_gradients"]
            norms = {f"{expert}_{name}": value for expert, row in measured.items() for name, value in row.items()}
            rows.append(norms | {"loss": sum(losses) / accumulate, "step": len(rows), "learning_rate": RATE})
            losses.clear()
            optimizer.step()
            optimizer.zero_grad()
    return rows


def failing(error: BaseException, at: int = 3) -> Model:
    def fail(batch: int) -> None:
        if batch == at:
            raise error

    model = Model()
    model.before_forward = fail
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dynamics.db"


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Reset Accelerate, which keeps its state and options in the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@each_trainer
def test_a_trainer_logs_what_a_loop_by_hand_measures(path: Path, train):
    train(path, Model(), log_freq=2)
    expected = by_hand()
    assert steps(path) == [0, 2, 4, 5]
    for row in rows(path):
        wanted = expected[row["step"]]
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)
    assert events(path) == []


@each_trainer
def test_accumulation_counts_the_steps_of_the_optimizer(path: Path, train):
    train(path, Model(), accumulate=2, log_freq=1)
    expected = by_hand(accumulate=2)
    assert (steps(path), facts(path)["option.gradient_accumulation_steps"]) == ([0, 1, 2], 2)
    for row, wanted in zip(rows(path), expected, strict=True):
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)


@each_trainer
def test_the_first_and_the_last_step_are_logged_whatever_the_frequency(path: Path, train):
    train(path, Model(), log_freq=100)
    assert (steps(path), facts(path)["planned_steps"]) == ([0, 5], 6)


@each_trainer
def test_the_probe_measures_each_expert_alone_and_changes_nothing(path: Path, train):
    probed, plain = Model(), Model()
    train(path, probed, log_freq=2, probe_freq=4)
    train(path.with_name("plain.db"), plain, log_freq=2)
    found = rows(path, "SELECT * FROM layers WHERE source = 'isolated' ORDER BY step, layer, expert")
    assert {row["step"] for row in found} == {0, 4, 5}
    assert all(torch.equal(a, b) for a, b in zip(probed.parameters(), plain.parameters(), strict=True))
    # At step 0, each expert's gradient can be measured by hand.
    model = Model()
    for expert, row in enumerate(row for row in found if row["step"] == 0 and row["layer"] == 0):
        for router in find_routers(model):
            router.forced = expert
        weights = list(find_routers(model)[0].experts[expert].parameters())
        grads = torch.autograd.grad(model(BATCHES[0])["loss"], weights)
        assert row["norm"] == pytest.approx(torch.cat([g.flatten() for g in grads]).norm().item(), rel=1e-5)
    losses = [[row["loss"] for row in rows(file)] for file in (path, path.with_name("plain.db"))]
    assert losses[0] == losses[1]
    assert events(path) == []


@each_trainer
def test_histograms_count_every_gradient_entry(path: Path, train):
    train(path, Model(), log_freq=1, histogram_freq=5)
    found = rows(path, "SELECT step, expert, sum(count) AS entries FROM histograms WHERE layer = 0 GROUP BY 1, 2")
    weights = sum(p.numel() for p in find_routers(Model())[0].experts[0].parameters())
    assert {row["step"] for row in found} == {0, 5}
    assert all(0 < row["entries"] <= weights for row in found)


@pytest.mark.parametrize(
    ("library", "hook"),
    [
        (lightning, "lightning on_before_optimizer_step"),
        (transformers, "transformers on_pre_optimizer_step"),
        (accelerate, "accelerate"),
    ],
    ids=TRAINERS,
)
def test_a_run_records_how_it_was_measured(path: Path, library, hook: str):
    TRAINERS[library.__name__](path, Model())
    seen = facts(path)
    assert (seen["hook"], seen[library.__name__]) == (hook, library.__version__)
    assert (seen["clip_state"], seen["world_size"], seen["device"]) == ("before", 1, "cpu")
    assert seen["precision"] in ("float32", "32-true")
    assert (seen["exit_state"], seen["routers"]) == ("finished", 2)
    assert "option.max_grad_norm" not in seen


@pytest.mark.parametrize("train", [with_lightning, with_accelerate], ids=["lightning", "accelerate"])
def test_norms_that_are_measured_before_clipping_are_those_of_the_whole_gradient(path: Path, train):
    train(path, Model(), clip=1e-3)
    first, wanted = rows(path)[0], by_hand()[0]
    assert {name: first[name] for name in NORMS} == pytest.approx({name: wanted[name] for name in NORMS}, rel=1e-6)
    assert facts(path)["clip_state"] == "before"


def test_the_trainer_clips_before_it_is_measured_which_keeps_ratios_and_shrinks_norms(path: Path):
    with_trainer(path, Model(), clip=1e-3)
    first, wanted = rows(path)[0], by_hand()[0]
    shares = [first[name] / wanted[name] for name in NORMS]
    assert shares == pytest.approx([shares[0]] * len(NORMS), rel=1e-5)
    assert shares[0] < 0.01
    assert first["expert_1_bottom_to_middle"] == pytest.approx(wanted["expert_1_bottom_to_middle"], rel=1e-5)
    assert (facts(path)["clip_state"], facts(path)["option.max_grad_norm"]) == ("after", 1e-3)


def test_an_accelerate_loop_can_declare_that_it_clips_first(path: Path):
    with_accelerate(path, Model(), clip_state="after", max_grad_norm=0.5)
    assert (facts(path)["clip_state"], facts(path)["option.max_grad_norm"]) == ("after", 0.5)


@each_trainer
def test_a_model_without_routers_is_reported_once_and_trains(path: Path, train):
    with pytest.warns(RuntimeWarning, match="no layer of experts") as warned:
        train(path, WithoutRouters(), log_freq=1)
    assert len([warning for warning in warned if "Prismatic" in str(warning.message)]) == 1
    assert (steps(path), events(path), facts(path)["exit_state"]) == ([], [("no_router", None)], "finished")


@each_trainer
def test_a_logger_that_breaks_does_not_stop_training(path: Path, train):
    logger, model = DynamicsLogger(path), Model()

    def broken(record: object) -> None:
        raise ZeroDivisionError

    model.before_forward = lambda batch: setattr(logger._writer, "put_step", broken) if batch == 2 else None
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError.*training goes on"):
        train(logger, model, log_freq=1)
    assert model.seen == len(BATCHES)
    assert steps(path) == [0, 1]


@each_trainer
def test_a_frequency_that_is_never_due_is_refused_before_the_first_step(path: Path, train):
    model = Model()
    with pytest.raises(ConfigError, match="log_freq = 0 is not allowed"):
        train(path, model, log_freq=0)
    assert model.seen == 0


@pytest.mark.parametrize("train", [with_lightning, with_accelerate], ids=["lightning", "accelerate"])
def test_a_training_that_fails_is_recorded_as_crashed(path: Path, train):
    with pytest.raises(ZeroDivisionError):
        train(path, failing(ZeroDivisionError()), log_freq=1)
    assert (steps(path), facts(path)["exit_state"]) == ([0, 1, 2], "crashed")


@pytest.mark.parametrize(
    ("train", "raised"),
    [(with_lightning, SystemExit), (with_accelerate, KeyboardInterrupt)],
    ids=["lightning", "accel"],
)
def test_a_training_that_is_stopped_by_hand_is_recorded_as_interrupted(path: Path, train, raised):
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(raised):
            train(path, failing(KeyboardInterrupt()), log_freq=1)
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores SIGINT afterwards
    assert (steps(path), facts(path)["exit_state"]) == ([0, 1, 2], "interrupted")


@pytest.mark.parametrize(("error", "state"), [(ZeroDivisionError(), "crashed"), (KeyboardInterrupt(), "interrupted")])
def test_the_trainers_exception_is_recorded_when_the_process_ends(path: Path, monkeypatch, error, state: str):
    callback = TrainerDynamicsCallback(path, log_freq=1)
    with pytest.raises(type(error)):
        hugging_face(failing(error), callback, path.parent).train()
    monkeypatch.setattr(sys, "last_value", error, raising=False)
    callback._end_at_exit()
    assert (steps(path), facts(path)["exit_state"]) == ([0, 1, 2], state)


def test_a_trainer_started_again_after_an_exception_starts_at_step_0(path: Path):
    callback = TrainerDynamicsCallback(path, log_freq=2)
    with pytest.raises(ZeroDivisionError):
        hugging_face(failing(ZeroDivisionError()), callback, path.parent).train()
    hugging_face(Model(), callback, path.parent).train()
    assert (steps(path), facts(path)["exit_state"]) == ([0, 2, 4, 5], "finished")
    assert events(path) == [("rewind", 0)]


def test_lightning_continues_counting_at_the_checkpoints_step(path: Path):
    module, checkpoint = LightningModel(Model()), path.with_suffix(".ckpt")
    fit(module, LightningDynamicsCallback(path, log_freq=4)).save_checkpoint(checkpoint)
    fit(module, LightningDynamicsCallback(path, log_freq=4), ckpt_path=checkpoint, max_epochs=2)
    assert (steps(path), events(path)) == ([0, 4, 5, 8, 11], [("resumed", 6)])


def test_lightning_continues_from_a_checkpoint_without_the_callbacks_state(path: Path):
    module, checkpoint = LightningModel(Model()), path.with_suffix(".ckpt")
    fit(module, lightning.Callback()).save_checkpoint(checkpoint)
    fit(module, LightningDynamicsCallback(path, log_freq=4), ckpt_path=checkpoint, max_epochs=2)
    assert (steps(path), events(path)) == ([8, 11], [("resumed", 6)])


def test_the_trainer_continues_counting_at_the_checkpoints_step(path: Path):
    folder, options = path.parent, {"save_strategy": "steps", "save_steps": 3}
    with pytest.raises(ZeroDivisionError):
        hugging_face(failing(ZeroDivisionError()), TrainerDynamicsCallback(path, log_freq=2), folder, **options).train()
    again = hugging_face(Model(), TrainerDynamicsCallback(path, log_freq=2), folder, **options)
    again.train(resume_from_checkpoint=True)
    assert (steps(path), events(path)) == ([0, 2, 4, 5], [("resumed", 3)])


def test_an_accelerate_loop_continues_counting_at_the_checkpoints_step(path: Path):
    accelerator, model = accelerate.Accelerator(cpu=True), Model()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=RATE))
    for folder, batches in ((None, BATCHES[:3]), (path.parent / "state", BATCHES[3:])):
        with AccelerateDynamics(accelerator, model, optimizer, path, log_freq=2, planned_steps=6) as dynamics:
            accelerator.register_for_checkpointing(dynamics)
            if folder:
                accelerator.load_state(folder)
            for batch in batches:
                accelerator.backward(model(batch)["loss"])
                dynamics.before_step()
                optimizer.step()
            accelerator.save_state(path.parent / "state")
        accelerator._custom_objects.clear()
    assert (steps(path), events(path)) == ([0, 2, 4, 5], [("resumed", 3)])


def test_a_model_that_accelerate_saved_as_safetensors_can_be_loaded(tmp_path: Path):
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.prepare(Model())
    accelerator.save_state(tmp_path)
    accelerator.load_state(tmp_path)


@pytest.mark.parametrize("clip", [None, 1e9], ids=["scaled", "unscaled by clipping"])
def test_accelerates_gradients_are_measured_unscaled(path: Path, clip: float | None):
    with_accelerate(path, Model(), clip=clip, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    first, wanted = rows(path)[0], by_hand()[0]
    assert {name: first[name] for name in NORMS} == pytest.approx({name: wanted[name] for name in NORMS}, rel=1e-6)


def test_a_step_that_accelerates_scaler_skips_is_an_event(path: Path):
    with_accelerate(path, Model(), scaler=torch.amp.GradScaler("cpu", init_scale=2.0**127))
    skipped = events(path)  # the scale is halved until the gradients fit
    assert 0 < len(skipped) < len(BATCHES)
    assert skipped == [("skipped_step", step) for step in range(len(skipped))]


@pytest.mark.parametrize(("optimizer", "fused"), [("SGD", False), ("AdamW", True)])
def test_lightnings_gradients_are_unscaled_also_where_a_fused_optimizer_does_it_itself(path: Path, optimizer, fused):
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    module = LightningModel(Model(), getattr(torch.optim, optimizer), fused=fused)
    fit(module, LightningDynamicsCallback(path), plugins=[precision])
    first, wanted = rows(path)[0], by_hand()[0]
    names = [*NORMS, "loss"]
    assert {name: first[name] for name in names} == pytest.approx({name: wanted[name] for name in names}, rel=0.02)
    assert facts(path)["precision"] == "16-mixed"


def test_lightnings_closure_that_is_evaluated_often_is_one_step(path: Path):
    fit(LightningModel(Model(), torch.optim.LBFGS, max_iter=3), LightningDynamicsCallback(path, log_freq=1))
    assert steps(path) == [0, 1, 2, 3, 4, 5]


class TwoOptimizers(LightningModel):
    """A module in which another optimizer takes two steps for each step of the experts' optimizer."""

    automatic_optimization = False

    def training_step(self, batch: Tensor) -> None:
        other, experts = self.optimizers()
        self.manual_backward(self.model(batch)["loss"])
        for optimizer in (other, experts, other):
            optimizer.step()
        self.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=RATE) for part in (self.model.lm.head, self.model.lm.decoder)]


def test_of_lightnings_optimizers_the_one_that_holds_the_experts_is_counted(path: Path):
    trainer = fit(TwoOptimizers(Model()), LightningDynamicsCallback(path, log_freq=1))
    assert trainer.global_step == 3 * len(BATCHES)
    assert (steps(path), facts(path)["clip_state"]) == ([0, 1, 2, 3, 4, 5], "unknown")


class PerItem(Model):
    """A model that divides its loss by the items of the whole step, as language models in Transformers do."""

    def forward(self, tokens: Tensor, labels: Tensor, **kwargs: Tensor) -> dict[str, Tensor]:
        return {"loss": self.lm.loss(tokens) * labels.numel() / kwargs["num_items_in_batch"]}


def test_the_loss_of_a_model_that_divides_it_by_the_items_of_the_step_is_their_sum(path: Path):
    trainer = hugging_face(PerItem(), TrainerDynamicsCallback(path), path.parent, gradient_accumulation_steps=2)
    trainer.train_dataset = [row | {"labels": row["tokens"][1:]} for row in trainer.train_dataset]
    trainer.train()
    first, wanted = rows(path)[0], by_hand(accumulate=2)[0]
    names = [*NORMS, "loss"]
    assert {name: first[name] for name in names} == pytest.approx({name: wanted[name] for name in names}, rel=1e-6)


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("lightning", "lightning", "lightning"),
        ("huggingface", "transformers", "hf"),
        ("accelerate", "accelerate", "hf"),
    ],
)
def test_a_missing_library_is_reported_with_its_install_line(monkeypatch, module: str, library: str, extra: str):
    name = f"prismatic.integrations.{module}"
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=re.escape(f'pip install "prismatic-dynamics[{extra}]"')):
        importlib.import_module(name)


def test_nothing_else_in_the_package_imports_a_trainers_library():
    needing = ("lightning", "huggingface", "accelerate")
    programs = ("upcycled",)  # which train models of transformers, in a process of their own
    others = [path for path in (ROOT / "prismatic").rglob("*.py") if path.stem not in (*needing, *programs)]
    names = {name for path in others for name in imported(path)}
    assert not {name.partition(".")[0] for name in names} & {"lightning", "transformers", "accelerate"}
    assert not names & {f"prismatic.integrations.{name}" for name in needing}
