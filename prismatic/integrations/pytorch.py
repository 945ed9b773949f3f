"""DynamicsLoggerCallback: logs every `log_freq` steps of a PyTorch loop, after backward and before optimizer.step."""

from __future__ import annotations

import difflib
import inspect
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from prismatic.collectives import world
from prismatic.contract.assignment import assignment_of
from prismatic.contract.options import as_facts, misfit_of_pairs
from prismatic.contract.schema import wide_experts
from prismatic.contract.study_plan import PREFIX as STUDY
from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError
from prismatic.experts.checks import check_model, check_probe, left_out_of_probe
from prismatic.experts.discovery import describe, find_routers, may_be_routed_later, nothing_found
from prismatic.experts.found import FoundExperts
from prismatic.experts.protocol import give_roles, num_experts, parameters_of, roles_of
from prismatic.guard import log_failures, warn
from prismatic.integrations.model_facts import expert_rows, facts_of, parallel_of, tier_rows
from prismatic.integrations.optimizers import (
    Rounds,
    SkippedSteps,
    in_backward,
    learning_rate,
    optimizers_of_experts,
    unscaled_gradient,
)
from prismatic.measure.gradients import Gradient, dot_grad, has_gradients, measure
from prismatic.measure.histograms import histogram_rows
from prismatic.measure.isolated import IsolatedDynamics, Probe, isolated_dynamics
from prismatic.measure.kernels import prepare, prepare_gpu
from prismatic.measure.metrics import add_isolated, aggregate, routing_metrics
from prismatic.measure.pairs import left_out
from prismatic.measure.weights import with_weights
from prismatic.runfile.logger import DynamicsLogger
from prismatic.runfile.rank_zero import rank_zero_logger

ATTACHED = "optimizer step pre-hook"  # the fact `hook` of a run that `attach` logs
NEVER_PROBED = (
    "attach got a `probe`, which never runs: probe_freq and pair_freq are 0. Give the callback probe_freq, or no probe."
)


@dataclass
class _Attached:
    """A model whose optimizers have a hook, and the number of the step that they take next."""

    model: nn.Module
    rounds: Rounds
    skipped: SkippedSteps
    next_step: int
    probe: Callable[[], Probe] | None


class DynamicsLoggerCallback:
    """Log the gradient dynamics of a model's layers of experts into a run file while it trains.

    Use `attach(model, optimizer)`, or call `on_train_begin(model)` once, `on_before_optimizer_step(model, step)` in
    every step and `on_train_end()` at the end.
    logger: a DynamicsLogger, or the path of the run file. last_step: a step that is always logged.
    probe_freq: steps between isolated probes of each expert (give `probe` in the call); 0 is never.
    pair_freq: steps between comparisons of the experts with each other, by the probe, which runs in such a step; None
    is with every probe, 0 is never. One of probe_freq and pair_freq must be a multiple of the other.
    weight_freq: steps between comparisons of the experts' weights; 0 is never.
    histogram_freq: steps between histograms of gradient entries; 0 is never.
    These four happen only in steps that are logged.
    thresholds: the thresholds to judge by, registered in the run file before the first step.
    mirror: a tracker that gets the metrics as well, see `DynamicsLogger.mirror_to`.
    roles: of each expert, for layers that do not tell them: the first is "clean", the others "perturbed" or "control".
    A layer tells them by its attribute `roles`, or if `prismatic.perturb` or `prismatic.upcycle` treated it. Without
    any of these, a layer of the protocol has one clean expert and perturbed ones; experts of any other layer are peers,
    and nothing is said about a perturbation.
    facts: what is known about the run by name, such as {"seed": 3}; see `on_train_begin`.
    If several processes train the model (torch.distributed), each makes a callback and makes the same calls: each
    measures a part, and rank 0 writes.
    Raises ConfigError for a log_freq below 1, a pair_freq that does not fit, or a mirror that is not a tracker.
    """

    def __init__(
        self,
        logger: DynamicsLogger | Path | str,
        *,
        log_freq: int = 10,
        probe_freq: int = 0,
        pair_freq: int | None = None,
        weight_freq: int = 100,
        histogram_freq: int = 0,
        last_step: int | None = None,
        thresholds: Thresholds | None = None,
        mirror: object = None,
        roles: Sequence[str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ):
        check_options({"log_freq": log_freq, "probe_freq": probe_freq, "pair_freq": pair_freq})
        self.logger = rank_zero_logger(logger, mirror=mirror)
        self.log_freq = log_freq
        self.probe_freq = probe_freq
        self.pair_freq = probe_freq if pair_freq is None else pair_freq
        self.weight_freq = weight_freq
        self.histogram_freq = histogram_freq
        self.last_step = last_step
        self.thresholds = thresholds or Thresholds()
        self.roles = roles
        self.facts = dict(facts or {})
        self._hooks: list[RemovableHandle | SkippedSteps] = []
        self._found: list[FoundExperts] = []
        self._waits_for_forward = False
        self._steps_in_backward = False
        self._misses_probe = False

    def on_train_begin(self, model: nn.Module, *, roles: Sequence[str] | None = None, **facts: Any) -> None:
        """Record the model's experts and tiers, and facts about the run. Warns if no layer of experts is found.

        roles: see the class. facts: numbers, texts and truth values become options of the training, by which runs are
        grouped (see `contract.options`). A fact `study.seeds`, the list of planned seeds, is recorded only before the
        first step. Facts that the constructor got come first.

        Raises ModelError for a model that is sharded inside a layer of experts, which would train wrongly, or whose
        experts cannot be compared or measured, or have other roles, or cannot be probed though that is planned.
        """
        self.roles = roles if roles is not None else self.roles
        with self._closed_on_error():
            routers = self._checked_routers(model)
            if self._plans_probe:
                check_probe(routers)
        known: dict[str, Any] = {"routers": len(routers), "log_freq": self.log_freq, "tensors_without_tiers": 0}
        known |= {"clip_state": "before", "exit_state": "running", "started": time.time()}
        known |= {"world_size": world().size, "parallel": parallel_of(model)}
        assigned = assignment_of(self.logger.db_path)
        given = {**facts, **assigned.facts, **self.facts}
        self.thresholds = assigned.thresholds or self.thresholds
        if self.logger.last_step is None:
            known |= self.thresholds.registration()
        else:  # a resumed run keeps its first registration
            given = {name: value for name, value in given.items() if not name.startswith(STUDY)}
        self.logger.log_run({**known, **facts_of(routers), **as_facts(given)})
        self._waits_for_forward = not routers and may_be_routed_later(model)
        if routers:
            self._begin(model, routers)
        elif not self._waits_for_forward:
            self._warn_of_no_router(model)

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Close the file of a training that cannot begin: the next try, in a notebook, would find it locked."""
        try:
            yield
        except BaseException:
            self.logger.close()
            raise

    def _checked_routers(self, model: nn.Module) -> list[Any]:
        routers = find_routers(model)
        self._found = [router for router in routers if isinstance(router, FoundExperts)]
        for router in routers:
            give_roles(router, self.roles)
        check_model(model, routers)
        return routers

    def _begin(self, model: nn.Module, routers: list[Any]) -> None:
        """Record the experts and tiers of the layers, and begin to read their routing."""
        if self._found:
            self._say(describe(model, routers))
        for layer in self._found:
            layer.watch()
        for device in sorted({p.device for router in routers for p in parameters_of(router)}, key=str):
            way = prepare() if device.type in ("cpu", "mps") else prepare_gpu(device)
            self.logger.event("measuring", way.message)
        self.logger._ensure_schema(wide_experts(max(map(num_experts, routers))))
        self._tell_sample(routers)
        if self._plans_probe and (message := left_out_of_probe(routers)):
            warn(f"{message}.")
            self.logger.event("probe_left_out", message, level="warning")
        self.logger.log_table("experts", expert_rows(routers), replace=True)
        rows = [row for layer, router in enumerate(routers) for row in tier_rows(layer, router)]
        self.logger.log_table("tiers", rows, replace=True)

    def _tell_sample(self, routers: list[Any]) -> None:
        """Record which experts are compared, if they are a sample of those of a large layer."""
        message, sample = left_out(routers)
        if self.pair_freq and message:
            self.logger.event("pairs_left_out", message)
            self.logger.log_run({"compared_experts": sample})

    def _begin_after_forward(self, model: nn.Module) -> None:
        """Look again for layers that tell their routing only since their first forward pass."""
        self._waits_for_forward = False
        routers = self._checked_routers(model)
        if routers:
            self.logger.log_run(facts_of(routers))
            self._begin(model, routers)
        else:
            self._warn_of_no_router(model)

    def _warn_of_no_router(self, model: nn.Module) -> None:
        message = nothing_found(model)
        warn(message)
        self.logger.event("no_router", message, level="warning")

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
            if in_backward():
                self._record_step_in_backward(step)
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

    @property
    def _plans_probe(self) -> bool:
        return bool(self.probe_freq or self.pair_freq)

    def _probes(self, step: int) -> bool:
        """Return whether the probe runs in this step, by itself or to compare pairs."""
        return self._due(step, self.probe_freq) or self._due(step, self.pair_freq)

    def _record_step_in_backward(self, step: int | None) -> None:
        """Record once that no step of this training can be measured."""
        if not self._steps_in_backward:
            self._steps_in_backward = True
            message = "the optimizer steps inside backward, when only some gradients are there: nothing is logged"
            self._record_warning("step_in_backward", message, step)
            warn(f"{message}; step after backward() to log gradients.")

    def _measured(self, model: nn.Module, step: int, probe: Probe | None, gradient: Gradient) -> dict[str, Any] | None:
        if self._waits_for_forward:
            self._begin_after_forward(model)
        routers = find_routers(model)
        if not routers:
            return None
        if not has_gradients(routers, gradient):
            self._record_warning(
                "no_gradients", "no expert has a gradient: log after backward() and before zero_grad()", step
            )
            return None
        # A hook comes before the step of its own optimizer, whatever steps another one has taken.
        if not self._hooks and any(getattr(router, "stepped_since_forward", False) for router in routers):
            self._record_warning(
                "after_step", "the weights changed after the forward pass: log before optimizer.step()", step
            )
        layers = measure(routers, gradient)
        if not any(expert.norm for experts in layers for expert in experts):
            self._record_warning("zero_gradients", "all gradients are zero: log before zero_grad()", step)
        if self._due(step, self.weight_freq):
            layers = with_weights(layers, routers)
        dynamics = aggregate(layers, roles_of(max(routers, key=num_experts)))
        # A failure of these two must not lose the step's row.
        if self._due(step, self.histogram_freq):
            with self._failures_recorded("histograms", step):
                dynamics["histograms"] = histogram_rows(routers, gradient)
        if probe is None and self._probes(step):
            self._record_missing_probe(step)
        elif probe is not None and self._probes(step):
            with self._failures_recorded("the isolated probe", step):
                found = isolated_dynamics(model, *probe, compared=self._due(step, self.pair_freq))
                self._add_isolated(dynamics, found, step)
        return dynamics

    def _record_missing_probe(self, step: int) -> None:
        """Record once that a planned probe has nothing to measure."""
        if not self._misses_probe:
            self._misses_probe = True
            message = (
                f"the isolated probe is due (probe_freq = {self.probe_freq}, pair_freq = {self.pair_freq}), but has no "
                "loss and no batch. Give `probe` in the call, or `probe_loss` to Lightning's callback; the Trainer of "
                "Hugging Face takes the loss of the model's output, and none under torch_compile"
            )
            self._record_warning("no_probe", message, step)
            warn(f"{message}.")

    def _add_isolated(self, dynamics: dict[str, Any], isolated: IsolatedDynamics, step: int) -> None:
        """Add the rows of the probe, without those of experts that the loss does not reach."""
        add_isolated(dynamics, isolated.layers, isolated.pairs, isolated.unreached)
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
        optimizer: Any,
        *,
        scaler: torch.amp.GradScaler | None = None,
        first_step: int = 0,
        probe: Callable[[], Probe] | None = None,
        roles: Sequence[str] | None = None,
        **facts: Any,
    ) -> None:
        """Log before every step of the optimizer that trains the experts, by a hook on it: the loop does not change.

        optimizer: a torch.optim.Optimizer, an object that wraps one, or a list of these. Of several that train experts,
        each takes one step in a step of the training, which is logged before the first of them.
        Steps are counted as the optimizer takes them, from first_step, which is where a resumed training continues.
        A closure's loss is logged with its step. Attaching again removes the hooks of the earlier optimizer.
        scaler: the GradScaler of mixed precision; skipped steps become events. Gradients are measured unscaled.
        probe: a function that returns the training loss as a function of a batch, and the batch of the step, called
        every `probe_freq` or `pair_freq` steps for the isolated probe.
        roles, facts: see `on_train_begin`.
        Raises ModelError for a model that would train wrongly, or whose layers cannot be probed though that is planned,
        and ConfigError for an optimizer that does not hold the parameters of any expert, or a planned probe that is not
        given. `detach()` removes the hooks and closes the run file.
        """
        self._remove_hooks()
        with self._closed_on_error():
            self._check_probe_given(probe)
            optimizers = optimizers_of_experts(optimizer, find_routers(model))
        self.on_train_begin(model, roles=roles, **{"hook": ATTACHED, **facts})
        if probe is not None and not self._plans_probe:
            warn(NEVER_PROBED)
            self._record_warning("probe_never_due", NEVER_PROBED, None)
        skipped = SkippedSteps(scaler, optimizers, lambda: self._record_skipped(attached.next_step))
        attached = _Attached(model, Rounds(optimizers), skipped, first_step, probe)

        @torch.compiler.disable
        def before_step(stepping: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            with log_failures(), self._failure_is_event():
                return self._before_step(attached, stepping, args, kwargs)

        self._hooks = [skipped, *(each.register_step_pre_hook(before_step) for each in optimizers)]

    def _check_probe_given(self, probe: Callable[[], Probe] | None) -> None:
        if probe is None and self._plans_probe:
            raise ConfigError(
                f"probe_freq = {self.probe_freq}, pair_freq = {self.pair_freq} plan the isolated probe, and attach got "
                "no `probe`. Give probe=lambda: (loss_of, batch), or leave both frequencies at 0."
            )

    def _record_skipped(self, step: int) -> None:
        message = f"the scaler skipped a step before step {step}: gradients overflowed"
        self._record_warning("skipped_step", message, step)

    def _before_step(
        self, attached: _Attached, stepping: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Log the step that an optimizer is about to take, or return its arguments with a closure that does."""
        attached.skipped.note_call()
        if in_backward():
            self._record_step_in_backward(None)
            return None
        if not attached.rounds.begins(stepping):
            return None
        if attached.skipped.skips_this(stepping):
            self._record_skipped(attached.next_step)
            return None
        step, attached.next_step = attached.next_step, attached.next_step + 1
        # args of the step: the optimizer, then perhaps a closure.
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is not None:
            # The gradients exist only after the optimizer has called the closure.
            logging = self._logging_after(closure, attached, stepping, step)
            if "closure" in kwargs:
                return args, {**kwargs, "closure": logging}
            return (args[0], logging, *args[2:]), kwargs
        metrics: dict[str, Any] = {**learning_rate(stepping), "probe": self._probe_of(step, attached.probe)}
        self.on_before_optimizer_step(attached.model, step, gradient=unscaled_gradient(stepping), **metrics)
        return None

    @contextmanager
    def _failure_is_event(self) -> Iterator[None]:
        """Record a failure in the run file, too."""
        try:
            yield
        except Exception as error:
            self.logger.event("measurement_failed", f"{type(error).__name__}: {error}", level="error")
            raise

    def _probe_of(self, step: int, probe: Callable[[], Probe] | None) -> Probe | None:
        return probe() if probe is not None and self._probes(step) else None

    def _logging_after(
        self, closure: Callable[[], Any], attached: _Attached, optimizer: torch.optim.Optimizer, step: int
    ) -> Callable[[], Any]:
        """Return the closure, extended to log this step after its first evaluation."""
        first = iter([True])

        def evaluated() -> Any:
            loss = closure()
            if next(first, False):
                with log_failures():
                    metrics: dict[str, Any] = learning_rate(optimizer) | ({} if loss is None else {"loss": loss})
                    metrics["probe"] = self._probe_of(step, attached.probe)
                    self.on_before_optimizer_step(attached.model, step, **metrics)
            return loss

        return evaluated

    def detach(self, **facts: Any) -> None:
        """Remove the hooks, record closing facts and close the run file. Never raises."""
        self._remove_hooks()
        self.on_train_end(**facts)

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def on_train_end(self, **facts: Any) -> None:
        """Record closing facts (`exit_state` is "finished" unless given) and close the run file. Never raises."""
        for layer in self._found:
            layer.unwatch()
        with log_failures():
            self.logger.log_run({"exit_state": "finished", "ended": time.time(), **facts})
        with log_failures():
            self.logger.close()


def check_options(options: Mapping[str, Any]) -> None:
    """Check options that a callback passes on to DynamicsLoggerCallback, before the training begins.

    Raises ConfigError for a name that is none of its options, a log_freq below 1, or a pair_freq that does not fit.
    """
    parameters = inspect.signature(DynamicsLoggerCallback).parameters.values()
    known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.name != "last_step"]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]}?" if close else "Facts about the run are given as facts={...}."
            raise ConfigError(f"{name!r} is not an option of the callback, which has {', '.join(known)}. {hint}")
    frequency = options.get("log_freq", 1)
    if not isinstance(frequency, int) or frequency < 1:
        raise ConfigError(f"log_freq = {frequency!r} is not allowed; log every 1 or more steps.")
    if problem := misfit_of_pairs(options.get("probe_freq", 0), options.get("pair_freq")):
        raise ConfigError(problem)
