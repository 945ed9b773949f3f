"""Views of one expert's weights, and of tensors laid out like them, however a model stores its experts.

A view copies nothing and is no part of the model: a parameter that is registered twice would be trained twice, double
the checkpoint, and break DDP and FSDP2. Parameters are looked up when they are used, because FSDP2 exchanges them.
Axis letters: E experts, P weights of one tensor of one expert (flattened).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prismatic.experts.tiers import is_sharded


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor itself: the piece of an expert's slice that is one matrix."""
    return tensor


@dataclass(frozen=True)
class View:
    """One tensor of one expert: a parameter, or a part of one that holds the same tensor of all experts."""

    name: str
    parameter: nn.Parameter
    expert: int | None = None
    """The place of the expert in a parameter of all experts; None for a parameter of this expert alone."""
    experts: int = 1
    """The number of experts in the parameter."""
    piece: Callable[[Tensor], Tensor] = whole
    """A function from the slice of one expert to this tensor, such as one of two matrices that are stored as one."""
    known_shape: torch.Size | None = None

    @property
    def key(self) -> tuple[int, int | None, str]:
        """A key that no other view of the model has."""
        return id(self.parameter), self.expert, self.name

    @property
    def shape(self) -> torch.Size:
        """The shape of the tensor, also where this process holds a shard of it or none."""
        if self.expert is None:
            return self.parameter.shape
        if self.known_shape is not None:
            return self.known_shape
        return self.piece(_slice(torch.empty(self.parameter.shape, device="meta"), self.expert, self.experts)).shape

    def of(self, tensor: Tensor) -> Tensor | None:
        """Return this expert's part of a tensor laid out like the parameter, without a copy.

        Of a sharded tensor it is the part that this process holds; None if that is another expert's.
        """
        if self.expert is None:
            return tensor
        if not is_sharded(tensor):
            return self.piece(_slice(tensor, self.expert, self.experts))
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
        first, last = held_experts(self.parameter, self.experts)
        held = first <= self.expert < last
        return self.piece(_slice(local, self.expert - first, last - first)) if held else None


def _slice(tensor: Tensor, expert: int, experts: int) -> Tensor:
    """Return the slice of one expert along the first dimension, which may hold the rows of each expert in turn."""
    if tensor.shape[0] == experts or tensor.shape[0] % experts:
        return tensor[expert]
    return tensor.unflatten(0, (experts, tensor.shape[0] // experts))[expert]


def held_experts(parameter: Any, experts: int) -> tuple[int, int]:
    """Return the first expert of a sharded parameter that this process holds, and the first that it does not.

    Raises ValueError if it holds a part of an expert.
    """
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    rows = parameter.shape[0] // experts
    if tuple(shape[1:]) != tuple(parameter.shape[1:]) or offset[0] % rows or shape[0] % rows:
        raise ValueError(f"a process holds {tuple(shape)} of {tuple(parameter.shape)}, which is no whole expert")
    first = min(offset[0] // rows, experts)
    return first, first + shape[0] // rows


def count(views: Mapping[str, View]) -> int:
    """Return the number of weights of one expert."""
    return sum(math.prod(view.shape) for view in views.values())
