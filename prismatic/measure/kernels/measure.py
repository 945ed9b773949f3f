"""measure_tensors: the tier sums of all tensors, wherever they are, and one transfer from each device.

On a GPU all kernels are queued, and nothing is read back until they are.
Axis letter: E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.measure.kernels.choice import prepare
from prismatic.measure.kernels.on_gpu import sums_on_gpu
from prismatic.measure.kernels.tensors import COLUMNS, Sums, TensorGradients


def measure_tensors(
    tensors: Sequence[TensorGradients], also_fetch: Sequence[Tensor] = ()
) -> tuple[list[Sums], list[NDArray[np.float64]]]:
    """Return [E, COLUMNS] for each tensor, in order (zeros for an expert without a gradient), and `also_fetch`.

    also_fetch: small tensors to copy to the CPU in the same transfer.
    """
    places: dict[str, list[int]] = {"none": [], "cpu": [], "gpu": []}
    for place, tensor in enumerate(tensors):
        present = tensor.present
        kind = "none" if present is None else "cpu" if present.device.type in ("cpu", "mps") else "gpu"
        places[kind].append(place)
    queued = sums_on_gpu([tensors[place] for place in places["gpu"]])
    arrived, fetched = _read_back([queued, also_fetch])
    sums = dict(zip(places["gpu"], arrived, strict=True))
    sums |= zip(places["cpu"], _sums_on_cpu([tensors[place] for place in places["cpu"]]), strict=True)
    sums |= {place: np.zeros((len(tensors[place].gradients), COLUMNS)) for place in places["none"]}
    return [sums[place] for place in range(len(tensors))], fetched


def _sums_on_cpu(tensors: Sequence[TensorGradients]) -> list[Sums]:
    """Return the sums of each tensor; entries that are not finite are counted only where a sum is not."""
    sums = prepare().sums(tensors) if tensors else []
    if sums and not np.isfinite(np.concatenate(sums)).all():
        for tensor, rows in zip(tensors, sums, strict=True):
            for row, grad in zip(rows, tensor.gradients, strict=True):
                if grad is not None and not np.isfinite(row[:3]).all():
                    row[-1] = float((~torch.isfinite(grad)).sum())
    return sums


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
