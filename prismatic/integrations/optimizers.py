"""What an optimizer that is about to step can be asked: whether it will, at which rate, and where its gradients are."""

from __future__ import annotations

import sys
from types import FrameType

import torch

from prismatic.measure.gradients import Gradient, dot_grad

OPTIMIZERS = torch.optim.Optimizer.profile_hook_step.__code__.co_filename  # torch's own file, where hooks are called


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Of its first group of parameters."""
    return float(optimizer.param_groups[0]["lr"])


def within_a_step(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this step is part of another one: torch announces a subclass's step, and its parent's within it."""
    frame: FrameType | None = sys._getframe()
    steps = 0
    while frame is not None:
        if frame.f_code.co_name == "wrapper" and frame.f_code.co_filename == OPTIMIZERS:
            steps += frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return steps > 1


class SkippedSteps:
    """What a GradScaler kept an optimizer from: its scale falls after a skipped step."""

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None):
        self._optimizer = optimizer
        self._scaler = scaler
        self._scale = scaler.get_scale() if scaler is not None else 0.0

    def skips_this(self) -> bool:
        """Whether a fused optimizer was told to skip this step; others are not called at all then."""
        found = getattr(self._optimizer, "found_inf", None)
        return found is not None and bool(found)

    def skipped_before(self) -> bool:
        """Whether steps were skipped since the last call."""
        if self._scaler is None:
            return False
        before, self._scale = self._scale, float(self._scaler.get_scale())
        return self._scale < before


def unscaled(optimizer: torch.optim.Optimizer) -> Gradient:
    """Where this step's gradients are: a fused optimizer under a GradScaler divides by the scale only in its step."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return dot_grad
    return lambda parameter: None if parameter.grad is None else parameter.grad / scale
