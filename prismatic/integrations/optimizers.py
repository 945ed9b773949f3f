"""AMP and optimizer steps: where gradients are unscaled (GradScaler), skipped steps, nested steps, learning rate."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch

from prismatic.measure.gradients import Gradient, dot_grad

OPTIMIZERS = torch.optim.Optimizer.profile_hook_step.__code__.co_filename  # torch's file, in which hooks are called


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the learning rate of the first parameter group."""
    return float(optimizer.param_groups[0]["lr"])


def within_a_step(optimizer: torch.optim.Optimizer) -> bool:
    """Return True inside a nested step: torch calls hooks for a subclass's step and for its parent's step within it."""
    frame: FrameType | None = sys._getframe()
    steps = 0
    while frame is not None:
        if frame.f_code.co_name == "wrapper" and frame.f_code.co_filename == OPTIMIZERS:
            steps += frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return steps > 1


class SkippedSteps:
    """The steps that a GradScaler skipped: its scale falls after each."""

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None):
        self._optimizer = optimizer
        self._scaler = scaler
        self._scale = scaler.get_scale() if scaler is not None else 0.0

    def skips_this(self) -> bool:
        """Return whether a fused optimizer is about to skip this step; the scaler does not call any other then."""
        overflow = getattr(self._optimizer, "found_inf", None)
        return overflow is not None and bool(overflow)

    def skipped_before(self) -> bool:
        """Return whether steps were skipped since the last call."""
        if self._scaler is None:
            return False
        before, self._scale = self._scale, float(self._scaler.get_scale())
        return self._scale < before


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
