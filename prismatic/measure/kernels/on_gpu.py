"""The way to sum on a GPU, chosen once for each: one Triton kernel where there is Triton, else torch operations."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from prismatic.guard import warn
from prismatic.measure.kernels.choice import SWITCH
from prismatic.measure.kernels.self_test import agree
from prismatic.measure.kernels.tensors import TensorGradients
from prismatic.measure.kernels.with_torch import tier_sums_torch

DeviceSums = Callable[[Sequence[TensorGradients]], list[Tensor]]


class DeviceWay(NamedTuple):
    """A way to sum the gradients on one device, without waiting for it."""

    sums: DeviceSums
    message: str
    """A sentence for the run file."""


@cache
def prepare_gpu(device: torch.device) -> DeviceWay:
    """Return the way to sum on a device; the first call compiles and waits for it."""
    plain = f"gradients on {device} are summed by torch operations"
    if device.type != "cuda":
        return DeviceWay(_by_torch, plain)
    if os.environ.get(SWITCH) == "torch":
        return DeviceWay(_by_torch, f"{plain}, as {SWITCH} says")
    if importlib.util.find_spec("triton") is None:
        return DeviceWay(
            _by_torch, f'{plain}; `pip install "prismatic-dynamics[gpu]"` needs one kernel for each tensor'
        )
    problem = "its sums differ from those of numpy on this machine"
    try:
        import triton

        from prismatic.measure.kernels.with_triton import tier_sums_triton

        if agree(tier_sums_triton, device):
            return DeviceWay(tier_sums_triton, f"gradients on {device} are summed by Triton {triton.__version__}")
    except Exception as error:  # such as a compiler that is not there
        problem = f"{type(error).__name__}: {error}"[:200]
    warn(f"Triton cannot be used ({problem}): gradients are summed by torch operations, which takes longer.")
    return DeviceWay(_by_torch, f"{plain}, because Triton cannot be used: {problem}")


def _by_torch(tensors: Sequence[TensorGradients]) -> list[Tensor]:
    return [tier_sums_torch(tensor) for tensor in tensors]


def sums_on_gpu(tensors: Sequence[TensorGradients]) -> list[Tensor]:
    """Return the sums of each tensor, which has a gradient, as [E, COLUMNS] on its device, without waiting."""
    by_device: dict[torch.device, list[int]] = {}
    for place, tensor in enumerate(tensors):
        assert tensor.present is not None, "a tensor with a gradient"
        by_device.setdefault(tensor.present.device, []).append(place)
    found: dict[int, Tensor] = {}
    for device, places in by_device.items():
        found |= zip(places, prepare_gpu(device).sums([tensors[place] for place in places]), strict=True)
    return [found[place] for place in range(len(tensors))]
