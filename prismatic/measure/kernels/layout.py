"""The layout of a gradient in memory: rows of elements at equal distances, which kernels read where they lie."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from prismatic.experts.planes import STEP


class Layout(NamedTuple):
    """A tensor as rows of elements at equal distances. Strides are in elements."""

    rows: int
    columns: int
    row_stride: int
    stride: int


def layout_of(tensor: Tensor) -> Layout | None:
    """Return the layout of a tensor; None for one that must be copied into a row first."""
    return _layout(tensor.shape, tensor.stride())


@lru_cache(maxsize=4096)
def _layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> Layout | None:
    merged: list[list[int]] = []  # [length, stride], outermost first
    for length, stride in zip(shape, strides, strict=True):
        if length == 1:
            continue
        if merged and merged[-1][1] == stride * length:
            merged[-1] = [merged[-1][0] * length, stride]
        else:
            merged.append([length, stride])
    # Rows of whole steps, so that each of them begins with a byte of the bit planes.
    if len(merged) > 2 or (len(merged) == 2 and merged[1][0] % STEP):
        return None
    outer, inner = [[1, 0], *(merged or [[1, 1]])][-2:]
    return Layout(outer[0], inner[0], outer[1], inner[1])


class Readable(NamedTuple):
    """Gradients of one type and layout, of which one is there."""

    grads: Sequence[Tensor | None]
    kind: torch.dtype
    layout: Layout


def readable(
    grads: Sequence[Tensor | None], model: Tensor, kinds: Collection[torch.dtype], *, on_cpu: bool = False
) -> Readable:
    """Return gradients in one of some types and in one layout, copied only if they differ or lie in no rows.

    model: the first gradient that is there, of the shape of all (see `TensorGradients.checked`).
    """
    kind, strides, place, layout = model.dtype, model.stride(), model.device, layout_of(model)
    if kind in kinds and layout is not None and not (on_cpu and place.type != "cpu"):
        for grad in grads:
            if grad is not None and (grad.dtype is not kind or grad.stride() != strides or grad.device != place):
                break
        else:
            return Readable(grads, kind, layout)
    found = {grad.dtype for grad in grads if grad is not None}
    wide = torch.float64 if torch.float64 in found else torch.float32
    common = kind if found == {kind} and kind in kinds else wide
    device = torch.device("cpu") if on_cpu else place
    copies = [None if grad is None else grad.detach().to(device, common).reshape(-1).contiguous() for grad in grads]
    return Readable(copies, common, Layout(1, model.numel(), 0, 1))
