"""Tier sums on a GPU without Triton: a few torch operations for each piece of a tensor, of bounded size.

Nothing is read back. The pieces of all experts are converted to float64 together, MOST numbers at a time.
Axis letters: E experts, P weights of one tensor, C weights of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prismatic.measure.kernels.tensors import COLUMNS, TensorGradients

MOST = 1 << 20  # numbers of a piece: 8 MiB in float64, and a few times as much while they are summed


def tier_sums_torch(tensor: TensorGradients) -> Tensor:
    """Return the sums of a tensor as [E, COLUMNS] float64 on its device, without waiting for them."""
    model = tensor.checked()
    assert model is not None, "a tensor with a gradient"
    present = [expert for expert, grad in enumerate(tensor.gradients) if grad is not None]
    grads = [grad for grad in tensor.gradients if grad is not None]
    planes = tensor.tiers.planes(model.numel())
    sums = torch.zeros(len(grads), COLUMNS, dtype=torch.float64, device=model.device)
    for start, values_EC in _pieces(grads):
        square_EC = values_EC.square()
        if planes.top.numel():
            marks = [_marks(plane, start, start + values_EC.shape[1]) for plane in planes]
            for column, marks_C in enumerate((*marks, ~(marks[0] | marks[1]))):
                # Selected, not multiplied by 0 and 1: an infinite entry of one tier must not reach the others.
                sums[:, column] += torch.where(marks_C, square_EC, 0.0).sum(1)
        else:
            sums[:, 2] += square_EC.sum(1)
        if present[0] == 0:
            sums[:, 3] += values_EC @ values_EC[0]
        sums[:, 4] += (~torch.isfinite(values_EC)).sum(1)
    rows = torch.zeros(len(tensor.gradients), COLUMNS, dtype=torch.float64, device=model.device)
    for expert, row in zip(present, sums, strict=True):
        rows[expert] = row
    return rows


def _pieces(grads: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Yield the place of each piece in the flattened tensor, and its entries in all experts, [E, C] float64."""
    model = grads[0]
    most = max(MOST // len(grads), 1)
    if model.is_contiguous() or model.dim() < 2:
        flat = [grad.reshape(-1) for grad in grads]
        for start in range(0, model.numel(), most):
            yield start, torch.stack([grad[start : start + most] for grad in flat]).double()
        return
    # Rows of a part of a tensor do not follow each other: they are copied a few at a time.
    row = model[0].numel()
    rows = max(most // row, 1)
    for first in range(0, model.shape[0], rows):
        yield first * row, torch.stack([grad[first : first + rows].reshape(-1) for grad in grads]).double()


def _marks(plane: Tensor, start: int, stop: int) -> Tensor:
    """Return the bits of a plane from one weight to another, [C], on its device."""
    first = start // 8
    bits = plane[first : -(-stop // 8), None] >> torch.arange(8, dtype=torch.uint8, device=plane.device)
    return (bits & 1).bool().flatten()[start - 8 * first : stop - 8 * first]
