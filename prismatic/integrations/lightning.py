"""LightningDynamicsCallback: `Trainer(callbacks=[LightningDynamicsCallback("dynamics.db")])` logs with Lightning."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prismatic.contract.options import FACTS
from prismatic.errors import PrismaticError
from prismatic.experts.discovery import find_routers
from prismatic.guard import log_failures
from prismatic.integrations.events import exit_state, record_resumed
from prismatic.integrations.model_facts import framework_seed
from prismatic.integrations.optimizers import holds_experts, learning_rate, unscaled_gradient
from prismatic.integrations.pytorch import DynamicsLoggerCallback, check_options
from prismatic.measure.isolated import Loss, Probe
from prismatic.runfile.logger import DynamicsLogger

try:
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError(
        'LightningDynamicsCallback needs Lightning: pip install "prismatic-dynamics[lightning]"'
    ) from error


class LightningDynamicsCallback(Callback):
    """Log the gradient dynamics of a model's layers of experts while Lightning trains it.

    logger: the path of the run file, or a DynamicsLogger. Steps are those of the optimizer that holds the experts,
    from 0, and continue at a checkpoint's step; gradients are measured unscaled and before Lightning clips.
    Under manual optimisation the planned number of steps, the loss and `clip_state` are unknown, and the last step is
    logged only if it is due.
    log_freq, weight_freq, histogram_freq, probe_freq, pair_freq, thresholds, mirror, roles, facts: see
    DynamicsLoggerCallback.
    The module's hyperparameters (`save_hyperparameters`) that are numbers or texts, and the seed of `seed_everything`,
    are facts of every run; `facts` adds others, and those of the same name count.
    probe_loss: the loss as a function of a batch, for the isolated probe; not `training_step`, which would log again.
    An option that does not exist is an error at once, and a path or model that cannot be used one before the first
    step; later failures only warn.
    """

    def __init__(self, logger: DynamicsLogger | Path | str, *, probe_loss: Loss | None = None, **options: Any):
        self._logger = logger
        check_options(options)
        self._options = options
        self._probe_loss = probe_loss
        self._probe: Probe | None = None
        self._dynamics: DynamicsLoggerCallback | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._step = 0
        self._batch = -1
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the run file; every process measures its part, and rank 0 writes."""
        self._optimizer = _optimizer_of_experts(trainer, pl_module)
        self._batch = -1
        self._losses.clear()
        if not trainer.global_step:
            self._step = 0
        elif not self._step:  # the checkpoint has no state of this callback; global_step counts all optimizers
            self._step = trainer.global_step // max(1, len(trainer.optimizers))
        with log_failures(PrismaticError):
            self._begin(trainer, pl_module)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        planned = _planned_steps(trainer, pl_module)
        last_step = None if planned is None else planned - 1
        dynamics = DynamicsLoggerCallback(self._logger, **self._options, last_step=last_step)
        dynamics.on_train_begin(pl_module, **_facts(trainer, pl_module, planned))
        if self._step:
            record_resumed(dynamics.logger, self._step)
        self._dynamics = dynamics

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the batch for the probe, which runs at the trainer's precision."""
        if self._probe_loss is not None:
            loss = self._probe_loss

            def at_trainers_precision(part: Any) -> Tensor:
                with trainer.precision_plugin.train_step_context():
                    return loss(part)

            self._probe = at_trainers_precision, batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Remember the loss of a micro-batch, which Lightning does not pass to the hook that logs."""
        if self._dynamics is not None and pl_module.automatic_optimization:
            self._losses.append(loss.detach().float())

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log this step if it is due."""
        if optimizer is not self._optimizer or self._ran_before_in_step(trainer, pl_module):
            return
        step, self._step = self._step, self._step + 1
        if self._dynamics is None:
            return
        with log_failures():
            scale = float(trainer.scaler.get_scale()) if trainer.scaler is not None else 1.0
            metrics: dict[str, Any] = {**learning_rate(optimizer)}
            if self._losses:
                # Lightning divides each micro-batch's loss by the planned number of micro-batches.
                share = trainer.accumulate_grad_batches / len(self._losses)
                metrics["loss"] = torch.stack(self._losses).sum() * (share / scale)
            self._losses.clear()
            gradient = unscaled_gradient(optimizer, trainer.scaler)
            self._dynamics.on_before_optimizer_step(pl_module, step, probe=self._probe, gradient=gradient, **metrics)

    def _ran_before_in_step(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Return True if this hook ran before in this step: LBFGS evaluates its closure several times a step."""
        if not pl_module.automatic_optimization:
            return False
        before, self._batch = self._batch, trainer.fit_loop.total_batch_idx
        return before == self._batch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the run file."""
        self._end("finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the run file of a training that was stopped or failed."""
        self._end(exit_state(exception))

    def _end(self, exit_state: str) -> None:
        dynamics, self._dynamics, self._probe = self._dynamics, None, None
        if dynamics is not None:
            dynamics.on_train_end(exit_state=exit_state, ended=time.time())

    def state_dict(self) -> dict[str, Any]:
        """Return the step, for a checkpoint."""
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting at the step of the checkpoint."""
        self._step = state_dict["step"]


def _optimizer_of_experts(trainer: Trainer, model: nn.Module) -> torch.optim.Optimizer | None:
    """Return the first optimizer that trains any expert, or else the first optimizer."""
    routers = find_routers(model)
    holding = (optimizer for optimizer in trainer.optimizers if holds_experts(optimizer, routers))
    return next(holding, next(iter(trainer.optimizers), None))


def _planned_steps(trainer: Trainer, module: LightningModule) -> int | None:
    """Return the number of steps that the training will take; None if Lightning cannot know."""
    if not module.automatic_optimization:
        return None
    try:
        planned = trainer.estimated_stepping_batches
    except MisconfigurationException:  # accumulation that varies between epochs
        return None
    return int(planned) if math.isfinite(planned) and planned > 0 else None


def _facts(trainer: Trainer, module: LightningModule, planned_steps: int | None) -> dict[str, Any]:
    facts = {
        "hook": "lightning on_before_optimizer_step",
        "clip_state": "before" if module.automatic_optimization else "unknown",
        "max_grad_norm": trainer.gradient_clip_val if trainer.gradient_clip_algorithm != "value" else None,
        "gradient_accumulation_steps": trainer.accumulate_grad_batches,
        "precision": trainer.precision,
        "world_size": trainer.world_size,
        "planned_steps": planned_steps,
        "device": str(module.device),
        "lightning": lightning.__version__,
        "exit_state": "running",
    }
    seed = os.environ.get("PL_GLOBAL_SEED")  # as seed_everything leaves it
    seeds = framework_seed(module, int(seed) if seed else None)
    known = {name: value for name, value in facts.items() if value is not None}
    return {**seeds, **_hyperparameters(module), **known}


def _hyperparameters(module: LightningModule) -> dict[str, Any]:
    """Return the module's hyperparameters that are numbers, texts or truth values."""
    scalars = {
        str(name): value for name, value in module.hparams.items() if isinstance(value, bool | int | float | str)
    }
    return {name: value for name, value in scalars.items() if name not in FACTS}  # which have a meaning of their own
