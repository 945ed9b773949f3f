"""Hugging Face Trainer: `Trainer(..., callbacks=[TrainerDynamicsCallback("dynamics.db")])`."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prismatic.callbacks import DynamicsLoggerCallback
from prismatic.errors import PrismaticError
from prismatic.integrations.accelerate import say_resumed, say_skipped, unscaled, weight_dtype
from prismatic.integrations.harmless import harmless
from prismatic.logger import DynamicsLogger

try:
    import transformers
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError('TrainerDynamicsCallback needs Transformers: pip install "prismatic-dynamics[hf]"') from error


# Run files of trainings that began and did not end: an exception may have been caught, in a notebook for instance.
_OPEN: dict[Path, TrainerDynamicsCallback] = {}


class TrainerDynamicsCallback(TrainerCallback):
    """Logs the gradient dynamics of a model's Prismatic routers while the Hugging Face Trainer trains it.

    logger: the path of the run file, or a DynamicsLogger. Steps are the optimizer's, from 0, and go on where a
    checkpoint left them. The Trainer clips before its callbacks are called: with max_grad_norm above 0 the logged
    norms are those after clipping (`clip_state: after`), while their ratios and directions are the same.
    The loss is the one in the model's output: a Trainer does not show its own before the step is over.
    Nor does it tell a callback of an exception: the exit state of such a run is recorded when the process ends.
    A path, option or model that cannot be used is an error before the first step; after it nothing stops training.
    """

    def __init__(self, logger: DynamicsLogger | Path | str, *, log_freq: int = 10, weight_freq: int = 100):
        self._logger = logger
        self._path = (logger.db_path if isinstance(logger, DynamicsLogger) else Path(logger)).absolute()
        self._options = {"log_freq": log_freq, "weight_freq": weight_freq}
        self._dynamics: DynamicsLoggerCallback | None = None
        self._step = 0
        self._losses = _Losses()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the run file, on the main process only."""
        self._step = state.global_step
        if state.is_world_process_zero:
            with harmless(PrismaticError):
                self._begin(args, state, kwargs["model"])

    def _begin(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        if self._path in _OPEN:
            _OPEN[self._path]._end("crashed")
        dynamics = DynamicsLoggerCallback(self._logger, **self._options, last_step=state.max_steps - 1)
        dynamics.on_train_begin(model, **_facts(args, state, model))
        if self._step:
            say_resumed(dynamics, self._step)
        self._dynamics = dynamics
        if not args.torch_compile:  # a hook would break the compiled graph
            self._losses.watch(model)
        _OPEN[self._path] = self
        atexit.register(self._left)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log this step if it is due."""
        step, self._step = self._step, self._step + 1
        if self._dynamics is None:
            return
        with harmless():
            optimizer = kwargs["optimizer"]
            metrics: dict[str, Any] = {"learning_rate": float(optimizer.param_groups[0]["lr"])}
            loss = self._losses.of_step(args)
            if loss is not None:
                metrics["loss"] = loss
            self._dynamics._gradient = unscaled(optimizer)
            self._dynamics.on_before_optimizer_step(kwargs["model"], step, **metrics)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record a step that mixed precision skipped."""
        if self._dynamics is not None and getattr(kwargs["optimizer"], "step_was_skipped", False):
            with harmless():
                say_skipped(self._dynamics, self._step - 1)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the run file."""
        self._end("finished")

    def _left(self) -> None:
        """The process ends and the training has not: Python remembers an exception that nobody caught."""
        self._end("crashed" if isinstance(getattr(sys, "last_value", None), Exception) else "interrupted")

    def _end(self, exit_state: str) -> None:
        dynamics, self._dynamics = self._dynamics, None
        if dynamics is not None:
            del _OPEN[self._path]
            atexit.unregister(self._left)
            with harmless():
                self._losses.unwatch()
                dynamics.on_train_end(exit_state=exit_state, ended=time.time())


class _Losses:
    """The losses in the model's outputs since the last step."""

    def __init__(self) -> None:
        self._seen: list[Tensor] = []
        self._normalised = False
        self._handle: RemovableHandle | None = None

    def watch(self, model: nn.Module) -> None:
        self._handle = model.register_forward_hook(self._after_forward, with_kwargs=True)

    def unwatch(self) -> None:
        self._seen.clear()
        if self._handle is not None:
            self._handle.remove()

    def _after_forward(self, model: nn.Module, _: Any, kwargs: dict[str, Any], output: Any) -> None:
        with harmless():
            self._remember(model, kwargs, output)

    def _remember(self, model: nn.Module, kwargs: dict[str, Any], output: Any) -> None:
        loss = output.get("loss") if isinstance(output, Mapping) else next(iter(output), None)
        if model.training and isinstance(loss, Tensor) and loss.numel() == 1:
            self._seen.append(loss.detach().float().reshape(()))
            self._normalised = kwargs.get("num_items_in_batch") is not None

    def of_step(self, args: TrainingArguments) -> Tensor | None:
        """Their mean, or the sum of those that the model divided by the items of the whole step already."""
        seen, self._seen = self._seen, []
        if not seen:
            return None
        losses = torch.stack(seen)
        if not self._normalised:
            return losses.mean()
        return losses.sum() * (args.world_size if args.average_tokens_across_devices else 1)


def _facts(args: TrainingArguments, state: TrainerState, model: nn.Module) -> dict[str, Any]:
    clipped = (args.max_grad_norm or 0) > 0
    return {
        "hook": "transformers on_pre_optimizer_step",
        "clip_state": "after" if clipped else "before",
        **({"max_grad_norm": args.max_grad_norm} if clipped else {}),
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "precision": "fp16-mixed" if args.fp16 else "bf16-mixed" if args.bf16 else weight_dtype(model),
        "world_size": args.world_size,
        "planned_steps": state.max_steps,
        "seed": args.seed,
        "device": str(args.device),
        "transformers": transformers.__version__,
        "exit_state": "running",
    }
