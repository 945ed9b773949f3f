"""AccelerateDynamics: a context around a training loop of Accelerate, with one call in every iteration.

with AccelerateDynamics(accelerator, model, optimizer, "dynamics.db", planned_steps=1000) as dynamics:
    for batch in loader:
        with accelerator.accumulate(model):
            loss = model(batch)
            accelerator.backward(loss)
            dynamics.before_step(loss=loss)
            optimizer.step()
            optimizer.zero_grad()
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, SupportsFloat

import torch
from torch import Tensor, nn

from prismatic.errors import PrismaticError
from prismatic.guard import log_failures
from prismatic.integrations.events import exit_state, record_resumed, record_skipped_step
from prismatic.integrations.model_facts import weight_dtype
from prismatic.integrations.optimizers import learning_rate, unscaled_gradient
from prismatic.integrations.pytorch import DynamicsLoggerCallback, check_options
from prismatic.measure.isolated import Probe
from prismatic.runfile.logger import DynamicsLogger

try:
    import accelerate
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError('AccelerateDynamics needs Accelerate: pip install "prismatic-dynamics[hf]"') from error


class AccelerateDynamics:
    """Log the gradient dynamics of a model's layers of experts in a training loop of Accelerate.

    model, optimizer: as `accelerator.prepare` returned them; if there are several optimizers, the experts' one.
    logger: the path of the run file, or a DynamicsLogger; every process measures its part, and rank 0 writes.
    planned_steps: the number of steps that the loop will take; the last one is always logged.
    log_freq, weight_freq, histogram_freq, probe_freq, pair_freq, thresholds, mirror, roles, facts: see
    DynamicsLoggerCallback.
    clip_state: "after" if the loop clips, to max_grad_norm, before it calls `before_step`.
    Steps are the optimizer's, from 0. A loop that resumes also gives this object to
    `accelerator.register_for_checkpointing`, inside the context and before it loads. Gradients are measured unscaled.
    An option that does not exist is an error at once; entering raises one for a path or model that cannot be used.
    Later failures only warn.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        logger: DynamicsLogger | Path | str,
        *,
        planned_steps: int | None = None,
        clip_state: Literal["before", "after"] = "before",
        max_grad_norm: float | None = None,
        **options: Any,
    ):
        check_options(options)
        self._accelerator = accelerator
        self._model = accelerator.unwrap_model(model)
        self._optimizer = optimizer
        self._logger = logger
        self._options = options
        self._plan: dict[str, Any] = {
            "planned_steps": planned_steps,
            "clip_state": clip_state,
            "max_grad_norm": max_grad_norm,
        }
        self._dynamics: DynamicsLoggerCallback | None = None
        self._step = 0
        self._losses: list[Tensor] = []

    def __enter__(self) -> Self:
        with log_failures(PrismaticError):
            self._begin()
        return self

    def _begin(self) -> None:
        planned = self._plan["planned_steps"]
        last_step = None if planned is None else planned - 1
        dynamics = DynamicsLoggerCallback(self._logger, **self._options, last_step=last_step)
        dynamics.on_train_begin(self._model, **self._facts())
        self._dynamics = dynamics

    def _facts(self) -> dict[str, Any]:
        mixed = self._accelerator.mixed_precision
        return {
            "hook": "accelerate",
            "gradient_accumulation_steps": self._accelerator.gradient_accumulation_steps,
            "precision": weight_dtype(self._model) if mixed == "no" else f"{mixed}-mixed",
            "world_size": self._accelerator.num_processes,
            "device": str(self._accelerator.device),
            "accelerate": accelerate.__version__,
            "exit_state": "running",
            **{name: value for name, value in self._plan.items() if value is not None},
        }

    def before_step(self, *, loss: Tensor | None = None, probe: Probe | None = None, **metrics: SupportsFloat) -> None:
        """Log the step if its gradients are complete and it is due: call this after every `accelerator.backward`.

        loss: the loss of this batch, as given to backward; its mean over the batches of the step is logged.
        probe: the loss as a function of a batch, and this batch, for the isolated probe (`probe_freq`).
        """
        with log_failures():
            if self._dynamics is not None and loss is not None:
                self._losses.append(loss.detach())
            if self._accelerator.sync_gradients:
                self._log(probe, metrics)

    def _log(self, probe: Probe | None, metrics: dict[str, Any]) -> None:
        step, self._step = self._step, self._step + 1
        losses, self._losses = self._losses, []
        if self._dynamics is None:
            return
        if step and self._accelerator.optimizer_step_was_skipped:
            record_skipped_step(self._dynamics.logger, step - 1)
        if losses:
            metrics = {"loss": torch.stack(losses).mean(), **metrics}
        metrics = {**learning_rate(self._optimizer), **metrics}
        gradient = unscaled_gradient(self._optimizer)
        self._dynamics.on_before_optimizer_step(self._model, step, probe=probe, gradient=gradient, **metrics)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        dynamics, self._dynamics = self._dynamics, None
        if dynamics is not None:
            with log_failures():
                dynamics.on_train_end(exit_state=exit_state(error), ended=time.time())

    def state_dict(self) -> dict[str, Any]:
        """Return the step, for a checkpoint."""
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting at the step of the checkpoint."""
        self._step = state_dict["step"]
        if self._dynamics is not None and self._step:
            record_resumed(self._dynamics.logger, self._step)
