"""Which weights of a tensor are its top, its bottom and its middle tier, and where that is kept.

Computed once, from the base weights before perturbation: the same index sets serve every expert and every step.
Axis letter: P weights of one tensor (flattened).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

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
    magnitude_P = flat(weight_P).abs()
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


def flat(weight: Tensor) -> Tensor:
    """The weights as one row on the CPU, wide enough that casting back changes none of them.

    A tensor that is sharded over processes is gathered, so every one of them must ask.
    """
    whole = weight.detach()
    if is_sharded(whole):
        whole = whole.full_tensor()  # type: ignore[attr-defined]
    return whole.flatten().to("cpu", torch.promote_types(weight.dtype, torch.float32))


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, told without importing them, which takes a second."""
    return hasattr(tensor, "device_mesh")


class TierIndices(nn.Module):
    """The tiers of each parameter of a block, as buffers: saved with the weights, moved with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._remembered: dict[Hashable, Tiers] = {}

    def rank(self, parameters: Mapping[str, Tensor], sparsity: float) -> None:
        """Compute the tiers of these base weights; every expert and every step is measured by them."""
        self.names = list(parameters)
        self._remembered.clear()
        for place, weight in enumerate(parameters.values()):
            tiers = tier_indices(weight, sparsity)
            # Buffer names must not hold dots, so a parameter is known here by its place. Empty ones are not saved:
            # some formats take all tensors without storage for one shared tensor and drop the others.
            for tier, indices in tiers._asdict().items():
                self.register_buffer(f"{tier}_{place}", indices.to(weight.device), persistent=len(indices) > 0)

    def remembered(self, name: str, key: Hashable, make: Callable[[Tiers], Tiers]) -> Tiers:
        """What `make` makes of a parameter's tiers, made once for every key."""
        if key not in self._remembered:
            self._remembered[key] = make(self[name])
        return self._remembered[key]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._remembered.clear()  # moved to another device
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._remembered.clear()
        super()._load_from_state_dict(*arguments)

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], sparsity: float) -> Self:
        """The tiers of these weights."""
        tiers = cls()
        tiers.rank(parameters, sparsity)
        return tiers

    def __getitem__(self, name: str) -> Tiers:
        place = self.names.index(name)
        return Tiers(self.get_buffer(f"top_{place}"), self.get_buffer(f"bottom_{place}"))

    def sizes(self, block: nn.Module) -> dict[str, int]:
        """How many weights of one expert each tier holds."""
        top = sum(len(self[name].top) for name in self.names)
        bottom = sum(len(self[name].bottom) for name in self.names)
        return {"top": top, "bottom": bottom, "middle": sum(w.numel() for w in block.parameters()) - top - bottom}

    def hashes(self) -> dict[str, str]:
        """A short hash of the top and of the bottom index sets: equal in two runs that share their tiers."""
        digests = {"top": hashlib.sha256(), "bottom": hashlib.sha256()}
        for name in self.names:
            for tier, indices in zip(digests, self[name], strict=True):
                digests[tier].update(name.encode() + b"\0" + indices.cpu().numpy().tobytes())
        return {tier: digest.hexdigest()[:16] for tier, digest in digests.items()}
