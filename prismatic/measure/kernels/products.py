"""Inner products and square distances of vectors, each given as several tensors, in float64.

Axis letters: N vectors, P entries of one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.measure.kernels.choice import prepare

CHUNK = 1 << 17  # entries of all vectors that a CPU converts at once
MOST_AT_ONCE = 1 << 24  # numbers that a GPU compares at once: 128 MiB in float64


def inner_products(vectors_N: Sequence[Sequence[Tensor]]) -> NDArray[np.float64]:
    """Return the inner products of some vectors with each other, [N, N]; each is given as tensors of the same sizes."""
    if 0 < len(vectors_N) <= 2 and all(tensor.device.type == "cpu" for own in vectors_N for tensor in own):
        compiled = prepare().products
        if compiled is not None:
            return compiled(vectors_N)
    return _over_chunks(vectors_N, lambda chunk_NP: chunk_NP @ chunk_NP.T, (len(vectors_N), len(vectors_N)))


def square_distances(vectors_N: Sequence[Sequence[Tensor]]) -> NDArray[np.float64]:
    """Return the sum of squared differences of each pair of vectors, [N (N - 1) / 2] in the order of `combinations`.

    They are summed as differences: taken from inner products, those of nearly equal weights would be rounding errors.
    """
    pairs = len(vectors_N) * (len(vectors_N) - 1) // 2
    return _over_chunks(vectors_N, lambda chunk_NP: torch.nn.functional.pdist(chunk_NP).square(), (pairs,))


def _over_chunks(
    vectors_N: Sequence[Sequence[Tensor]], sums: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return sums over chunks [N, P] of the vectors in float64, which loses neither tiny gradients nor differences."""
    totals: dict[torch.device, Tensor] = {}
    for tensors_N in zip(*vectors_N, strict=True):
        device = torch.device("cpu") if tensors_N[0].device.type == "mps" else tensors_N[0].device  # has no float64
        total = totals.setdefault(device, torch.zeros(shape, dtype=torch.float64, device=device))
        size = max((CHUNK if device.type == "cpu" else MOST_AT_ONCE) // len(tensors_N), 1)
        for at in range(0, len(tensors_N[0]), size):
            total += sums(torch.stack([tensor.detach()[at : at + size].to(device) for tensor in tensors_N]).double())
    return np.sum([total.cpu().numpy() for total in totals.values()], axis=0) if totals else np.zeros(shape)
