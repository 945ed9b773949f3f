"""The part of each tensor that this process counts, so that exactly one process counts each entry (DDP, FSDP2).

For a sharded tensor (a DTensor) the part is the process's own shard, counted in the first replica only. For a tensor
that every process holds whole it is an equal slice, so that no process does all the work. Experts that lie in different
processes are measured where they are; to be compared with each other, every process fetches an equal slice of each.
Axis letters: P weights of one tensor (flattened), Q those of them that this process counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from prismatic.collectives import World, world
from prismatic.experts.planes import Planes
from prismatic.experts.tiers import TierIndices, Tiers, is_sharded, other_size
from prismatic.experts.views import View


class Part(NamedTuple):
    """The part of one tensor of an expert that this process counts, and of any tensor laid out like its parameter."""

    view: View
    shape: torch.Size
    """Of the whole tensor of the expert."""
    start: int
    stop: int
    sharded: tuple[Any, tuple[Any, ...]] | None
    """The mesh and the placements of a sharded tensor that belongs to this expert alone."""
    held: bool | None = None
    """Of a tensor of all experts that is sharded: True if this process is the one to count this expert."""
    fetched: bool = False
    """True if another process may have the entries, see `entries_of`."""

    @property
    def name(self) -> str:
        """The name of the tensor."""
        return self.view.name

    def values(self, tensor: Tensor) -> Tensor:
        """Return the entries [Q] of a tensor laid out like the parameter, or of one of the expert's own shape."""
        return self.stored(tensor).reshape(-1)

    def stored(self, tensor: Tensor) -> Tensor:
        """Return the same without a copy: a tensor that is counted whole keeps its shape, and lies where it does.

        Raises ModelError if the tensor has another size than the weights had when this part was planned.
        """
        if self.view.expert is not None and (is_sharded(tensor) or tensor.shape != self.shape):
            own = self.view.of(tensor)
            if own is None:
                return tensor.to_local().new_empty(0)  # type: ignore[attr-defined]
            tensor = own
        if tensor.numel() != self.shape.numel():
            raise other_size(self.name, tensor.numel(), self.shape.numel())
        if is_sharded(tensor):
            tensor = tensor.to_local()  # type: ignore[attr-defined]
        dense = tensor.to_dense() if tensor.is_sparse else tensor
        return dense if self.stop - self.start == dense.numel() else dense.reshape(-1)[self.start : self.stop]

    def tiers(self, tiers: TierIndices) -> Tiers:
        """Return the parameter's tiers among the entries that are counted here, as indices into [Q]."""
        if self.stop == self.start:
            return Tiers.none()
        tiers.refuse_other_size(self.name, self.shape.numel())
        if self.is_whole:
            return tiers.indices(self.name)
        return tiers.cached(self.name, (self.name, self.start, self.stop, self.sharded), self._tiers)

    def planes(self, tiers: TierIndices) -> Planes:
        """Return the same as bit planes."""
        tiers.refuse_other_size(self.name, self.shape.numel())
        if self.is_whole:
            return tiers.planes(self.name, self.stop)
        key = ("planes", self.name, self.start, self.stop, self.sharded)
        return tiers.cached(self.name, key, lambda whole: self._tiers(whole).planes(self.stop - self.start))

    @property
    def is_whole(self) -> bool:
        """True if it is all of a tensor that is not sharded."""
        return self.sharded is None and (self.start, self.stop) == (0, self.shape.numel())

    def _tiers(self, whole: Tiers) -> Tiers:
        """Mark the tiers on the whole tensor and shard the marks as the tensor is."""
        code_P = torch.zeros(self.shape.numel(), dtype=torch.uint8, device=whole.top.device)
        for code, indices in enumerate(whole, start=1):
            code_P[indices] = code
        if self.sharded is None:
            code_Q = code_P[self.start : self.stop]
        else:
            from torch.distributed.tensor import distribute_tensor

            # Every process has the tiers, so nothing needs to be sent.
            local = distribute_tensor(code_P.view(self.shape), *self.sharded, src_data_rank=None).to_local()
            code_Q = local.reshape(-1)[self.start : self.stop]
        top, bottom = ((code_Q == code).nonzero().flatten() for code in (1, 2))
        return Tiers(top, bottom)


class PartTiers:
    """The tiers of a part, in the form that is asked for."""

    def __init__(self, part: Part, tiers: TierIndices):
        self.part = part
        self.tiers = tiers
        self.prepared: object = None
        """The work that a way of summing keeps for the next step, with the first tensor of a step."""
        self._planes: tuple[int, Planes] | None = None
        self._weights = part.stop - part.start

    @property
    def name(self) -> str:
        """The name of the tensor."""
        return self.part.name

    def indices(self, weights: int) -> Tiers:
        """Return them as flat indices; ModelError if the part has another number of weights."""
        self._refuse_other_size(weights)
        return self.part.tiers(self.tiers)

    def planes(self, weights: int) -> Planes:
        """Return the same as bit planes, looked up once for each version of the tiers: every step asks for them."""
        self._refuse_other_size(weights)
        if self._planes is None or self._planes[0] != self.tiers.version:
            planes = self.part.planes(self.tiers)
            self._planes = self.tiers.version, planes
        return self._planes[1]

    def _refuse_other_size(self, weights: int) -> None:
        if weights != self._weights:
            raise other_size(self.name, weights, self._weights)


def parts_of(views: Mapping[str, View], *, compared: bool = False) -> list[Part]:
    """Return the part of each tensor of an expert that this process counts, without any communication.

    compared: the entries will be compared with those of other experts, so that they must be the same of each.
    """
    processes = world()
    return [_part_of(view, processes, compared) for view in views.values()]


def are_apart(views: Mapping[str, View]) -> bool:
    """Return whether a tensor of this expert lies in one process, and that of another expert perhaps elsewhere."""
    return any(view.expert is not None and is_sharded(view.parameter) for view in views.values())


def entries_of(
    parts: Sequence[Part], tensors: Mapping[str, Tensor | None], *, stored: bool = False
) -> list[Tensor | None]:
    """Return the entries [Q] of each part from the expert's tensors by name; None for a tensor that is None.

    stored: return them as they are stored, see `Part.stored`.

    Entries that this process lacks are fetched by one all_reduce, so every process must call it.
    """
    fetched = iter(_fetched([part for part in parts if part.fetched], tensors))
    entries: list[Tensor | None] = []
    for part in parts:
        own = tensors.get(part.name)
        if part.fetched:
            entries.append(next(fetched))
        else:
            entries.append(None if own is None else part.stored(own) if stored else part.values(own))
    return entries


def _fetched(parts: Sequence[Part], tensors: Mapping[str, Tensor | None]) -> list[Tensor | None]:
    """Return this process's slice of each tensor, which one process holds whole; None if that process has none."""
    if not parts:
        return []
    weights = [part.view.parameter for part in parts]
    # The same in every process, whatever it holds; at least single, because gradients may be wider than weights.
    kind, device = torch.promote_types(weights[0].dtype, torch.float32), weights[0].device
    joined = torch.zeros(sum(part.shape.numel() for part in parts) + len(parts), dtype=kind, device=device)
    *rows, present = joined.split([*(part.shape.numel() for part in parts), len(parts)])
    for place, (part, row) in enumerate(zip(parts, rows, strict=True)):
        tensor = tensors.get(part.name)
        own = part.view.of(tensor) if tensor is not None and tensor.shape != part.shape else tensor
        if part.held and own is not None:
            row.view(part.shape).copy_(own.detach())
            present[place] = 1
    dist.all_reduce(joined)
    slices = [row[part.start : part.stop].clone() for part, row in zip(parts, rows, strict=True)]
    return [own if there else None for own, there in zip(slices, present.tolist(), strict=True)]


def _part_of(view: View, processes: World, compared: bool) -> Part:
    weight, shape = view.parameter, view.shape
    apart = is_sharded(weight) and view.expert is not None
    held = apart and view.of(weight.detach()) is not None and _own_numel(weight) > 0
    if apart and not compared:
        return Part(view, shape, 0, shape.numel() if held else 0, None, held)
    if is_sharded(weight) and not apart:
        sharded = weight.device_mesh, tuple(weight.placements)  # type: ignore[attr-defined]
        return Part(view, shape, 0, _own_numel(weight), sharded)
    count = shape.numel()
    start, stop = count * processes.rank // processes.size, count * (processes.rank + 1) // processes.size
    return Part(view, shape, start, stop, None, held if apart else None, fetched=apart)


def _own_numel(tensor: Any) -> int:
    """Return the number of entries of a DTensor that this process counts: its shard, or 0 if another replica does."""
    coordinate = tensor.device_mesh.get_coordinate()
    first = coordinate is not None and all(
        index == 0 for index, placement in zip(coordinate, tensor.placements, strict=True) if placement.is_replicate()
    )
    # A mesh without rank 0 is a replica of the mesh with rank 0.
    is_first_replica = first and bool((tensor.device_mesh.mesh == 0).any())
    return int(tensor.to_local().numel()) if is_first_replica else 0
