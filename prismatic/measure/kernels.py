"""Tier sums of each tensor, CPU and GPU: sums of squares of each tier, and the product with the clean expert.

Both ways give the same numbers and are tested against an obvious float64 version. On a CPU, numpy reads chunks that fit
the cache once; its take and dot cost a third of small tensor operations. On any other device a few kernels per tensor
are queued, and nothing is read back until all of them are.
Axis letters: P weights of one tensor, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.experts.tiers import Tiers

SUMS = ("top", "bottom", "middle", "product")
CHUNK = 1 << 17  # weights: a chunk of one expert and the same chunk of the clean one fit the cache of a core
# A float32 sum is exact to about 3e-7 of the whole. The middle by subtraction is as exact only while it is most of the
# whole, and sums near the smallest float32 have lost digits: such a tensor is summed again in float64.
MIDDLE_SHARE, SMALLEST = 0.5, 1e-30
EXACT = 1 << 14  # weights: a smaller tensor is summed in float64 at once, at no cost
MOST_AT_ONCE = 1 << 24  # numbers that a GPU compares at once: 128 MiB in float64

Sums = NDArray[np.float64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TensorGradients:
    """The gradients of one parameter tensor in every expert, [P] each or None, and its tiers."""

    gradients: Sequence[Tensor | None]
    tiers: Tiers

    @property
    def device(self) -> torch.device:
        """The device of the gradients; the CPU for a tensor without any."""
        return next((g.device for g in self.gradients if g is not None), torch.device("cpu"))

    @property
    def size(self) -> int:
        """The number of weights, P; 0 for a tensor without any gradient."""
        return next((len(g) for g in self.gradients if g is not None), 0)


def measure_tensors(
    tensors: Sequence[TensorGradients], also_fetch: Sequence[Tensor] = ()
) -> tuple[list[Sums], list[NDArray[np.float64]]]:
    """Return [E, len(SUMS)] for each tensor, in order (zeros for an expert without a gradient), and `also_fetch`.

    also_fetch: small tensors to copy to the CPU in the same transfer.
    """
    empty = {place for place, tensor in enumerate(tensors) if not tensor.size}
    local = {place for place, tensor in enumerate(tensors) if tensor.device.type in ("cpu", "mps")} - empty
    queued = {place: tier_sums_gpu(tensors[place]) for place in range(len(tensors)) if place not in local | empty}
    *arrived, fetched = _read_back([list(queued.values()), list(also_fetch)])
    sums = dict(zip(queued, arrived[0], strict=True))
    sums |= {place: tier_sums_cpu(tensors[place]) for place in local}
    sums |= {place: np.zeros((len(tensors[place].gradients), len(SUMS))) for place in empty}
    return [sums[place] for place in range(len(tensors))], fetched


def inner_products(vectors_N: Sequence[Sequence[Tensor]]) -> NDArray[np.float64]:
    """Return the inner products of some vectors with each other, [N, N]; each is given as tensors of the same sizes."""
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


def _as_numpy(tensor: Tensor) -> Floats:
    return np.asarray(_at_least_single(tensor).cpu().numpy())


def _read_back(groups: Sequence[Sequence[Tensor]]) -> list[list[NDArray[np.float64]]]:
    """Return all tensors as arrays, with one transfer per device: each single read would stall a GPU."""
    flat = [tensor for group in groups for tensor in group]
    numbers: dict[int, NDArray[np.float64]] = {}
    for device in {tensor.device for tensor in flat}:
        places = [place for place, tensor in enumerate(flat) if tensor.device == device]
        joined = torch.cat([flat[place].detach().double().flatten() for place in places]).cpu().numpy()
        ends = np.cumsum([flat[place].numel() for place in places])[:-1]
        numbers |= zip(places, np.split(joined, ends), strict=True)
    arrays = iter([numbers[place].reshape(tensor.shape) for place, tensor in enumerate(flat)])
    return [[next(arrays) for _ in group] for group in groups]


def tier_sums_cpu(tensor: TensorGradients) -> Sums:
    """Return the sums of a tensor on the CPU, reading each gradient from memory once."""
    grads = [None if g is None else _as_numpy(g) for g in tensor.gradients]
    top, bottom = (indices.cpu().numpy() for indices in tensor.tiers)
    length = max((len(g) for g in grads if g is not None), default=0)
    sums = np.zeros((len(grads), len(SUMS)))
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
                    sums[expert] += *ends, square, product
        sums[:, 2] -= sums[:, 0] + sums[:, 1]
    for expert, grad in enumerate(grads):
        if grad is not None and (length <= EXACT or not _trustworthy(sums[expert], len(top))):
            sums[expert] = _exact_sums(grad, grads[0], top, bottom)
    return sums


def _square_sum(grad: Floats, indices: NDArray[np.int64], picked: Floats) -> float:
    """Return the sum of squares of some entries. picked: memory for them, because new memory costs more than they."""
    if grad.dtype != picked.dtype:
        entries = grad.take(indices)
    else:  # the indices are in range: "wrap" does not check them, and does not copy
        entries = grad.take(indices, mode="wrap", out=picked[: len(indices)])
    return float(entries @ entries)


def _at_least_single(grad: Tensor) -> Tensor:
    """Return the gradient as float32 or float64: a sum in float16 would overflow above 65504."""
    return grad.detach() if grad.dtype in (torch.float32, torch.float64) else grad.detach().float()


def _trustworthy(sums: Sums, tier_size: int) -> bool:
    top, bottom, middle, product = sums.tolist()
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


def tier_sums_gpu(tensor: TensorGradients) -> Tensor:
    """Return the sums of a tensor as [E, len(SUMS)] float64 on its device, without waiting for them."""
    rows = torch.zeros(len(tensor.gradients), len(SUMS), dtype=torch.float64, device=tensor.device)
    present = [expert for expert, grad in enumerate(tensor.gradients) if grad is not None]
    if not present:
        return rows
    grads_EP = torch.stack([_at_least_single(g) for g in tensor.gradients if g is not None])
    # Scale each expert by its largest entry: float32 products would over- or underflow long before the norms do.
    largest_E1 = grads_EP.abs().amax(1, keepdim=True)
    largest_E1 = torch.where(largest_E1 > 0, largest_E1, 1.0)
    unit_EP = grads_EP / largest_E1
    # Expert 0, if it has a gradient, is the first of those present.
    clean_P = unit_EP[0] if present[0] == 0 else torch.zeros_like(unit_EP[0])
    products = (unit_EP * clean_P).sum(1, dtype=torch.float64) * (largest_E1.double() * largest_E1[0].double())[:, 0]
    ends = [grads_EP.index_select(1, indices).double().square().sum(1) for indices in tensor.tiers]
    # The ends are zeroed in this copy, so that the middle is summed and not subtracted.
    grads_EP.index_fill_(1, torch.cat(list(tensor.tiers)), 0.0)
    middle = torch.linalg.vector_norm(grads_EP, dim=1, dtype=torch.float64).square()
    for place, sums in zip(present, torch.stack([*ends, middle, products], dim=1), strict=True):
        rows[place] = sums
    return rows
