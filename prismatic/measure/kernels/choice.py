"""The choice of the way to sum on the CPU, made once: compiled code if numba is there, with threads where they pay."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.experts.tiers import Tiers
from prismatic.guard import warn
from prismatic.measure.kernels.self_test import agree
from prismatic.measure.kernels.tensors import Sums, TensorGradients, count_nonfinite
from prismatic.measure.kernels.with_numpy import tier_sums_numpy

SWITCH = "PRISMATIC_MEASURE"  # environment variable: "numpy" leaves numba alone, "torch" Triton
TRIED = 1 << 24  # weights whose sums are timed: 64 MiB, more than most caches
WORTH = 1.25  # times as fast, for twice as many threads

TierSums = Callable[[Sequence[TensorGradients]], Sums]
"""The sums of every gradient of all tensors, [R, COLUMNS]."""
Products = Callable[[Sequence[Sequence[Tensor]]], NDArray[np.float64]]


class Way(NamedTuple):
    """A way to sum the gradients of tensors on the CPU."""

    sums: TierSums
    message: str
    """A sentence for the run file: the way, and what its preparation took."""
    products: Products | None = None
    """The inner products of one or two vectors, where there is a faster way than to convert them."""


@cache
def prepare() -> Way:
    """Return the way to sum on this machine; the first call compiles, and decides on threads by measuring."""
    if os.environ.get(SWITCH) == "numpy":
        return Way(_by_numpy, f"gradients are summed by numpy, as {SWITCH} says")
    if importlib.util.find_spec("numba") is None:
        return Way(_by_numpy, 'gradients are summed by numpy; `pip install "prismatic-dynamics[fast]"` is faster')
    start = time.perf_counter()
    try:
        way = _compiled(start)
    except Exception as error:  # a compiler may fail in many ways, and none is worth the training
        way = None
        problem = f"{type(error).__name__}: {error}"[:200]
    else:
        problem = "its sums differ from those of numpy on this machine"
    if way is None:
        warn(f"numba cannot be used ({problem}): gradients are summed by numpy, which takes longer.")
        return Way(_by_numpy, f"gradients are summed by numpy, because numba cannot be used: {problem}")
    return way


def _compiled(start: float) -> Way | None:
    """Return the compiled way; None if it gives wrong sums, as the code of a broken compiler would."""
    import numba

    from prismatic.measure.kernels.with_numba import products_numba, tier_sums_numba

    if not agree(tier_sums_numba):
        return None
    ready = time.perf_counter()
    threads, times = _threads(lambda tensors, count: tier_sums_numba(tensors, count), torch.get_num_threads())
    message = (
        f"gradients are summed by compiled code (numba {numba.__version__}), ready after {ready - start:.1f} s, "
        f"on {threads} thread{'s' * (threads > 1)}{times}"
    )
    return Way(
        lambda tensors: tier_sums_numba(tensors, threads), message, lambda vectors_N: products_numba(vectors_N, threads)
    )


def _by_numpy(tensors: Sequence[TensorGradients]) -> Sums:
    sums_R = np.concatenate([tier_sums_numpy(tensor) for tensor in tensors])
    if not np.isfinite(sums_R).all():
        count_nonfinite(sums_R, [grad for tensor in tensors for grad in tensor.gradients])
    return sums_R


def _threads(sums: Callable[[Sequence[TensorGradients], int], object], most: int) -> tuple[int, str]:
    """Return the number of threads that pays, at most `most`, and a note of what was measured.

    Twice as many are tried for as long as they save a fifth of the time: memory is soon as busy as it can be.
    """
    if most < 2:
        return 1, ""
    tensors = [TensorGradients([torch.ones(TRIED)], Tiers.none())]

    def seconds(count: int) -> float:
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            sums(tensors, count)
            taken.append(time.perf_counter() - start)
        return min(taken)

    threads, best = 1, seconds(1)
    single = best
    while 2 * threads <= most and (next_best := seconds(2 * threads)) * WORTH <= best:
        threads, best = 2 * threads, next_best
    return threads, f" ({single / best:.1f} times as fast as one)" if threads > 1 else " (more do not pay)"
