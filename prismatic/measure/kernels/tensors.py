"""TensorGradients: the gradients of one parameter tensor in every expert, which all ways of summing take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.errors import ModelError
from prismatic.experts.planes import Planes
from prismatic.experts.tiers import Tiers

SUMS = ("top", "bottom", "middle", "product")
COLUMNS = len(SUMS) + 1  # and the number of entries that are NaN or infinite

Sums = NDArray[np.float64]
"""Sums of gradients, [E, COLUMNS] of a tensor: squares of each tier, and the product with the clean expert, which is
first. Of several tensors they follow each other, [R, COLUMNS]."""


class HasTiers(Protocol):
    """The tiers of a tensor in the form that a way of summing reads.

    Both forms are asked for with the number of weights of the gradient. They raise ModelError if the tiers are those of
    a tensor of another size, beyond whose end they would be read.
    """

    @property
    def name(self) -> str:
        """The name of the tensor, for messages."""
        ...

    def indices(self, weights: int) -> Tiers:
        """Return them as flat indices."""
        ...

    def planes(self, weights: int) -> Planes:
        """Return them as bit planes."""
        ...


class TensorGradients(NamedTuple):
    """The gradients of one parameter tensor in every expert, all of one shape or None, and its tiers."""

    gradients: Sequence[Tensor | None]
    tiers: HasTiers

    @property
    def present(self) -> Tensor | None:
        """The first gradient that is there, unless it is empty."""
        found = next((grad for grad in self.gradients if grad is not None), None)
        return None if found is None or not found.numel() else found

    def checked(self) -> Tensor | None:
        """Return the same, whose shape all others have: kernels read as far as it says, and no further.

        Raises ModelError if one has another shape, or holds complex numbers, whose imaginary half no kernel reads.
        """
        grads = [grad for grad in self.gradients if grad is not None]
        shapes = sorted({tuple(grad.shape) for grad in grads})
        if len(shapes) > 1:
            raise ModelError(
                f"the gradients of {self.tiers.name} have the shape {shapes[0]} in one expert and {shapes[1]} in "
                "another of its layer. Only experts of the same shapes can be compared: resize all, in a new run."
            )
        if any(grad.is_complex() for grad in grads):
            raise ModelError(
                f"the gradients of {self.tiers.name} are complex numbers, for which norms and tiers are not defined. "
                "Store the real and the imaginary part as a last dimension of 2, see torch.view_as_complex."
            )
        return self.present


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
