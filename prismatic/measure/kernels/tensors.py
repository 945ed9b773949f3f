"""TensorGradients: the gradients of one parameter tensor in every expert, which all ways of summing take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.experts.planes import Planes
from prismatic.experts.tiers import Tiers

SUMS = ("top", "bottom", "middle", "product")
COLUMNS = len(SUMS) + 1  # and the number of entries that are NaN or infinite

Sums = NDArray[np.float64]
"""Sums of gradients, [E, COLUMNS] of a tensor: squares of each tier, and the product with the clean expert, which is
first. Of several tensors they follow each other, [R, COLUMNS]."""


class HasTiers(Protocol):
    """The tiers of a tensor in the form that a way of summing reads."""

    def indices(self) -> Tiers:
        """Return them as flat indices."""
        ...

    def planes(self, weights: int) -> Planes:
        """Return them as bit planes of a tensor of so many weights."""
        ...


class TensorGradients(NamedTuple):
    """The gradients of one parameter tensor in every expert, all of one shape or None, and its tiers."""

    gradients: Sequence[Tensor | None]
    tiers: HasTiers

    @property
    def present(self) -> Tensor | None:
        """The first gradient that is there and not empty, whose shape and device are those of all others."""
        found = next((grad for grad in self.gradients if grad is not None), None)
        return None if found is None or not found.numel() else found


def count_nonfinite(sums_R: Sums, grads_R: Sequence[Tensor | None]) -> None:
    """Write the number of entries that are not finite beside the sums of each gradient that has some."""
    broken_R = ~np.isfinite(sums_R[:, :3]).all(axis=1)
    for row in np.flatnonzero(broken_R).tolist():
        grad = grads_R[row]
        assert grad is not None, "a gradient that is not there has sums of zero"
        sums_R[row, -1] = float((~torch.isfinite(grad)).sum())


def at_least_single(grad: Tensor) -> Tensor:
    """Return the gradient as float32 or float64: a sum in float16 would overflow above 65504."""
    return grad.detach() if grad.dtype in (torch.float32, torch.float64) else grad.detach().float()
