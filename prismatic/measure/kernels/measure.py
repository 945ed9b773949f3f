"""measure_tensors: the tier sums of all tensors, wherever they are, and one transfer from each device.

On a GPU a few kernels per tensor are queued, and nothing is read back until all of them are.
Axis letter: E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.measure.kernels.choice import prepare
from prismatic.measure.kernels.tensors import SUMS, Sums, TensorGradients
from prismatic.measure.kernels.with_torch import tier_sums_gpu


def measure_tensors(
    tensors: Sequence[TensorGradients], also_fetch: Sequence[Tensor] = ()
) -> tuple[list[Sums], list[NDArray[np.float64]]]:
    """Return [E, len(SUMS)] for each tensor, in order (zeros for an expert without a gradient), and `also_fetch`.

    also_fetch: small tensors to copy to the CPU in the same transfer.
    """
    places: dict[str, list[int]] = {"none": [], "cpu": [], "gpu": []}
    for place, tensor in enumerate(tensors):
        present = tensor.present
        kind = "none" if present is None else "cpu" if present.device.type in ("cpu", "mps") else "gpu"
        places[kind].append(place)
    queued = [tier_sums_gpu(tensors[place]) for place in places["gpu"]]
    arrived, fetched = _read_back([queued, also_fetch])
    sums = dict(zip(places["gpu"], arrived, strict=True))
    if places["cpu"]:
        sums |= zip(places["cpu"], prepare().sums([tensors[place] for place in places["cpu"]]), strict=True)
    sums |= {place: np.zeros((len(tensors[place].gradients), len(SUMS))) for place in places["none"]}
    return [sums[place] for place in range(len(tensors))], fetched


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
