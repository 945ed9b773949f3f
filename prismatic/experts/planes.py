"""Bit planes: the tiers of a tensor as two bits a weight, for a kernel that reads gradients from end to end.

A plane has bit `i % 8` of byte `i // 8` for weight `i` in memory order of the flattened tensor. Both planes together
take 0.25 byte a weight, where int64 indices take 8 bytes for each weight of a tier.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STEP = 32  # weights: planes are padded to whole steps, so that a kernel may read them by words


class Planes(NamedTuple):
    """Two bit planes, uint8: of the top tier and of the bottom tier. Both are empty for a tensor without tiers."""

    top: Tensor
    bottom: Tensor


def as_plane(indices: Tensor, weights: int) -> Tensor:
    """Return flat indices into a tensor of so many weights as a plane, on their device."""
    marks = np.zeros(-(-weights // STEP) * STEP, dtype=bool)
    marks[indices.cpu().numpy()] = True
    return torch.from_numpy(np.packbits(marks, bitorder="little")).to(indices.device)


def from_plane(plane: Tensor) -> Tensor:
    """Return the flat indices of a plane, int64, ascending, on its device."""
    marks = np.unpackbits(plane.cpu().numpy(), bitorder="little")
    return torch.from_numpy(marks.nonzero()[0]).to(plane.device)
