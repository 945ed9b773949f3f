"""The tiers of a tensor's weights: indices of the largest (top) and smallest (bottom); the rest is the middle.

They are computed once, from the base weights before perturbation, and serve every expert and every step.
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
    """The flat indices of a tensor's largest and smallest weights; all others are the middle tier."""

    top: Tensor
    bottom: Tensor


def tier_size(weights: int, sparsity: float) -> int:
    """Return the size of the top tier, which is also that of the bottom tier: half the sparsity each."""
    return round(weights * sparsity / 2)


def tier_indices(weight_P: Tensor, sparsity: float) -> Tiers:
    """Return the sparsity/2 largest and the sparsity/2 smallest non-zero weights by magnitude, ties broken by index.

    Both index sets are empty for a constant tensor (a fresh LayerNorm, a zero bias) and for one with too few non-zero
    weights for two disjoint tiers. Indices are on the CPU, int64, ascending. Raises ModelError for weights that are not
    finite.
    """
    magnitude_P = flat_weights(weight_P).abs()
    if not bool(torch.isfinite(magnitude_P).all()):
        raise ModelError("cannot rank weights that are NaN or infinite; initialise the block before you wrap it.")
    nonzero = magnitude_P.nonzero().flatten()
    size = tier_size(magnitude_P.numel(), sparsity)
    empty = torch.empty(0, dtype=torch.int64)
    if size == 0 or len(nonzero) < 2 * size or bool((magnitude_P == magnitude_P[0]).all()):
        return Tiers(empty, empty)
    # A stable sort, because `>= kth value` would select every tied weight and break the exact count.
    top = torch.sort(magnitude_P, stable=True, descending=True).indices[:size]
    bottom = nonzero[torch.sort(magnitude_P[nonzero], stable=True).indices]
    # If ties span both tiers, the top tier keeps its weights.
    bottom = bottom[~torch.isin(bottom, top)][:size]
    return Tiers(top.sort().values, bottom.sort().values)


def flat_weights(weight: Tensor) -> Tensor:
    """Return the weights as one row on the CPU, float32 or wider, so that casting back changes none of them.

    A sharded tensor is gathered, so every process must call it.
    """
    return gathered(weight.detach()).flatten().to("cpu", torch.promote_types(weight.dtype, torch.float32))


def gathered(tensor: Tensor) -> Tensor:
    """Return the whole of a sharded tensor, which every process must ask for; any other as it is."""
    whole: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return whole


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor, without importing DTensor, which takes a second."""
    return hasattr(tensor, "device_mesh")


class TierIndices(nn.Module):
    """The tiers of each parameter of a block, as buffers: saved with the weights, moved with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._cache: dict[Hashable, Tiers] = {}

    def rank(self, parameters: Mapping[str, Tensor], sparsity: float) -> None:
        """Compute the tiers of these base weights, which then serve every expert and every step."""
        self.names = list(parameters)
        self._cache.clear()
        for place, weight in enumerate(parameters.values()):
            tiers = tier_indices(weight, sparsity)
            # A buffer name must not hold dots, so it names the parameter by its place. Empty buffers are not saved:
            # some formats take all tensors without storage for one shared tensor and drop the others.
            for tier, indices in tiers._asdict().items():
                self.register_buffer(f"{tier}_{place}", indices.to(weight.device), persistent=len(indices) > 0)

    def cached(self, name: str, key: Hashable, make: Callable[[Tiers], Tiers]) -> Tiers:
        """Return `make(tiers of the parameter)`, computed once for each key."""
        if key not in self._cache:
            self._cache[key] = make(self[name])
        return self._cache[key]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._cache.clear()  # the module moved to another device
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._cache.clear()
        super()._load_from_state_dict(*arguments)

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], sparsity: float) -> Self:
        """Return the tiers of these weights."""
        tiers = cls()
        tiers.rank(parameters, sparsity)
        return tiers

    def __getitem__(self, name: str) -> Tiers:
        place = self.names.index(name)
        top, bottom = self._buffers[f"top_{place}"], self._buffers[f"bottom_{place}"]
        assert top is not None
        assert bottom is not None
        return Tiers(top, bottom)

    def sizes(self, weights: int) -> dict[str, int]:
        """Return the number of weights of one expert in each tier. weights: in all."""
        top = sum(len(self[name].top) for name in self.names)
        bottom = sum(len(self[name].bottom) for name in self.names)
        return {"top": top, "bottom": bottom, "middle": weights - top - bottom}

    def hashes(self) -> dict[str, str]:
        """Return a short hash of the top and of the bottom index sets: equal in two runs that share their tiers."""
        digests = {"top": hashlib.sha256(), "bottom": hashlib.sha256()}
        for name in self.names:
            for tier, indices in zip(digests, self[name], strict=True):
                digests[tier].update(name.encode() + b"\0" + indices.cpu().numpy().tobytes())
        return {tier: digest.hexdigest()[:16] for tier, digest in digests.items()}
