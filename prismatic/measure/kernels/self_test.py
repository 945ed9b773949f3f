"""agree: a comparison with numpy of what a compiler made, before it is trusted with the gradients of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.experts.tiers import Tiers, tier_indices
from prismatic.measure.kernels.tensors import TensorGradients
from prismatic.measure.kernels.with_numpy import tier_sums_numpy

Found = NDArray[np.float64] | Tensor
KINDS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def agree(
    sums: Callable[[Sequence[TensorGradients]], Found | Sequence[Found]], device: str | torch.device = "cpu"
) -> bool:
    """Return whether sums are those of numpy, for gradients on a device in every type and layout.

    sums: a function that returns them for all tensors together, or one by one.
    """
    weight, *grads = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    tiers = tier_indices(weight, 0.1)
    dense = [[grad.to(kind) for grad in grads] for kind in KINDS]
    apart = [[torch.stack([grad, grad], dim=1)[:, 0] for grad in own] for own in dense]
    known = np.concatenate([tier_sums_numpy(TensorGradients(own, tiers)) for own in (*dense, *apart)])
    there = Tiers(*(indices.to(device) for indices in tiers))
    found = sums([TensorGradients([_there(grad, device) for grad in own], there) for own in (*dense, *apart)])
    rows = torch.cat([torch.as_tensor(one).cpu() for one in found]).reshape(known.shape).numpy()
    return np.allclose(rows, known, rtol=1e-5, atol=1e-2)


def _there(grad: Tensor, device: str | torch.device) -> Tensor:
    """Return the gradient on a device, with the distances between its elements."""
    moved = torch.empty_strided(grad.shape, grad.stride(), dtype=grad.dtype, device=device)
    return moved.copy_(grad)
