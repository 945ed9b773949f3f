"""Tier sums on the CPU by compiled code (numba), of all tensors in one call and with threads where they pay.

It reads gradients where they are, also parts of a tensor of all experts, and tiers as bit planes.
Axis letters: T tensors, R gradients of all tensors, N vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.experts.planes import Planes
from prismatic.experts.tiers import Tiers
from prismatic.measure.kernels import compiled
from prismatic.measure.kernels.layout import readable
from prismatic.measure.kernels.tensors import COLUMNS, HasTiers, Sums, TensorGradients, count_nonfinite

KINDS = {
    torch.float32: compiled.FLOAT32,
    torch.float64: compiled.FLOAT64,
    torch.bfloat16: compiled.BFLOAT16,
    torch.float16: compiled.FLOAT16,
}
PER_THREAD = 256  # chunks: a thread with less to do costs more than it saves
EXACT = 1 << 12  # weights: a smaller tensor is summed in float64 at once, at no cost
_ZEROS = np.zeros(compiled.STEP // 8, dtype=np.uint8)
_NEVER_LOST = (-math.inf,) * 3
_DTYPE, _IS_ON_CPU, _SHAPE = attrgetter("dtype"), attrgetter("is_cpu"), attrgetter("shape")
_NO_MARKS = _ZEROS.ctypes.data, _ZEROS.ctypes.data, 0  # addresses of both planes, and the step from byte to byte


class _Work:
    """The tensors that one call reads: a row of numbers for each, and the least sums that float32 has not lost.

    They stay the same from step to step, while the addresses of gradients change.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []
        self.least: list[tuple[float, ...]] = []
        self.read: list[tuple[HasTiers, int, Planes]] = []
        """The tiers of each tensor that is read, its number of weights, and their planes."""
        self._kept: list[Tensor] = []
        """The planes that are read, on the CPU: they live as long as their addresses are in use."""
        self.units = 0
        self.table_T: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.least_R3: NDArray[np.float64] = np.empty(0)
        self._form: object = None

    @classmethod
    def of(cls, tensors: Sequence[TensorGradients], *, exact: bool = False) -> tuple[_Work, list[Tensor | None]]:
        """Return the work and the gradients to read, copied where they lie as the compiled code cannot read them.

        exact: sum in float64 whatever the size of a tensor.
        """
        work, grads_R = cls(), list[Tensor | None]()
        for tensor in tensors:
            grads_R += work._add(tensor, len(grads_R), exact=exact)
        work.table_T = np.array(work.rows, dtype=np.int64).reshape(-1, compiled.UNITS + 1)
        work.least_R3 = np.array(work.least).reshape(-1, 3)
        given_R = [grad for tensor in tensors for grad in tensor.gradients]
        if len(work.read) == len(tensors) and all(map(is_, given_R, grads_R)):
            work._form = _form_of(given_R)
        return work, grads_R

    def _add(self, tensor: TensorGradients, first: int, *, exact: bool) -> Sequence[Tensor | None]:
        """Add a tensor, whose gradients have the rows from `first` on; return what is to be read."""
        experts, model = len(tensor.gradients), tensor.checked()
        if model is None:
            self.rows.append((first, experts, *[0] * (compiled.UNITS - 2), self.units))
            self.least += [_NEVER_LOST] * experts
            return tensor.gradients
        grads, kind, layout = readable(tensor.gradients, model, KINDS, on_cpu=True)
        weights = layout.rows * layout.columns
        planes = tensor.tiers.planes(weights)
        here = [plane.cpu() for plane in planes]
        self._kept += here
        marks = (here[0].data_ptr(), here[1].data_ptr(), 1) if planes.top.numel() else _NO_MARKS
        exact = exact or weights <= EXACT
        self.rows.append((first, experts, *layout, KINDS[kind], exact, *marks, self.units))
        least = compiled.SMALLEST * weights
        ends = least if planes.top.numel() else -math.inf
        self.least += [_NEVER_LOST if exact or kind is torch.float64 else (ends, ends, least)] * experts
        self.read.append((tensor.tiers, weights, planes))
        self.units += experts * layout.rows * -(-layout.columns // compiled.CHUNK)
        return grads

    def fits(self, tensors: Sequence[TensorGradients], grads_R: Sequence[Tensor | None]) -> bool:
        """Return whether these tensors have the same rows: the same tiers, and gradients that lie as the others did."""
        return (
            self._form is not None
            and len(tensors) == len(self.rows)
            and all(tensor.tiers is tiers for tensor, (tiers, _, _) in zip(tensors, self.read, strict=True))
            and all(tiers.planes(weights) is planes for tiers, weights, planes in self.read)
            and _form_of(grads_R) == self._form
        )

    def run(self, grads_R: Sequence[Tensor | None], threads: int) -> tuple[Sums, bool]:
        """Return the sums of every gradient, and True if all are sound; with threads a part of one may look unsound."""
        addresses_R = np.array([0 if grad is None else grad.data_ptr() for grad in grads_R], dtype=np.int64)
        threads = max(min(threads, self.units // PER_THREAD), 1)
        sums = np.zeros((threads, len(grads_R), COLUMNS))
        cuts = [self.units * place // threads for place in range(threads + 1)]
        parts = [(self.table_T, addresses_R, cuts[n], cuts[n + 1], sums[n]) for n in range(threads)]
        waiting = [_pool(threads - 1).submit(lambda part: compiled.sum_tiers(*part), part) for part in parts[1:]]
        sound = compiled.sum_tiers(*parts[0])
        for other in waiting:
            sound &= other.result()
        return (sums.sum(axis=0) if threads > 1 else sums[0]), sound

    def lost(self, sums_R: Sums, grads_R: Sequence[Tensor | None]) -> list[int]:
        """Return the rows of sums that float32 may have lost, because they are infinite or very small."""
        kept_R = np.isfinite(sums_R.sum(axis=1)) & (sums_R[:, :3] >= self.least_R3).all(axis=1)
        kept_R |= self.least_R3[:, 2] == -math.inf
        return [row for row in np.flatnonzero(~kept_R).tolist() if grads_R[row] is not None]


def _form_of(grads_R: Sequence[Tensor | None]) -> object:
    """Return what the layout of gradients follows from; None if one of them is missing, or is no plain tensor."""
    if any(type(grad) is not Tensor for grad in grads_R):
        return None
    facts: Sequence[Callable[[Any], object]] = (_DTYPE, _IS_ON_CPU, _SHAPE, Tensor.stride)
    return [[*map(fact, grads_R)] for fact in facts]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="prismatic-measure")


def tier_sums_numba(tensors: Sequence[TensorGradients], threads: int = 1) -> Sums:
    """Return the sums of every gradient of all tensors, by one call of compiled code.

    Sums in float32 that came out too small or too large are made again in float64.
    """
    grads_R = [grad for tensor in tensors for grad in tensor.gradients]
    keeper = tensors[0].tiers
    work: _Work | None = getattr(keeper, "prepared", None)
    if work is None or not work.fits(tensors, grads_R):
        work, grads_R = _Work.of(tensors)
        if hasattr(keeper, "prepared"):
            keeper.prepared = work
    sums_R, sound = work.run(grads_R, threads)
    if not sound:
        if lost := work.lost(sums_R, grads_R):
            sums_R[lost] = _exact_sums(tensors, lost, threads)
        count_nonfinite(sums_R, grads_R)
    return sums_R


def _exact_sums(tensors: Sequence[TensorGradients], rows: Sequence[int], threads: int) -> Sums:
    """Return the sums of some gradients in float64."""
    places = [(tensor, expert) for tensor in tensors for expert in range(len(tensor.gradients))]
    pairs = []
    for tensor, expert in (places[row] for row in rows):
        grads = tensor.gradients
        pairs.append(TensorGradients([grads[0], grads[expert]] if expert else [grads[0]], tensor.tiers))
    work, grads_R = _Work.of(pairs, exact=True)
    last = np.cumsum([len(pair.gradients) for pair in pairs]) - 1
    exact: Sums = work.run(grads_R, threads)[0][last]
    return exact


def products_numba(vectors_N: Sequence[Sequence[Tensor]], threads: int = 1) -> NDArray[np.float64]:
    """Return the inner products of one or two vectors, [N, N], each given as tensors of the same sizes."""
    tensors = [TensorGradients(grads_N, Tiers.none()) for grads_N in zip(*vectors_N, strict=True)]
    work, grads_R = _Work.of(tensors, exact=True)
    sums_N = work.run(grads_R, threads)[0].reshape(-1, len(vectors_N), COLUMNS).sum(axis=0)
    products = np.diag(sums_N[:, 2])  # without tiers, all squares are in the middle
    products[0, 1:] = products[1:, 0] = sums_N[1:, 3]
    return products
