"""The ways to make experts differ: the documented perturbation, noise, and units that are re-initialised.

copy: sparse upcycling, Komatsuzaki et al. 2023 (arXiv 2212.05055). drop: Drop-Upcycling, Nakamura et al. 2025
(arXiv 2502.19261). Pure functions; they compute on the CPU in float32 (float64 for float64 weights).
Axis letters: F intermediate units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from prismatic.experts.tiers import TierIndices, Tiers
from prismatic.layer.config import Mode, Strategy
from prismatic.layer.perturbation import noise_seed, perturb
from prismatic.mixtures.canonical import canonical_names, is_turned, turned, turned_tiers

Method = Literal["copy", "noise", "drop"]
METHODS: tuple[str, ...] = get_args(Method)
Seed = tuple[int, int, int]
"""The seed of the experiment, the number of the layer, and that of the expert."""


def perturbed(
    weights: Mapping[str, Tensor],
    tiers: TierIndices,
    *,
    scale: float,
    seed: Seed,
    mode: Mode = "noise",
    strategy: Strategy = "dual_sided",
) -> dict[str, Tensor]:
    """Return a block's weights perturbed as documented, on their tiers. scale, mode, strategy: see `RouterConfig`."""
    canonical = canonical_names(weights)

    def one(name: str, weight: Tensor) -> Tensor:
        turn = is_turned(weight)
        places = Tiers(*(indices.cpu() for indices in tiers[name]))
        places = turned_tiers(places, weight.shape) if turn else places
        own = noise_seed(*seed, canonical[name])
        after = perturb(turned(weight) if turn else weight, places, scale=scale, mode=mode, strategy=strategy, seed=own)
        return turned(after) if turn else after

    return {name: one(name, weight) for name, weight in weights.items()}


def with_noise(weights: Mapping[str, Tensor], *, noise: float, seed: Seed) -> dict[str, Tensor]:
    """Return a block's weights with Gaussian noise. noise: its standard deviation, as a share of the tensor's own."""
    canonical = canonical_names(weights)

    def one(name: str, weight: Tensor) -> Tensor:
        turn = is_turned(weight)
        base = _wide(turned(weight) if turn else weight)
        drawn = torch.randn(base.shape, generator=_generator(seed, canonical[name]), dtype=base.dtype)
        after = base + noise * base.std(correction=0) * drawn
        return (turned(after) if turn else after).to(weight)

    return {name: one(name, weight) for name, weight in weights.items()}


def partly_dropped(
    weights: Mapping[str, Tensor], unit_axes: Mapping[str, int], *, share: float, seed: Seed
) -> dict[str, Tensor]:
    """Return a block's weights with a share of its intermediate units re-initialised.

    The units are the same in all tensors. What replaces the removed weights of a tensor is normally distributed, with
    their mean and standard deviation. unit_axes: by tensor, the axis of the units.
    """
    canonical = canonical_names(weights)
    name, axis = next(iter(unit_axes.items()))
    units_F = torch.randperm(weights[name].shape[axis], generator=_generator(seed, "units"))
    dropped = units_F[: int(share * len(units_F))]

    def one(name: str, weight: Tensor) -> Tensor:
        if name not in unit_axes or not len(dropped):
            return weight
        after = _wide(weight).movedim(unit_axes[name], 0).clone()
        removed = after[dropped]
        drawn = torch.randn(removed.shape, generator=_generator(seed, canonical[name]), dtype=removed.dtype)
        after[dropped] = removed.mean() + removed.std(correction=0) * drawn
        return after.movedim(0, unit_axes[name]).to(weight)

    return {name: one(name, weight) for name, weight in weights.items()}


def fresh_router(shape: torch.Size, *, std: float, seed: int, layer: int) -> Tensor:
    """Return the weights of a new router, normally distributed, by seed and layer alone."""
    return std * torch.randn(shape, generator=_generator((seed, layer, 0), "router"))


def _wide(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.promote_types(weight.dtype, torch.float32))


def _generator(seed: Seed, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(noise_seed(*seed, name))
