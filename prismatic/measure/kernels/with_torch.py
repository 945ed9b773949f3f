"""Tier sums on a GPU by torch: a few kernels per tensor are queued, and nothing is read back."""

from __future__ import annotations

import torch
from torch import Tensor

from prismatic.measure.kernels.tensors import SUMS, TensorGradients, at_least_single


def tier_sums_gpu(tensor: TensorGradients) -> Tensor:
    """Return the sums of a tensor as [E, len(SUMS)] float64 on its device, without waiting for them."""
    if tensor.present is None:
        return torch.zeros(len(tensor.gradients), len(SUMS), dtype=torch.float64)
    rows = torch.zeros(len(tensor.gradients), len(SUMS), dtype=torch.float64, device=tensor.present.device)
    tiers = tensor.tiers.indices()
    present = [expert for expert, grad in enumerate(tensor.gradients) if grad is not None]
    grads_EP = torch.stack([at_least_single(g).reshape(-1) for g in tensor.gradients if g is not None])
    # Scale each expert by its largest entry: float32 products would over- or underflow long before the norms do.
    largest_E1 = grads_EP.abs().amax(1, keepdim=True)
    largest_E1 = torch.where(largest_E1 > 0, largest_E1, 1.0)
    unit_EP = grads_EP / largest_E1
    # Expert 0, if it has a gradient, is the first of those present.
    clean_P = unit_EP[0] if present[0] == 0 else torch.zeros_like(unit_EP[0])
    products = (unit_EP * clean_P).sum(1, dtype=torch.float64) * (largest_E1.double() * largest_E1[0].double())[:, 0]
    ends = [grads_EP.index_select(1, indices).double().square().sum(1) for indices in tiers]
    # The ends are zeroed in this copy, so that the middle is summed and not subtracted.
    grads_EP.index_fill_(1, torch.cat(list(tiers)), 0.0)
    middle = torch.linalg.vector_norm(grads_EP, dim=1, dtype=torch.float64).square()
    for place, sums in zip(present, torch.stack([*ends, middle, products], dim=1), strict=True):
        rows[place] = sums
    return rows
