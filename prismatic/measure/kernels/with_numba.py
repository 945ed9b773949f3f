"""Tier sums on the CPU by compiled code (numba), of all tensors in one call and with threads where they pay.

It reads gradients where they are, also parts of a tensor of all experts, and tiers as bit planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.experts.tiers import Tiers
from prismatic.measure.kernels import compiled
from prismatic.measure.kernels.layout import readable
from prismatic.measure.kernels.tensors import COLUMNS, Sums, TensorGradients

KINDS = {
    torch.float32: compiled.FLOAT32,
    torch.float64: compiled.FLOAT64,
    torch.bfloat16: compiled.BFLOAT16,
    torch.float16: compiled.FLOAT16,
}
PER_THREAD = 256  # chunks: a thread with less to do costs more than it saves
EXACT = 1 << 12  # weights: a smaller tensor is summed in float64 at once, at no cost
_ZEROS = np.zeros(compiled.STEP // 8, dtype=np.uint8)
_NO_MARKS = _ZEROS.ctypes.data, _ZEROS.ctypes.data, 0  # addresses of both planes, and the step from byte to byte


class _Work:
    """All gradients that one call reads: a row of numbers for each tensor, and an address for each gradient."""

    def __init__(self) -> None:
        self.tensors: list[tuple[int, ...]] = []
        self.addresses: list[int] = []
        self.units = 0
        self.table: NDArray[np.int64] = np.empty((0, 0), dtype=np.int64)
        self.rows: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._kept: list[object] = []  # what lies at the addresses

    def add(self, tensor: TensorGradients, *, exact: bool = False) -> None:
        """Add a tensor, whose gradients get the next rows of the sums. exact: sum in float64 whatever its size."""
        first, experts = len(self.addresses), len(tensor.gradients)
        model = tensor.present
        if model is None:
            self.tensors.append((first, experts, *[0] * (compiled.UNITS - 2), self.units))
            self.addresses += [0] * experts
            return
        grads, kind, layout = readable(tensor.gradients, model, KINDS, on_cpu=True)
        self.addresses += [0 if grad is None else grad.data_ptr() for grad in grads]
        weights = layout.rows * layout.columns
        planes = tensor.tiers.planes(weights)
        marks = planes.top.data_ptr(), planes.bottom.data_ptr(), 1
        if not planes.top.numel():
            marks = _NO_MARKS
        self.tensors.append((first, experts, *layout, KINDS[kind], exact or weights <= EXACT, *marks, self.units))
        self._kept += (grads, planes)
        self.units += experts * layout.rows * -(-layout.columns // compiled.CHUNK)

    def run(self, threads: int) -> Sums:
        """Return the sums of every gradient, [R, COLUMNS]."""
        self.table = np.array(self.tensors, dtype=np.int64).reshape(-1, compiled.UNITS + 1)
        self.rows = np.array(self.addresses, dtype=np.int64)
        threads = max(min(threads, self.units // PER_THREAD), 1)
        sums = np.zeros((threads, len(self.rows), COLUMNS))
        cuts = [self.units * place // threads for place in range(threads + 1)]
        parts = [(self.table, self.rows, cuts[n], cuts[n + 1], sums[n]) for n in range(threads)]
        waiting = [_pool(threads - 1).submit(lambda part: compiled.sum_tiers(*part), part) for part in parts[1:]]
        compiled.sum_tiers(*parts[0])
        for other in waiting:
            other.result()
        return sums.sum(axis=0) if threads > 1 else sums[0]

    def doubtful(self, sums_R: Sums) -> list[list[int]]:
        """Return the tensor and the expert of sums that float32 may have lost."""
        found = np.empty((len(self.rows), 2), dtype=np.int64)
        count = compiled.find_doubtful(self.table, self.rows, sums_R, found)
        return found[:count].tolist() if count else []


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="prismatic-measure")


def tier_sums_numba(tensors: Sequence[TensorGradients], threads: int = 1) -> list[Sums]:
    """Return the sums of each tensor on the CPU, by one call of compiled code.

    Sums in float32 that came out too small or too large are made again in float64.
    """
    work = _Work()
    for tensor in tensors:
        work.add(tensor)
    sums_R = work.run(threads)
    if doubtful := work.doubtful(sums_R):
        again, rows = _Work(), []
        for place, expert in doubtful:
            grads = tensors[place].gradients
            pair = [grads[0], grads[expert]] if expert else [grads[0]]
            again.add(TensorGradients(pair, tensors[place].tiers), exact=True)
            rows.append((work.tensors[place][compiled.FIRST] + expert, len(again.addresses) - 1))
        exact_R = again.run(threads)
        for row, own in rows:
            sums_R[row] = exact_R[own]
    return [sums_R[row[0] : row[0] + row[1]] for row in work.tensors]  # from FIRST, as many as EXPERTS


def products_numba(vectors_N: Sequence[Sequence[Tensor]], threads: int = 1) -> NDArray[np.float64]:
    """Return the inner products of one or two vectors, [N, N], each given as tensors of the same sizes."""
    work = _Work()
    for tensors in zip(*vectors_N, strict=True):
        work.add(TensorGradients(tensors, Tiers.none()), exact=True)
    vectors = len(vectors_N)
    sums_N = work.run(threads).reshape(-1, vectors, COLUMNS).sum(axis=0)
    products = np.diag(sums_N[:, 2])  # without tiers, all squares are in the middle
    products[0, 1:] = products[1:, 0] = sums_N[1:, 3]
    return products
