"""Optimizers: those that train the experts, which steps belong together, skipped ones, and where AMP unscales."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import torch

from prismatic.errors import ConfigError
from prismatic.experts.protocol import num_experts, views_of
from prismatic.guard import log_failures
from prismatic.measure.gradients import Gradient, dot_grad

OPTIMIZERS = torch.optim.Optimizer.profile_hook_step.__code__.co_filename  # torch's file, in which hooks are called


def optimizers_in(given: Any) -> list[torch.optim.Optimizer]:
    """Return the optimizers whose steps torch's hooks see, outer ones first.

    given: an optimizer; an object that wraps one in an attribute, as those of schedulefree, SAM and Accelerate do; or a
    list or mapping of these. Raises ConfigError if there is none.
    """
    found: dict[int, torch.optim.Optimizer] = {}
    _collect(given, found, depth=0)
    if not found:
        raise ConfigError(
            f"{type(given).__name__} is not an optimizer and holds none, so there is no step to log before. Give "
            "`attach` a torch.optim.Optimizer or a list of them, or call on_before_optimizer_step by hand."
        )
    return [*found.values()]


def _collect(given: Any, found: dict[int, torch.optim.Optimizer], depth: int) -> None:
    if id(given) in found or depth > 3:
        return
    # A wrapper may be an Optimizer in name only: Accelerate's never calls the constructor, which makes the hooks.
    if isinstance(given, torch.optim.Optimizer) and hasattr(given, "_optimizer_step_pre_hooks"):
        found[id(given)] = given
    several = given.values() if isinstance(given, Mapping) else given if isinstance(given, list | tuple) else None
    inner = several if several is not None else getattr(given, "__dict__", {}).values()
    for each in inner:
        wraps = any(isinstance(part, torch.optim.Optimizer) for part in getattr(each, "__dict__", {}).values())
        held = isinstance(each, list | tuple) and any(isinstance(part, torch.optim.Optimizer) for part in each)
        if isinstance(each, torch.optim.Optimizer) or wraps or held:
            _collect(each, found, depth + 1)


def holds_experts(optimizer: torch.optim.Optimizer, routers: Sequence[Any]) -> bool:
    """Return whether an optimizer trains a weight of any expert."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    views = (view for router in routers for e in range(num_experts(router)) for view in views_of(router, e).values())
    return any(id(view.parameter) in held for view in views)


def optimizers_of_experts(given: Any, routers: Sequence[Any]) -> list[torch.optim.Optimizer]:
    """Return the optimizers in `given` that train any expert; all of them if no layer of experts is known.

    Raises ConfigError if there is none.
    """
    optimizers = optimizers_in(given)
    holding = [optimizer for optimizer in optimizers if holds_experts(optimizer, routers)]
    if routers and not holding:
        names = ", ".join(type(optimizer).__name__ for optimizer in optimizers)
        raise ConfigError(
            f"no parameter of any expert is in {names}, so its steps do not train the experts. Attach the optimizer "
            "that does; make it after the model is wrapped or sharded, which may exchange parameters."
        )
    return holding or optimizers


def learning_rate(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the metric learning_rate of the first parameter group; none if the optimizer finds its own rate."""
    rate = optimizer.param_groups[0].get("lr")
    return {} if rate is None else {"learning_rate": float(rate)}


def in_backward() -> bool:
    """Return whether a backward pass is under way, so that only some of the gradients are there."""
    return bool(torch._C._current_graph_task_id() != -1)


class Rounds:
    """The steps of several optimizers, of which one each makes a step of the training."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]):
        self._optimizers = optimizers
        self._stepped: set[int] = set()

    def begins(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether the step that this optimizer is about to take is the first of the training's step.

        It is not if it is part of the step of another optimizer, or of a subclass: torch calls hooks for both.
        """
        if self._within_a_step():
            return False
        first = not self._stepped or id(optimizer) in self._stepped
        self._stepped = {id(optimizer)} if first else {*self._stepped, id(optimizer)}
        return first

    def _within_a_step(self) -> bool:
        frame: FrameType | None = sys._getframe()
        steps = 0
        while frame is not None:
            if frame.f_code.co_name == "wrapper" and frame.f_code.co_filename == OPTIMIZERS:
                stepping = frame.f_locals.get("self")
                steps += any(stepping is optimizer for optimizer in self._optimizers)
            frame = frame.f_back
        return steps > 1


class SkippedSteps:
    """The steps that a GradScaler skips. It does not call the optimizer then, unless that is fused and skips by itself.

    This takes the place of the scaler's `step` until `remove()`. The scale alone does not tell: it can double and fall
    between two steps, and reading it waits for the GPU.
    report: called after each step that is skipped because its gradients overflowed.
    """

    def __init__(
        self,
        scaler: torch.amp.GradScaler | None,
        optimizers: Sequence[torch.optim.Optimizer],
        report: Callable[[], None],
    ):
        self._scaler, self._optimizers, self._report = scaler, optimizers, report
        self._optimizer_called = False
        self._replaced: Any = None
        if scaler is not None:
            self._replaced, self._step = vars(scaler).get("step"), scaler.step
            vars(scaler)["step"] = self

    def __call__(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Take a step of the scaler; report it if one of the optimizers was not called."""
        self._optimizer_called = False
        result = self._step(optimizer, *args, **kwargs)
        if not self._optimizer_called and self._watches(optimizer):
            with log_failures():
                self._report()
        return result

    def _watches(self, optimizer: Any) -> bool:
        """Return whether this is one of the optimizers, or wraps one."""
        with suppress(ConfigError):
            return any(found is each for found in optimizers_in(optimizer) for each in self._optimizers)
        return False

    def note_call(self) -> None:
        """Note that the step of an optimizer begins, so that the scaler did not skip it."""
        self._optimizer_called = True

    def skips_this(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether a fused optimizer is about to skip this step."""
        overflow = getattr(optimizer, "found_inf", None)
        return overflow is not None and bool(overflow)

    def remove(self) -> None:
        """Give the scaler its own `step` back."""
        self._optimizers = ()  # somebody else may have replaced `step` since, and go on calling this
        if self._scaler is not None and vars(self._scaler).get("step") is self:
            del vars(self._scaler)["step"]
            if self._replaced is not None:
                vars(self._scaler)["step"] = self._replaced

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies of the scaler, pickled or not, take their own steps."""
        return getattr, (self._scaler, "step")


def unscaled_gradient(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> Gradient:
    """Return a function from a parameter to its gradient, divided by the scale of AMP if nothing has divided it yet.

    optimizer: torch's, or Accelerate's wrapper, which has its own scaler. scaler: of mixed precision, if there is one;
    not needed in a hook that the scaler's own `step` calls.
    """
    while type(optimizer).__name__ == "AcceleratedOptimizer":
        wrapper: Any = optimizer
        optimizer, scaler = wrapper.optimizer, scaler or wrapper.scaler
    # A fused optimizer divides in its own step, by the scale that `GradScaler.step` hands it in this attribute.
    scale: Any = getattr(optimizer, "grad_scale", None)
    if scale is None and scaler is not None and not _already_unscaled(optimizer, scaler):
        scale = scaler.get_scale()
    if scale is None:
        return dot_grad
    return lambda parameter: None if parameter.grad is None else parameter.grad / scale


def _already_unscaled(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> bool:
    """Return whether `scaler.unscale_(optimizer)` ran in this step. A GradScaler keeps that in no public attribute."""
    state = scaler._per_optimizer_states.get(id(optimizer))
    return state is not None and state["stage"].name != "READY"
