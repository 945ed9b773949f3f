"""Tier sums on the CPU by numpy, where there is no compiler: take and dot, on chunks that fit the cache."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prismatic.measure.kernels.tensors import COLUMNS, SUMS, Sums, TensorGradients, at_least_single

CHUNK = 1 << 17  # weights: a chunk of one expert and the same chunk of the clean one fit the cache of a core
# A float32 sum is exact to about 3e-7 of the whole. The middle by subtraction is as exact only while it is most of the
# whole, and sums near the smallest float32 have lost digits: such a tensor is summed again in float64.
MIDDLE_SHARE, SMALLEST = 0.5, 1e-30
EXACT = 1 << 14  # weights: a smaller tensor is summed in float64 at once, at no cost

Floats = NDArray[np.float32]


def tier_sums_numpy(tensor: TensorGradients) -> Sums:
    """Return the sums of a tensor on the CPU, reading each gradient from memory once."""
    grads = [None if g is None else _as_numpy(g) for g in tensor.gradients]
    top, bottom = (indices.cpu().numpy() for indices in tensor.tiers.indices())
    length = max((len(g) for g in grads if g is not None), default=0)
    sums = np.zeros((len(grads), COLUMNS))
    squares = sums[:, : len(SUMS)]
    starts = range(0, length + CHUNK, CHUNK) if length > EXACT else range(0)
    top_cuts, bottom_cuts = np.searchsorted(top, starts), np.searchsorted(bottom, starts)
    picked = np.empty(min(max(len(top), len(bottom)), CHUNK), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk in range(len(starts) - 1):
            part = slice(starts[chunk], starts[chunk + 1])
            chunk_top = top[top_cuts[chunk] : top_cuts[chunk + 1]]
            chunk_bottom = bottom[bottom_cuts[chunk] : bottom_cuts[chunk + 1]]
            clean = None if grads[0] is None else grads[0][part]
            for expert, grad in enumerate(grads):
                if grad is not None:
                    in_a_row = grad.strides[0] == grad.itemsize
                    # A part of a tensor, such as every second column, would be copied whole by numpy at each use.
                    whole = grad[part] if in_a_row else np.ascontiguousarray(grad[part])
                    square = whole @ whole  # first, because it brings the chunk into the cache
                    if in_a_row:
                        ends = [_square_sum(grad, indices, picked) for indices in (chunk_top, chunk_bottom)]
                    else:
                        ends = [_square_sum(whole, i - starts[chunk], picked) for i in (chunk_top, chunk_bottom)]
                    product = 0.0 if clean is None else whole @ clean if expert else square
                    squares[expert] += *ends, square, product
        sums[:, 2] -= sums[:, 0] + sums[:, 1]
    for expert, grad in enumerate(grads):
        if grad is not None and (length <= EXACT or not _trustworthy(sums[expert], len(top))):
            squares[expert] = _exact_sums(grad, grads[0], top, bottom)
    return sums


def _square_sum(grad: Floats, indices: NDArray[np.int64], picked: Floats) -> float:
    """Return the sum of squares of some entries. picked: memory for them, because new memory costs more than they."""
    if grad.dtype != picked.dtype:
        entries = grad.take(indices)
    else:  # the indices are in range: "wrap" does not check them, and does not copy
        entries = grad.take(indices, mode="wrap", out=picked[: len(indices)])
    return float(entries @ entries)


def _trustworthy(sums: Sums, tier_size: int) -> bool:
    top, bottom, middle, product, _ = sums.tolist()
    whole = top + bottom + middle
    smallest = min(top, bottom, middle) if tier_size else middle
    return math.isfinite(whole + product) and smallest > SMALLEST and middle > MIDDLE_SHARE * whole


def _exact_sums(
    grad: NDArray[np.float32], clean: NDArray[np.float32] | None, top: NDArray[np.int64], bottom: NDArray[np.int64]
) -> Sums:
    """Return the sums in float64, the middle summed and not subtracted: an infinite top entry stays in the top."""
    exact = grad.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        product = 0.0 if clean is None else exact @ clean.astype(np.float64)
        ends = [exact[indices] @ exact[indices] for indices in (top, bottom)]
        exact[top] = exact[bottom] = 0.0
        return np.array([*ends, exact @ exact, product])


def _as_numpy(grad: Tensor) -> Floats:
    return np.asarray(at_least_single(grad).reshape(-1).cpu().numpy())
