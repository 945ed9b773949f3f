"""DynamicsLoggerCallback: logs every `log_freq` steps of a PyTorch loop, after backward and before optimizer.step."""

from __future__ import annotations

import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from prismatic.collectives import world
from prismatic.contract import study
from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError, ModelError
from prismatic.experts.checks import check_model
from prismatic.experts.discovery import describe, find_routers, nothing_found
from prismatic.experts.found import FoundExperts
from prismatic.experts.protocol import mixture_of, num_experts, tiers_of
from prismatic.guard import log_failures, warn
from prismatic.integrations.model_facts import expert_rows, options_of, parallel_of, tier_rows
from prismatic.integrations.optimizers import SkippedSteps, learning_rate, unscaled_gradient, within_a_step
from prismatic.measure.gradients import Gradient, dot_grad, has_gradients, measure
from prismatic.measure.histograms import histogram_rows
from prismatic.measure.isolated import IsolatedDynamics, Probe, isolated_dynamics
from prismatic.measure.metrics import aggregate, layer_rows, pair_rows, routing_metrics
from prismatic.measure.pairs import left_out
from prismatic.measure.weights import with_weights
from prismatic.runfile.logger import DynamicsLogger
from prismatic.runfile.rank_zero import rank_zero_logger


class DynamicsLoggerCallback:
    """Log the gradient dynamics of a model's Prismatic routers into a run file while it trains.

    Use `attach(model, optimizer)`, or call `on_train_begin(model)` once, `on_before_optimizer_step(model, step)` in
    every step and `on_train_end()` at the end.
    logger: a DynamicsLogger, or the path of the run file. last_step: a step that is always logged.
    probe_freq: steps between isolated probes of each expert (give `probe` in the call); 0 is never.
    weight_freq: steps between comparisons of the experts' weights; 0 is never.
    histogram_freq: steps between histograms of gradient entries; 0 is never.
    These three happen only in steps that are logged.
    thresholds: the thresholds to judge by, registered in the run file before the first step.
    mirror: a tracker that gets the metrics as well, see `DynamicsLogger.mirror_to`.
    If several processes train the model (torch.distributed), each makes a callback and makes the same calls: each
    measures a part, and rank 0 writes.
    Raises ConfigError for a log_freq below 1, or a mirror that is not a tracker.
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
        self.logger = rank_zero_logger(logger, mirror=mirror)
        self.log_freq = log_freq
        self.probe_freq = probe_freq
        self.weight_freq = weight_freq
        self.histogram_freq = histogram_freq
        self.last_step = last_step
        self.thresholds = thresholds or Thresholds()
        self._hook: RemovableHandle | None = None
        self._found: list[FoundExperts] = []

    def on_train_begin(self, model: nn.Module, *, roles: Sequence[str] | None = None, **facts: Any) -> None:
        """Record the model's experts and tiers, and any facts about the run. Warns if no layer of experts is found.

        roles: of each expert, for layers that do not tell them: the first is "clean", the others "perturbed" or
        "control". Without roles the experts of such layers are peers, and nothing is said about a perturbation.
        A fact `study.seeds`, the list of planned seeds, is recorded only before the first step.

        Raises ModelError for a model that is sharded inside a layer of experts, which would train wrongly, or whose
        experts cannot be compared or measured.
        """
        routers = find_routers(model)
        self._found = [router for router in routers if isinstance(router, FoundExperts)]
        try:
            for layer in self._found:
                layer.roles = roles
            check_model(model, routers)
        except ModelError:
            self.logger.close()  # otherwise the next try, in a notebook, would find the file locked
            raise
        # Constant or very small tensors have no tiers: all of their weights are middle.
        tiers = [tiers_of(router) for router in routers]
        untiered = sum(not len(each[name].bottom) for each in tiers for name in each.names)
        known: dict[str, Any] = {"routers": len(routers), "log_freq": self.log_freq, "tensors_without_tiers": untiered}
        known |= {"clip_state": "before", "exit_state": "running", "started": time.time()}
        known |= {"mixture": mixture} if (mixture := mixture_of(routers)) else {}
        known |= {"world_size": world().size, "parallel": parallel_of(model)}
        if self.logger.last_step is None:
            known |= self.thresholds.registration()
        else:  # a resumed run keeps its first registration
            facts = {name: value for name, value in facts.items() if not name.startswith(study.PREFIX)}
        self.logger.log_run({**known, **options_of(routers), **facts})
        if not routers:
            message = nothing_found(model)
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            self.logger.event("no_router", message, level="warning")
            return
        if self._found:
            self._say(describe(model, routers))
        for layer in self._found:
            layer.watch()
        self.logger._ensure_schema(max(map(num_experts, routers)))
        if self.probe_freq and (message := left_out(routers)):
            self.logger.event("pairs_left_out", message)
        self.logger.log_table("experts", expert_rows(routers), replace=True)
        rows = [row for layer, router in enumerate(routers) for row in tier_rows(layer, router)]
        self.logger.log_table("tiers", rows, replace=True)

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
        gradient: a function from a parameter to its unscaled gradient, if `.grad` is still scaled.
        metrics: further scalars of the step, such as loss and learning_rate.
        """
        with log_failures(), self._routing_of_one_step():
            if not self._due(step, self.log_freq):
                return
            with self._failures_recorded("the measurement", step):
                dynamics = self._measured(model, step, probe, gradient)
                if self._found and dynamics is not None:
                    metrics = {**routing_metrics(dynamics["layers"]), **metrics}
                self.logger.log(step, dynamics, **metrics)

    @contextmanager
    def _routing_of_one_step(self) -> Iterator[None]:
        """Begin to count the router's decisions anew after each step, logged or not."""
        try:
            yield
        finally:
            for layer in self._found:
                layer.routing.take()

    def _say(self, message: str) -> None:
        """Record what was found, and print it once."""
        self.logger.event("experts_found", message)
        if world().rank == 0:
            print(f"prismatic: {message}", file=sys.stderr)

    def _due(self, step: int, every: int) -> bool:
        return bool(every) and (step % every == 0 or step == self.last_step)

    def _measured(self, model: nn.Module, step: int, probe: Probe | None, gradient: Gradient) -> dict[str, Any] | None:
        routers = find_routers(model)
        if not routers:
            return None
        if not has_gradients(routers):
            self._record_warning(
                "no_gradients", "no expert has a gradient: log after backward() and before zero_grad()", step
            )
            return None
        if any(getattr(router, "stepped_since_forward", False) for router in routers):
            self._record_warning(
                "after_step", "the weights changed after the forward pass: log before optimizer.step()", step
            )
        layers = measure(routers, gradient)
        if not any(expert.norm for experts in layers for expert in experts):
            self._record_warning("zero_gradients", "all gradients are zero: log before zero_grad()", step)
        if self._due(step, self.weight_freq):
            layers = with_weights(layers, routers)
        dynamics = aggregate(layers)
        # A failure of these two must not lose the step's row.
        if self._due(step, self.histogram_freq):
            with self._failures_recorded("histograms", step):
                dynamics["histograms"] = histogram_rows(routers, gradient)
        if probe is not None and self._due(step, self.probe_freq):
            with self._failures_recorded("the isolated probe", step):
                self._add_isolated(dynamics, isolated_dynamics(model, *probe), step)
        return dynamics

    def _add_isolated(self, dynamics: dict[str, Any], isolated: IsolatedDynamics, step: int) -> None:
        """Add the rows of the probe, without those of experts that the loss does not reach."""
        found = layer_rows(isolated.layers, "isolated")
        dynamics["layers"] += [row for row in found if (row["layer"], row["expert"]) not in isolated.unreached]
        dynamics["pairs"] = pair_rows(isolated.pairs)
        if isolated.unreached:
            missed = ", ".join(f"layer {layer} expert {expert}" for layer, expert in sorted(isolated.unreached)[:8])
            message = f"the probe's loss does not depend on {len(isolated.unreached)} of the experts ({missed}, ...)"
            self._record_warning("probe_unreached", f"{message}: return a loss that autograd can follow", step)

    @contextmanager
    def _failures_recorded(self, task: str, step: int) -> Iterator[None]:
        """Turn a failure into an event and a warning, because a broken measurement must not stop a training."""
        try:
            yield
        except Exception as error:
            message = f"{task} of step {step}: {type(error).__name__}: {error}"
            with log_failures():
                self.logger.event("measurement_failed", message, level="error", step=step)
            warn(f"{message}; training goes on.")

    def _record_warning(self, code: str, message: str, step: int | None) -> None:
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
        """Log before every step of this optimizer, by a hook on it: the training loop needs no other change.

        Steps are counted as the optimizer takes them, from first_step, which is where a resumed training continues.
        A closure's loss is logged with its step. Attaching again removes the hook of the earlier optimizer.
        scaler: the GradScaler of mixed precision; skipped steps become events. Gradients are measured unscaled.
        Raises ModelError for a model that would train wrongly. `detach()` removes the hook and closes the run file.
        """
        if self._hook is not None:
            self._hook.remove()
        self.on_train_begin(model, hook="optimizer step pre-hook", **facts)
        skipped = SkippedSteps(optimizer, scaler)
        steps = itertools.count(first_step)

        @torch.compiler.disable
        def before_step(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            with log_failures():
                if within_a_step(optimizer):
                    return None
                if skipped.skips_this():
                    self._record_warning("skipped_step", "gradients overflowed: the scaler skips this step", None)
                    return None
                step = next(steps)
                if skipped.skipped_before():
                    message = f"the scaler skipped steps before step {step}: gradients overflowed"
                    self._record_warning("skipped_step", message, step)
                # args of the step: the optimizer, then perhaps a closure.
                closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
                if closure is not None:
                    # The gradients exist only after the optimizer has called the closure.
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
        """Return the closure, extended to log this step after its first evaluation."""
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
        """Remove the hook, record closing facts and close the run file. Never raises."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self.on_train_end(**facts)

    def on_train_end(self, **facts: Any) -> None:
        """Record closing facts (`exit_state` is "finished" unless given) and close the run file. Never raises."""
        for layer in self._found:
            layer.unwatch()
        with log_failures():
            self.logger.log_run({"exit_state": "finished", "ended": time.time(), **facts})
        with log_failures():
            self.logger.close()
