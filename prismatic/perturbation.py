"""Which weights are perturbed and by how much: pure functions of (tensor, options, seed).

Everything is computed on the CPU in float32 (float64 for float64 weights) and cast afterwards, so that devices and
dtypes agree.
Axis letters: P weights of one tensor (flattened), K weights of one tier.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from prismatic.config import Mode, Strategy
from prismatic.errors import ModelError


class Tiers(NamedTuple):
    """Flat indices of a tensor's largest and smallest weights; the middle is all the rest."""

    top: Tensor
    bottom: Tensor


def tier_size(weights: int, sparsity: float) -> int:
    """How many of `weights` weights are in the top tier, and how many in the bottom tier: half the sparsity each."""
    return round(weights * sparsity / 2)


def tier_indices(weight_P: Tensor, sparsity: float) -> Tiers:
    """The sparsity/2 largest and the sparsity/2 smallest non-zero magnitudes, exact counts, ties broken by index.

    A tensor with nothing to rank (constant, such as a fresh LayerNorm or a zero bias) or with too few non-zero weights
    for two disjoint tiers is all middle: both index sets are empty. Returned on the CPU, int64, ascending.
    Raises ModelError for weights that are not finite.
    """
    magnitude_P = _flat(weight_P).abs()
    if not bool(torch.isfinite(magnitude_P).all()):
        raise ModelError("cannot rank weights that are NaN or infinite; initialise the block before it is wrapped.")
    nonzero = magnitude_P.nonzero().flatten()
    size = tier_size(magnitude_P.numel(), sparsity)
    empty = torch.empty(0, dtype=torch.int64)
    if size == 0 or len(nonzero) < 2 * size or bool((magnitude_P == magnitude_P[0]).all()):
        return Tiers(empty, empty)
    # A stable sort, not a threshold: `>= kth value` would mark every tied weight and break the exact count.
    top = torch.sort(magnitude_P, stable=True, descending=True).indices[:size]
    bottom = nonzero[torch.sort(magnitude_P[nonzero], stable=True).indices]
    # With ties across the whole range the two ends could meet; the top keeps its weights.
    bottom = bottom[~torch.isin(bottom, top)][:size]
    return Tiers(top.sort().values, bottom.sort().values)


def _flat(weight: Tensor) -> Tensor:
    """The weights as one row on the CPU, wide enough that casting back changes none of them."""
    return weight.detach().flatten().to("cpu", torch.promote_types(weight.dtype, torch.float32))


def noise_seed(seed: int, *names: object) -> int:
    """A seed for one named tensor, so that noise does not depend on the order in which parameters are visited."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def perturb(
    weight: Tensor, tiers: Tiers, *, scale: float, mode: Mode = "noise", strategy: Strategy = "dual_sided", seed: int
) -> Tensor:
    """A copy of `weight` with its selected weights changed by up to `scale` times their own magnitude.

    noise: w + scale |w| u, u uniform in [-1, 1). attractive: the large shrink and the small grow, each by scale |w|.
    repulsive: the large grow and the small shrink. Same shape, dtype and device as `weight`.
    """
    generator = torch.Generator().manual_seed(seed)
    large, small = _selected(weight, tiers, strategy, generator)
    flat_P = _flat(weight).clone()
    for indices, growth in ((large, -1.0), (small, 1.0)):
        if mode == "noise":
            change = (2 * torch.rand(len(indices), generator=generator) - 1) * flat_P[indices].abs()
        else:
            change = flat_P[indices] * (growth if mode == "attractive" else -growth)
        flat_P[indices] += scale * change
    return flat_P.view(weight.shape).to(weight)


def _selected(weight: Tensor, tiers: Tiers, strategy: Strategy, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The indices to perturb, as (large, small)."""
    none = tiers.top[:0]
    if strategy == "random":
        # As many weights as dual_sided would take, anywhere; the larger half of them counts as large.
        count = len(tiers.top) + len(tiers.bottom)
        chosen = torch.randperm(weight.numel(), generator=generator)[:count]
        by_size = chosen[_flat(weight)[chosen].abs().sort(stable=True).indices]
        return by_size[count // 2 :], by_size[: count // 2]
    return (none if strategy == "bottom_only" else tiers.top), (none if strategy == "top_only" else tiers.bottom)
