"""TrainerDynamicsCallback: `Trainer(..., callbacks=[TrainerDynamicsCallback("dynamics.db")])` of Hugging Face."""

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

from prismatic.errors import PrismaticError
from prismatic.experts.hooks import Hook
from prismatic.guard import log_failures
from prismatic.integrations.events import record_resumed, record_skipped_step
from prismatic.integrations.model_facts import framework_seed, weight_dtype
from prismatic.integrations.optimizers import learning_rate, unscaled_gradient
from prismatic.integrations.pytorch import DynamicsLoggerCallback, check_options
from prismatic.measure.isolated import Probe
from prismatic.runfile.logger import DynamicsLogger

try:
    import transformers
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError('TrainerDynamicsCallback needs Transformers: pip install "prismatic-dynamics[hf]"') from error


# Callbacks by run file, of trainings that began and did not end: a notebook, for instance, may catch an exception.
_OPEN: dict[Path, TrainerDynamicsCallback] = {}


class TrainerDynamicsCallback(TrainerCallback):
    """Log the gradient dynamics of a model's layers of experts while the Hugging Face Trainer trains it.

    logger: the path of the run file, or a DynamicsLogger. Steps are the optimizer's, from 0, and continue at a
    checkpoint's step. The Trainer clips before it calls its callbacks: with max_grad_norm above 0 the logged norms are
    those after clipping (`clip_state: after`); their ratios and directions are the same.
    The loss comes from the model's output, because a Trainer does not show its own before the step is over.
    A Trainer does not report an exception to its callbacks: the exit state is then recorded when the process ends.
    log_freq, weight_freq, histogram_freq, probe_freq, pair_freq, thresholds, mirror, roles, facts: see
    DynamicsLoggerCallback. The Trainer's seed, learning rate, batch size (sequences per step) and number of steps are
    facts of every run; `facts` adds others, and those of the same name count. The isolated probe uses the last
    micro-batch and the loss in the model's output; it is off under torch_compile, which allows no hook, and
    then an event (`no_probe`) says so.
    An option that does not exist is an error at once, and a path or model that cannot be used one before the first
    step; later failures only warn.
    """

    def __init__(self, logger: DynamicsLogger | Path | str, **options: Any):
        self._logger = logger
        self._path = (logger.db_path if isinstance(logger, DynamicsLogger) else Path(logger)).absolute()
        check_options(options)
        self._options = options
        self._dynamics: DynamicsLoggerCallback | None = None
        self._step = 0
        self._outputs = _Outputs()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the run file; every process measures its part, and rank 0 writes."""
        self._step = state.global_step
        with log_failures(PrismaticError):
            self._begin(args, state, kwargs["model"])

    def _begin(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        if self._path in _OPEN:
            _OPEN[self._path]._end("crashed")
        dynamics = DynamicsLoggerCallback(self._logger, **self._options, last_step=state.max_steps - 1)
        dynamics.on_train_begin(model, **_facts(args, state, model))
        if self._step:
            record_resumed(dynamics.logger, self._step)
        self._dynamics = dynamics
        if not args.torch_compile:  # a hook would break the compiled graph
            self._outputs.watch(model)
        _OPEN[self._path] = self
        atexit.register(self._end_at_exit)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log this step if it is due."""
        step, self._step = self._step, self._step + 1
        if self._dynamics is None:
            return
        with log_failures():
            optimizer = kwargs["optimizer"]
            metrics: dict[str, Any] = {**learning_rate(optimizer)}
            loss = self._outputs.loss_of_step(args)
            if loss is not None:
                metrics["loss"] = loss
            probe, gradient = self._outputs.probe(), unscaled_gradient(optimizer)
            self._dynamics.on_before_optimizer_step(kwargs["model"], step, probe=probe, gradient=gradient, **metrics)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record a step that mixed precision skipped."""
        if self._dynamics is not None and getattr(kwargs["optimizer"], "step_was_skipped", False):
            with log_failures():
                record_skipped_step(self._dynamics.logger, self._step - 1)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the run file."""
        self._end("finished")

    def _end_at_exit(self) -> None:
        """Close the run file of a training that did not end: Python keeps an uncaught exception in sys.last_value."""
        self._end("crashed" if isinstance(getattr(sys, "last_value", None), Exception) else "interrupted")

    def _end(self, exit_state: str) -> None:
        dynamics, self._dynamics = self._dynamics, None
        if dynamics is not None:
            del _OPEN[self._path]
            atexit.unregister(self._end_at_exit)
            self._outputs.unwatch()
            dynamics.on_train_end(exit_state=exit_state, ended=time.time())


class _Outputs:
    """The last input of the model and its losses since the last step, which the Trainer does not show."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._normalised = False
        self._probing = False
        self._model: nn.Module | None = None
        self._batch: dict[str, Any] = {}
        self._handle: RemovableHandle | None = None

    def watch(self, model: nn.Module) -> None:
        self._model = model
        self._handle = model.register_forward_hook(Hook(self._after_forward), with_kwargs=True)

    def unwatch(self) -> None:
        self._losses.clear()
        self._batch = {}
        self._model = None
        if self._handle is not None:
            self._handle.remove()

    def _after_forward(self, model: nn.Module, _: Any, kwargs: dict[str, Any], output: Any) -> None:
        if model.training and not self._probing:
            with log_failures():
                self._remember(kwargs, output)

    def _remember(self, kwargs: dict[str, Any], output: Any) -> None:
        loss = _loss_in(output)
        if loss is not None:
            self._losses.append(loss.detach().float())
            self._normalised = kwargs.get("num_items_in_batch") is not None
            self._batch = kwargs

    def probe(self) -> Probe | None:
        """Return the loss function and the last micro-batch, for the isolated probe; None if the output has no loss."""
        return (self._loss_of, self._batch) if self._batch else None

    def _loss_of(self, batch: dict[str, Any]) -> Tensor:
        assert self._model is not None, "the probe needs a watched model"
        self._probing = True
        try:
            loss = _loss_in(self._model(**batch))
        finally:
            self._probing = False
        assert loss is not None, "the output had a loss before"
        return loss

    def loss_of_step(self, args: TrainingArguments) -> Tensor | None:
        """Return the mean loss, or the sum if the model already divided by the items of the whole step."""
        kept, self._losses = self._losses, []
        if not kept:
            return None
        losses = torch.stack(kept)
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
        **framework_seed(model, args.seed),
        "learning_rate": args.learning_rate,
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "device": str(args.device),
        "transformers": transformers.__version__,
        "exit_state": "running",
    }


def _loss_in(output: Any) -> Tensor | None:
    """Return the loss in a model's output; None if there is none."""
    loss = output.get("loss") if isinstance(output, Mapping) else next(iter(output), None)
    return loss.reshape(()) if isinstance(loss, Tensor) and loss.numel() == 1 else None
