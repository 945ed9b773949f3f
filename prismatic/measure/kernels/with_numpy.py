"""Tier sums on the CPU by numpy, where there is no compiler: take and dot, on chunks that fit the cache.

Axis letters: E experts, S sums, P weights of the tensor, C blocks of a chunk, B weights of a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prismatic.measure.kernels.tensors import COLUMNS, SUMS, Sums, TensorGradients, at_least_single

CHUNK = 1 << 17  # weights: a chunk of one expert and the same chunk of the clean one fit the cache of a core
# Products that are summed in float32; the sums of blocks are added in float64. Where all entries have one magnitude,
# rounding errors do not cancel: they reach 5e-7 of a block, and reached 2e-5 of a chunk that was summed at once.
BLOCK = 1 << 10
# The middle by subtraction is as exact as the whole only while it is most of it, and sums near the smallest float32
# have lost digits: such a tensor is summed again in float64.
MIDDLE_SHARE, SMALLEST = 0.5, 1e-30
EXACT = 1 << 14  # weights: a smaller tensor is summed in float64 at once, at no cost

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


def tier_sums_numpy(tensor: TensorGradients) -> Sums:
    """Return the sums of a tensor on the CPU, reading each gradient from memory once."""
    model, sums = tensor.checked(), np.zeros((len(tensor.gradients), COLUMNS))
    if model is None:
        return sums
    length, squares = model.numel(), sums[:, : len(SUMS)]
    top, bottom = (indices.cpu().numpy() for indices in tensor.tiers.indices(length))
    grads = [None if g is None else _as_numpy(g) for g in tensor.gradients]
    if length > EXACT:
        squares += _block_sums(grads, length // BLOCK, top, bottom)
    for expert, grad in enumerate(grads):
        if grad is not None and (length <= EXACT or not _trustworthy(sums[expert], len(top))):
            squares[expert] = _exact_sums(grad, grads[0], top, bottom)
        elif grad is not None and (rest := length % BLOCK):
            at = length - rest
            ends = [indices[np.searchsorted(indices, at) :] - at for indices in (top, bottom)]
            squares[expert] += _exact_sums(grad[at:], None if grads[0] is None else grads[0][at:], *ends)
    return sums


def _block_sums(grads_E: Sequence[Floats | None], blocks: int, top: Indices, bottom: Indices) -> Sums:
    """Return the sums over so many blocks, [E, S]: in float32 within each of them, the middle by subtraction."""
    kind = np.result_type(*(grad for grad in grads_E if grad is not None))
    own_E = [None if grad is None else grad.astype(kind, copy=False) for grad in grads_E]
    sums_ES = np.zeros((len(grads_E), len(SUMS)))
    sums_ESC = np.empty((*sums_ES.shape, min(CHUNK // BLOCK, blocks)), dtype=kind)
    room = -(-min(max(len(top), len(bottom)), CHUNK) // BLOCK)
    ends_2CB = np.empty((2, room, BLOCK), dtype=kind)  # of every chunk: new memory costs more than the entries
    copies_2P = np.empty((2, min(CHUNK, blocks * BLOCK)), dtype=kind)
    cuts = [*range(0, blocks * BLOCK, CHUNK), blocks * BLOCK]
    top_cuts, bottom_cuts = (np.searchsorted(indices, cuts).tolist() for indices in (top, bottom))
    with np.errstate(over="ignore", invalid="ignore"):
        for part, of_top, of_bottom in zip(
            *(map(slice, own, own[1:]) for own in (cuts, top_cuts, bottom_cuts)), strict=True
        ):
            sums_ESC.fill(0.0)
            _sum_chunk(own_E, part, (top[of_top], bottom[of_bottom]), ends_2CB, copies_2P, sums_ESC)
            sums_ES += sums_ESC.sum(axis=2, dtype=np.float64)
        sums_ES[:, 2] -= sums_ES[:, 0] + sums_ES[:, 1]
    return sums_ES


def _sum_chunk(
    grads_E: Sequence[Floats | None],
    part: slice,
    inside: Sequence[Indices],
    ends_2CB: Floats,
    copies_2P: Floats,
    sums_ESC: Floats,
) -> None:
    """Write the sums of each block of a part.

    inside: its top and bottom. ends_2CB, copies_2P: memory for their entries, and for parts that are not contiguous.
    """
    ends_2CB = ends_2CB[:, : -(-max(map(len, inside)) // BLOCK)]
    ends = [end_CB.reshape(-1) for end_CB in ends_2CB]
    for end, indices in zip(ends, inside, strict=True):
        end[len(indices) :] = 0.0
    clean_CB = None if grads_E[0] is None else _blocks(grads_E[0][part], copies_2P[0])
    for expert, grad in enumerate(grads_E):
        if grad is not None:
            own_CB = clean_CB if clean_CB is not None and not expert else _blocks(grad[part], copies_2P[1])
            _dot(own_CB, own_CB, sums_ESC[expert, 2])  # first, because it brings the chunk into the cache
            in_a_row = grad.strides[0] == grad.itemsize
            for end, indices in zip(ends, inside, strict=True):
                source, places = (grad, indices) if in_a_row else (own_CB, indices - part.start)
                # The indices are in range: "wrap" does not check them, and does not copy.
                source.take(places, mode="wrap", out=end[: len(places)])
            _dot(ends_2CB, ends_2CB, sums_ESC[expert, :2])
            if expert and clean_CB is not None:
                _dot(own_CB, clean_CB, sums_ESC[expert, 3])
    sums_ESC[0, 3] = sums_ESC[0, 2]


def _blocks(part_P: Floats, copy_P: Floats) -> Floats:
    """Return a part as blocks, [C, B]; one of every second column is copied, which numpy would do at each use."""
    if not part_P.flags.c_contiguous:
        copy_P = copy_P[: len(part_P)]
        copy_P[:] = part_P
        part_P = copy_P
    return part_P.reshape(-1, BLOCK)


def _dot(one_CB: Floats, other_CB: Floats, sums_C: Floats) -> None:
    """Write the inner products of blocks."""
    np.matmul(one_CB[..., None, :], other_CB[..., None], out=sums_C[..., : one_CB.shape[-2], None, None])


def _trustworthy(sums: Sums, tier_size: int) -> bool:
    top, bottom, middle, product, _ = sums.tolist()
    whole = top + bottom + middle
    smallest = min(top, bottom, middle) if tier_size else middle
    return math.isfinite(whole + product) and smallest > SMALLEST and middle > MIDDLE_SHARE * whole


def _exact_sums(grad: Floats, clean: Floats | None, top: Indices, bottom: Indices) -> Sums:
    """Return the sums in float64, the middle summed and not subtracted: an infinite top entry stays in the top."""
    exact = grad.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        product = 0.0 if clean is None else exact @ clean.astype(np.float64)
        ends = [exact[indices] @ exact[indices] for indices in (top, bottom)]
        exact[top] = exact[bottom] = 0.0
        return np.array([*ends, exact @ exact, product])


def _as_numpy(grad: Tensor) -> Floats:
    return np.asarray(at_least_single(grad).reshape(-1).cpu().numpy())
