"""The tiers of a tensor's weights: indices of the largest (top) and smallest (bottom); the rest is the middle.

They are computed once, from the base weights before perturbation, and serve every expert and every step. Compiled code
reads them as bit planes, which take less memory than indices.
Axis letter: P weights of one tensor (flattened).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from prismatic.errors import ModelError
from prismatic.experts.planes import Planes, as_plane, from_plane

T = TypeVar("T")
_PLAIN = {Tensor, nn.Parameter}  # known at once, while a missing attribute costs half a microsecond


class Tiers(NamedTuple):
    """The flat indices of a tensor's largest and smallest weights; all others are the middle tier."""

    top: Tensor
    bottom: Tensor

    @classmethod
    def none(cls) -> Tiers:
        """Return the tiers of a tensor that has none: all of it is middle."""
        return cls(*torch.empty(2, 0, dtype=torch.int64))

    @property
    def name(self) -> str:
        """The name of the tensor, which bare tiers do not know."""
        return "a tensor"

    def indices(self, weights: int) -> Tiers:
        """Return the tiers themselves, as any other holder of tiers does; ModelError if they need more weights."""
        needed = max((int(own[-1]) + 1 for own in self if len(own)), default=0)
        if needed > weights:
            raise other_size(self.name, weights, f"at least {needed}")
        return self

    def planes(self, weights: int) -> Planes:
        """Return the tiers of a tensor of so many weights as bit planes, both of them or none."""
        self.indices(weights)
        if not len(self.top) and not len(self.bottom):
            return Planes(*torch.empty(2, 0, dtype=torch.uint8, device=self.top.device))
        return Planes(as_plane(self.top, weights), as_plane(self.bottom, weights))


def other_size(name: str, weights: int, ranked: int | str) -> ModelError:
    """Return the error to raise for a tensor that has other weights than its tiers were made of."""
    return ModelError(
        f"{name} has {weights} weights, and its tiers were made of {ranked}. Tiers are fixed at the start and mean "
        "nothing for other weights: log the resized model in a new process, as a run of its own."
    )


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
    if size == 0 or len(nonzero) < 2 * size or bool((magnitude_P == magnitude_P[0]).all()):
        return Tiers.none()
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
    return type(tensor) not in _PLAIN and hasattr(tensor, "device_mesh")


class TierIndices(nn.Module):
    """The tiers of each parameter of a block, as buffers: moved with the model, and saved with the weights.

    saved: True if the tiers are part of a model, whose checkpoints hold the indices. Otherwise the indices are given up
    for bit planes once those are asked for.
    """

    saved = True  # of a pickled model from before there were planes
    version = 0
    """A count of the changes of the tiers, or of the device they are on."""
    ranked: Mapping[str, int] = MappingProxyType({})  # of a pickled model from before it was known
    """The number of weights of each tensor whose tiers these are."""

    def __init__(self, *, saved: bool = True) -> None:
        super().__init__()
        self.names: list[str] = []
        self.saved = saved
        self._cache: dict[Hashable, Any] = {}

    def _changed(self) -> None:
        self.version += 1
        self._cache.clear()

    def rank(self, parameters: Mapping[str, Tensor], sparsity: float) -> None:
        """Compute the tiers of these base weights, which then serve every expert and every step."""
        self.names = list(parameters)
        self.ranked = {name: weight.numel() for name, weight in parameters.items()}
        self._changed()
        self._buffers.clear()
        for place, weight in enumerate(parameters.values()):
            tiers = tier_indices(weight, sparsity)
            # In a model, which holds them for as long as it lives, 4 bytes an index are enough for most tensors.
            kind = torch.int32 if self.saved and weight.numel() < 1 << 31 else torch.int64
            # A buffer name must not hold dots, so it names the parameter by its place. Empty buffers are not saved:
            # some formats take all tensors without storage for one shared tensor and drop the others.
            for tier, indices in tiers._asdict().items():
                self.register_buffer(f"{tier}_{place}", indices.to(weight.device, kind), persistent=len(indices) > 0)

    def refuse_other_size(self, name: str, weights: int) -> None:
        """Raise ModelError if the tiers of a tensor were made when it had another number of weights."""
        ranked = self.ranked.get(name, weights)
        if ranked != weights:
            raise other_size(name, weights, ranked)

    def cached(self, name: str, key: Hashable, make: Callable[[Tiers], T]) -> T:
        """Return `make(tiers of the parameter)`, computed once for each key."""
        if key not in self._cache:
            self._cache[key] = make(self[name])
        found: T = self._cache[key]
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._changed()  # the module moved to another device
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._changed()
        super()._load_from_state_dict(*arguments)

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], sparsity: float, *, saved: bool = True) -> Self:
        """Return the tiers of these weights."""
        tiers = cls(saved=saved)
        tiers.rank(parameters, sparsity)
        return tiers

    def __getitem__(self, name: str) -> Tiers:
        place = self.names.index(name)
        return Tiers(self._indices(f"top_{place}"), self._indices(f"bottom_{place}"))

    def _indices(self, buffer: str) -> Tensor:
        indices = self._buffers.get(buffer)
        if indices is not None:
            return indices.long()
        plane = self._buffers[f"{buffer}_plane"]
        assert plane is not None
        return from_plane(plane)

    def indices(self, name: str) -> Tiers:
        """Return the tiers of the parameter, int64, and keep them for the next call."""
        return self.cached(name, ("indices", name), lambda tiers: tiers)

    def planes(self, name: str, weights: int) -> Planes:
        """Return the tiers of the parameter, which has so many weights, as bit planes, made when first asked for."""
        if self.saved:
            return self.cached(name, ("planes", name), lambda tiers: tiers.planes(weights))
        top, bottom = (f"{tier}_{self.names.index(name)}" for tier in Tiers._fields)
        if top in self._buffers:
            for buffer, plane in zip((top, bottom), self[name].planes(weights), strict=True):
                del self._buffers[buffer]
                self.register_buffer(f"{buffer}_plane", plane, persistent=False)
        return Planes(*(self._buffers[f"{buffer}_plane"] for buffer in (top, bottom)))  # type: ignore[arg-type]

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
