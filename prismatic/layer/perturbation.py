"""The perturbation of an expert's weights: which are changed, and by how much (noise, attractive, repulsive).

Pure functions of tensor, options and seed. They compute on the CPU in float32 (float64 for float64 weights) and cast
afterwards, so that all devices and dtypes agree.
Axis letters: P weights of one tensor (flattened), K weights of one tier.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from prismatic.experts.tiers import Tiers, flat_weights
from prismatic.layer.config import Mode, Strategy


def noise_seed(seed: int, *names: object) -> int:
    """Return a seed for one named tensor, so that noise does not depend on the order of the parameters."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def perturb(
    weight: Tensor, tiers: Tiers, *, scale: float, mode: Mode = "noise", strategy: Strategy = "dual_sided", seed: int
) -> Tensor:
    """Return a copy of `weight` with the selected weights changed by up to `scale` times their own magnitude.

    noise: w + scale |w| u, u uniform in [-1, 1). attractive: large weights shrink and small ones grow, by scale |w|.
    repulsive: large weights grow and small ones shrink. The copy has the shape, dtype and device of `weight`.
    """
    generator = torch.Generator().manual_seed(seed)
    large, small = _selected(weight, tiers, strategy, generator)
    flat_P = flat_weights(weight).clone()
    for indices, growth in ((large, -1.0), (small, 1.0)):
        if mode == "noise":
            change = (2 * torch.rand(len(indices), generator=generator) - 1) * flat_P[indices].abs()
        else:
            change = flat_P[indices] * (growth if mode == "attractive" else -growth)
        flat_P[indices] += scale * change
    return flat_P.view(weight.shape).to(weight)


def _selected(weight: Tensor, tiers: Tiers, strategy: Strategy, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the indices to perturb, as (large, small)."""
    none = tiers.top[:0]
    if strategy == "random":
        # As many weights as dual_sided takes, anywhere in the tensor; the larger half of them counts as large.
        count = len(tiers.top) + len(tiers.bottom)
        chosen = torch.randperm(weight.numel(), generator=generator)[:count]
        by_size = chosen[flat_weights(weight)[chosen].abs().sort(stable=True).indices]
        return by_size[count // 2 :], by_size[: count // 2]
    return (none if strategy == "bottom_only" else tiers.top), (none if strategy == "top_only" else tiers.bottom)
