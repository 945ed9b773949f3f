"""Tier sums on a GPU by one Triton kernel: a launch for each tensor of all experts, and no copy of any gradient.

A program sums a span of one expert's weights in float64 and writes five numbers; torch adds those up. The gradients are
read where they lie, by an address each, and the tiers as bit planes. Triton comes with torch's CUDA builds.
Axis letters: R gradients of all tensors, E experts, P weights of one tensor, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from prismatic.measure.kernels.layout import Readable, readable
from prismatic.measure.kernels.tensors import COLUMNS, SUMS, TensorGradients

BLOCK = 1024  # weights that the threads of a program read at once
TURNS = 32  # blocks of a span
KINDS = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


@triton.jit
def _sum_spans(  # type: ignore[no-untyped-def]
    addresses_E,
    top_P,
    bottom_P,
    sums_ESC,
    weights,
    columns,
    row_stride,
    stride,
    ELEMENT: tl.constexpr,
    DENSE: tl.constexpr,
    MARKED: tl.constexpr,
    BLOCK: tl.constexpr,
    TURNS: tl.constexpr,
):
    """Write the sums of one span of one expert."""
    span, expert, spans = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    own, first = tl.load(addresses_E + expert), tl.load(addresses_E)
    clean = tl.where(first == 0, own, first).to(tl.pointer_type(ELEMENT))
    grad = own.to(tl.pointer_type(ELEMENT))
    count = tl.where(own == 0, 0, weights)
    top = tl.zeros((BLOCK,), tl.float64)
    bottom = tl.zeros((BLOCK,), tl.float64)
    middle = tl.zeros((BLOCK,), tl.float64)
    product = tl.zeros((BLOCK,), tl.float64)
    bad = tl.zeros((BLOCK,), tl.int32)
    for turn in range(TURNS):
        place = (span.to(tl.int64) * TURNS + turn) * BLOCK + tl.arange(0, BLOCK)
        inside = place < count
        at = place if DENSE else place // columns * row_stride + place % columns * stride
        value = tl.load(grad + at, mask=inside, other=0.0).to(tl.float64)
        product += value * tl.load(clean + at, mask=inside, other=0.0).to(tl.float64)
        square = value * value
        bad += ((value != value) | (tl.abs(value) == float("inf"))).to(tl.int32)
        if MARKED:
            bit = (place % 8).to(tl.int32)
            in_top = ((tl.load(top_P + place // 8, mask=inside, other=0).to(tl.int32) >> bit) & 1) != 0
            in_bottom = ((tl.load(bottom_P + place // 8, mask=inside, other=0).to(tl.int32) >> bit) & 1) != 0
            top += tl.where(in_top, square, 0.0)
            bottom += tl.where(in_bottom, square, 0.0)
            middle += tl.where(in_top | in_bottom, 0.0, square)
        else:
            middle += square
    at = sums_ESC + (expert * spans + span) * 5
    tl.store(at, tl.sum(top, 0))
    tl.store(at + 1, tl.sum(bottom, 0))
    tl.store(at + 2, tl.sum(middle, 0))
    tl.store(at + 3, tl.sum(product, 0))
    tl.store(at + 4, tl.sum(bad, 0).to(tl.float64))


def tier_sums_triton(tensors: Sequence[TensorGradients]) -> list[Tensor]:
    """Return the sums of each tensor, [E, COLUMNS] float64 on its device, without waiting for them.

    Each tensor has a gradient, and all lie on one device. The addresses of all gradients are sent to it at once.
    """
    models = [model for tensor in tensors if (model := tensor.checked()) is not None]
    found = [readable(tensor.gradients, model, KINDS) for tensor, model in zip(tensors, models, strict=True)]
    listed = [0 if grad is None else grad.data_ptr() for own in found for grad in own.grads]
    addresses_R = torch.tensor(listed, dtype=torch.int64).to(models[0].device, non_blocking=True)
    sums, first = [], 0
    for tensor, own in zip(tensors, found, strict=True):
        sums.append(_sums_of(tensor, own, addresses_R[first : first + len(own.grads)]))
        first += len(own.grads)
    return sums


def _sums_of(tensor: TensorGradients, own: Readable, addresses_E: Tensor) -> Tensor:
    grads, kind, layout = own
    weights = layout.rows * layout.columns
    planes = tensor.tiers.planes(weights)
    marked = planes.top.numel() > 0
    spans = -(-weights // (BLOCK * TURNS))
    sums_ESC = torch.empty(len(grads), spans, COLUMNS, dtype=torch.float64, device=addresses_E.device)
    _sum_spans[(spans, len(grads))](
        addresses_E,
        planes.top if marked else addresses_E,
        planes.bottom if marked else addresses_E,
        sums_ESC,
        weights,
        layout.columns,
        layout.row_stride,
        layout.stride,
        ELEMENT=KINDS[kind],
        DENSE=layout.rows == 1 and layout.stride == 1,
        MARKED=marked,
        BLOCK=BLOCK,
        TURNS=TURNS,
    )
    sums_EC = sums_ESC.sum(dim=1)
    if grads[0] is None:  # the products with a clean expert that has no gradient
        sums_EC[:, SUMS.index("product")] = 0.0
    return sums_EC
