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

CHUNK = 1 << 19  # entries of all vectors that a CPU converts at once
NEAR = 1e-6  # of a square: a smaller difference of squares has lost six of sixteen digits
MOST_AT_ONCE = 1 << 24  # numbers that a GPU compares at once: 128 MiB in float64


def inner_products(vectors_N: Sequence[Sequence[Tensor]]) -> NDArray[np.float64]:
    """Return the inner products of some vectors with each other, [N, N]; each is given as tensors of the same sizes."""
    if 0 < len(vectors_N) <= 2 and all(tensor.device.type == "cpu" for own in vectors_N for tensor in own):
        compiled = prepare().products
        if compiled is not None:
            return compiled(vectors_N)
    return _over_chunks(vectors_N, _products, (len(vectors_N), len(vectors_N)))


def squares(vectors_N: Sequence[Sequence[Tensor]]) -> NDArray[np.float64]:
    """Return the sum of squares of each vector, [N]."""
    return _over_chunks(vectors_N, lambda chunk_NP: chunk_NP.square().sum(dim=1), (len(vectors_N),))


def square_distances(vectors_N: Sequence[Sequence[Tensor]]) -> NDArray[np.float64]:
    """Return the sum of squared differences of each pair of vectors, [N (N - 1) / 2] in the order of `combinations`.

    They follow from the inner products of the differences from the first vector, which is faster than to sum each.
    Where that is little beside those, so that it would be a rounding error, it is summed.
    """
    count = len(vectors_N)
    products_NN = _over_chunks(vectors_N, lambda chunk_NP: _products(chunk_NP - chunk_NP[0]), (count, count))
    square_N = np.diag(products_NN)
    first, second = np.triu_indices(count, 1)
    found = square_N[first] + square_N[second] - 2 * products_NN[first, second]
    near = ~(found > NEAR * np.maximum(square_N[first], square_N[second]))
    if near.any():
        experts = np.unique([first[near], second[near]]).tolist()
        among = _over_chunks(
            [vectors_N[expert] for expert in experts],
            lambda chunk_NP: torch.nn.functional.pdist(chunk_NP).square(),
            (len(experts) * (len(experts) - 1) // 2,),
        )
        both = np.isin(first, experts) & np.isin(second, experts)
        found[near] = among[near[both]]
    return found


def _products(chunk_NP: Tensor) -> Tensor:
    """Return the inner products of the rows. On a CPU numpy takes half the time: it knows that they are symmetric."""
    if chunk_NP.device.type != "cpu":
        return chunk_NP @ chunk_NP.T
    rows_NP = chunk_NP.numpy()
    return torch.from_numpy(rows_NP @ rows_NP.T)


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
