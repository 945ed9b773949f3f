"""measure_tensors: the tier sums of all tensors, wherever they are, and one transfer from each device.

On a GPU all kernels are queued, and nothing is read back until they are.
Axis letters: E experts, R gradients of all tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.measure.kernels.choice import prepare
from prismatic.measure.kernels.on_gpu import sums_on_gpu
from prismatic.measure.kernels.tensors import COLUMNS, Sums, TensorGradients

ON_CPU = ("cpu", "mps")


def measure_tensors(
    tensors: Sequence[TensorGradients], also_fetch: Sequence[Tensor] = ()
) -> tuple[Sums, list[list[Any]]]:
    """Return the sums of every gradient of all tensors, in order (zeros where there is none), and `also_fetch`.

    also_fetch: small tensors to copy to the CPU in the same transfer, and to return as lists.
    """
    grads_R = [grad for tensor in tensors for grad in tensor.gradients]
    if all(grad is None or grad.is_cpu for grad in grads_R):
        sums_R = prepare().sums(tensors) if tensors else np.zeros((0, COLUMNS))
        return sums_R, _lists(also_fetch)
    on_gpu = [tensor.present is not None and tensor.present.device.type not in ON_CPU for tensor in tensors]
    queued = sums_on_gpu([tensor for tensor, there in zip(tensors, on_gpu, strict=True) if there])
    arrived, fetched = _read_back([queued, also_fetch])
    here = [tensor for tensor, there in zip(tensors, on_gpu, strict=True) if not there]
    sums_R = np.zeros((len(grads_R), COLUMNS))
    there_R = np.repeat(on_gpu, [len(tensor.gradients) for tensor in tensors])
    if arrived:
        sums_R[there_R] = np.concatenate(arrived)
    if here:
        sums_R[~there_R] = prepare().sums(here)
    return sums_R, [own.tolist() for own in fetched]


def _lists(tensors: Sequence[Tensor]) -> list[list[Any]]:
    if all(tensor.is_cpu for tensor in tensors):
        return [tensor.tolist() for tensor in tensors]
    return [own.tolist() for own in _read_back([tensors])[0]]


def _read_back(groups: Sequence[Sequence[Tensor]]) -> list[list[NDArray[np.float64]]]:
    """Return all tensors as arrays, with one transfer per device: each single read would stall a GPU."""
    flat = [tensor for group in groups for tensor in group]
    numbers: dict[int, NDArray[np.float64]] = {}
    for device in {tensor.device for tensor in flat}:
        places = [place for place, tensor in enumerate(flat) if tensor.device == device]
        if device.type == "cpu":
            numbers |= {place: flat[place].detach().double().numpy() for place in places}
            continue
        joined = torch.cat([flat[place].detach().double().flatten() for place in places]).cpu().numpy()
        ends = np.cumsum([flat[place].numel() for place in places])[:-1]
        numbers |= zip(places, np.split(joined, ends), strict=True)
    arrays = iter([numbers[place].reshape(tensor.shape) for place, tensor in enumerate(flat)])
    return [[next(arrays) for _ in group] for group in groups]
