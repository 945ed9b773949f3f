"""The count of optimizer steps in this process, by which a layer knows that its weights have changed.

A fused optimizer changes weights without raising their version, and FSDP2 shows other tensors in a forward pass than
the optimizer steps on, so a layer cannot see those steps by itself. torch calls one hook after every step of any
optimizer. The hook is registered in the first training forward pass of a Prismatic layer and removed with the last
layer that had one: importing this package or building a model registers nothing.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle


class OptimizerSteps:
    """A counter of the optimizer steps that were taken while any layer watched it. Only differences mean anything."""

    def __init__(self) -> None:
        self.count = 0
        self._watching: set[int] = set()
        self._hook: RemovableHandle | None = None

    def watch(self, layer: nn.Module) -> None:
        """Count steps from now on, for as long as this layer lives."""
        if id(layer) in self._watching:
            return
        self._watching.add(id(layer))
        weakref.finalize(layer, self._release, id(layer)).atexit = False
        if self._hook is None:
            self._hook = register_optimizer_step_post_hook(self._count_step)

    def _release(self, layer: int) -> None:
        self._watching.discard(layer)
        if not self._watching and self._hook is not None:
            self._hook.remove()
            self._hook = None

    @torch.compiler.disable
    def _count_step(self, *_: Any) -> None:
        self.count += 1


STEPS = OptimizerSteps()
