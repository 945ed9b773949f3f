"""When to log: after backward, before the optimizer's step, every `log_freq` steps, and at the first and the last."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from prismatic.collectives import world
from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError, ModelError
from prismatic.experts.checks import check_model
from prismatic.experts.protocol import find_routers, mixture_of, tiers_of
from prismatic.guard import log_failures, warn
from prismatic.integrations.model_facts import expert_rows, options_of, parallel_of, tier_rows
from prismatic.integrations.optimizers import SkippedSteps, learning_rate, unscaled_gradient, within_a_step
from prismatic.measure.gradients import Gradient, dot_grad, has_gradients, measure
from prismatic.measure.histograms import histogram_rows
from prismatic.measure.isolated import Probe, isolated_dynamics
from prismatic.measure.metrics import aggregate, layer_rows
from prismatic.measure.weights import with_weights
from prismatic.runfile.logger import DynamicsLogger
from prismatic.train.parallel import shared_logger


class DynamicsLoggerCallback:
    """Logs the gradient dynamics of a model's Prismatic routers into a run file while it trains.

    Call `on_train_begin(model)` once, `on_before_optimizer_step(model, step)` in every step, `on_train_end()` at last.
    logger: a DynamicsLogger, or the path of the run file. last_step: logged whatever log_freq says.
    probe_freq: every so many steps also measure each expert alone (needs `probe` in the call); 0 is never.
    weight_freq: every so many steps also compare the experts' weights; 0 is never.
    histogram_freq: every so many steps also count gradient entries by size; 0 is never.
    These three happen only in steps that are logged.
    thresholds: what the verdict is to judge by, registered in the run file before the first step.
    mirror: a tracker that is to have the metrics as well, see `DynamicsLogger.mirror_to`.
    Of processes that train a model together (torch.distributed) all must make one and call it alike: each measures a
    part, and the first one writes.
    Raises ConfigError for a log_freq below 1, or a mirror that is no tracker.
    """

    def __init__(
        self,
        logger: DynamicsLogger | Path | str,
        *,
        log_freq: int = 10,
        probe_freq: int = 0,
        weight_freq: int = 100,
        histogram_freq: int = 0,
        last_step: int | None = None,
        thresholds: Thresholds | None = None,
        mirror: object = None,
    ):
        if log_freq < 1:
            raise ConfigError(f"log_freq = {log_freq!r} is not allowed; log every 1 or more steps.")
        self.logger = shared_logger(logger, mirror=mirror)
        self.log_freq = log_freq
        self.probe_freq = probe_freq
        self.weight_freq = weight_freq
        self.histogram_freq = histogram_freq
        self.last_step = last_step
        self.thresholds = thresholds or Thresholds()
        self._hook: RemovableHandle | None = None

    def on_train_begin(self, model: nn.Module, **facts: Any) -> None:
        """Record what the model's experts and tiers are, and any facts about the run. Warns if there is no router.

        Raises ModelError for a model that would train wrongly (sharded inside a router) or whose experts have different
        shapes, so that they cannot be compared.
        """
        routers = find_routers(model)
        try:
            check_model(model, routers)
        except ModelError:
            self.logger.close()  # or the next try, in a notebook, would find the file taken
            raise
        # All middle: constant, or too small for a tier. Nothing is made up for them; the file says how many they are.
        untiered = sum(not len(tiers_of(router)[name].bottom) for router in routers for name in tiers_of(router).names)
        known: dict[str, Any] = {"routers": len(routers), "log_freq": self.log_freq, "tensors_without_tiers": untiered}
        known |= {"clip_state": "before", "exit_state": "running", "started": time.time()}
        known |= {"mixture": mixture} if (mixture := mixture_of(routers)) else {}
        known |= {"world_size": world().size, "parallel": parallel_of(model)}
        if self.logger.last_step is None:  # what was registered before the first step stands, also after a resume
            known |= self.thresholds.registration()
        self.logger.log_run({**known, **options_of(routers), **facts})
        if not routers:
            message = "no Prismatic router in this model, so there is nothing to log; set router_type: prismatic."
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            self.logger.event("no_router", message, level="warning")
            return
        self.logger._ensure_schema(max(len(router.experts) for router in routers))
        self.logger.log_table("experts", expert_rows(routers), anew=True)
        tiers = [row for layer, router in enumerate(routers) for row in tier_rows(layer, router)]
        self.logger.log_table("tiers", tiers, anew=True)

    def on_before_optimizer_step(
        self,
        model: nn.Module,
        step: int,
        *,
        probe: Probe | None = None,
        gradient: Gradient = dot_grad,
        **metrics: SupportsFloat,
    ) -> None:
        """Log this step if it is due: call it after backward and before the optimizer's step. Never raises.

        probe: the training loss as a function of a batch, and the batch, for the isolated probe.
        gradient: where a parameter's gradient is, if not in `.grad` as the optimizer will use it; it may be scaled yet.
        metrics: further scalars of the step, such as loss and learning_rate.
        """
        if not self._due(step, self.log_freq):
            return
        with self._recorded("the measurement", step):
            self.logger.log(step, self._measured(model, step, probe, gradient), **metrics)

    def _due(self, step: int, every: int) -> bool:
        return bool(every) and (step % every == 0 or step == self.last_step)

    def _measured(self, model: nn.Module, step: int, probe: Probe | None, gradient: Gradient) -> dict[str, Any] | None:
        routers = find_routers(model)
        if not routers:
            return None
        if not has_gradients(routers):
            self._say("no_gradients", "no expert has a gradient: log after backward() and before zero_grad()", step)
            return None
        if any(getattr(router, "stepped_since_forward", False) for router in routers):
            self._say("after_step", "the weights changed after the forward pass: log before optimizer.step()", step)
        layers = measure(routers, gradient)
        if not any(expert.norm for experts in layers for expert in experts):
            self._say("zero_gradients", "all gradients are zero: log before zero_grad()", step)
        if self._due(step, self.weight_freq):
            layers = with_weights(layers, routers)
        dynamics = aggregate(layers)
        # What is extra must not cost the step itself.
        if self._due(step, self.histogram_freq):
            with self._recorded("histograms", step):
                dynamics["histograms"] = histogram_rows(routers, gradient)
        if probe is not None and self._due(step, self.probe_freq):
            with self._recorded("the isolated probe", step):
                dynamics["layers"] += layer_rows(isolated_dynamics(model, *probe), "isolated")
        return dynamics

    @contextmanager
    def _recorded(self, what: str, step: int) -> Iterator[None]:
        """A failure becomes an event and a warning, and costs nothing else."""
        try:
            yield
        except Exception as error:  # a broken measurement must never cost a training run
            message = f"{what} of step {step}: {type(error).__name__}: {error}"
            with log_failures():
                self.logger.event("measurement_failed", message, level="error", step=step)
            warn(f"{message}; training goes on.")

    def _say(self, code: str, message: str, step: int | None) -> None:
        self.logger.event(code, message, level="warning", step=step)

    def attach(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        scaler: torch.amp.GradScaler | None = None,
        first_step: int = 0,
        **facts: Any,
    ) -> None:
        """Log by itself before every step of this optimizer: the training loop needs no other change.

        Steps are counted as the optimizer takes them, from first_step: where a resumed training goes on. A closure's
        loss is logged with its step. Attached again, it lets go of the optimizer it was attached to.
        scaler: of mixed precision, if there is one: steps that it skips become events. Gradients are measured unscaled.
        Raises ModelError for a model that would train wrongly. `detach()` ends it and closes the run file.
        """
        if self._hook is not None:
            self._hook.remove()
        self.on_train_begin(model, hook="optimizer step pre-hook", **facts)
        watch = SkippedSteps(optimizer, scaler)
        steps = itertools.count(first_step)

        @torch.compiler.disable
        def before_step(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            with log_failures():
                if within_a_step(optimizer):
                    return None
                if watch.skips_this():
                    self._say("skipped_step", "gradients overflowed: the scaler skips this step", None)
                    return None
                step = next(steps)
                if watch.skipped_before():
                    message = f"the scaler skipped steps before step {step}: gradients overflowed"
                    self._say("skipped_step", message, step)
                # args are the step's own: the optimizer itself, then perhaps a closure.
                closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
                if closure is not None:
                    # The gradients of this step come only when the optimizer calls it: measure after that.
                    logging = self._logging_after(closure, model, optimizer, step)
                    if "closure" in kwargs:
                        return args, {**kwargs, "closure": logging}
                    return (args[0], logging, *args[2:]), kwargs
                rate = learning_rate(optimizer)
                self.on_before_optimizer_step(model, step, gradient=unscaled_gradient(optimizer), learning_rate=rate)
            return None

        self._hook = optimizer.register_step_pre_hook(before_step)

    def _logging_after(
        self, closure: Callable[[], Any], model: nn.Module, optimizer: torch.optim.Optimizer, step: int
    ) -> Callable[[], Any]:
        """The closure, whose first evaluation is followed by the log of this step."""
        first = iter([True])

        def evaluated() -> Any:
            loss = closure()
            if next(first, False):
                with log_failures():
                    metrics = {"learning_rate": learning_rate(optimizer)} | ({} if loss is None else {"loss": loss})
                    self.on_before_optimizer_step(model, step, **metrics)
            return loss

        return evaluated

    def detach(self, **facts: Any) -> None:
        """Take the hook away again, record closing facts and close the run file. Never raises."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self.on_train_end(**facts)

    def on_train_end(self, **facts: Any) -> None:
        """Record closing facts, `exit_state: finished` unless they say otherwise, and close the file. Never raises."""
        with log_failures():
            self.logger.log_run({"exit_state": "finished", "ended": time.time(), **facts})
        with log_failures():
            self.logger.close()
