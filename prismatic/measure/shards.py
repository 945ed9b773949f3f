"""The part of each tensor that this process counts, so that exactly one process counts each entry (DDP, FSDP2).

For a sharded tensor (a DTensor) the part is the process's own shard, counted in the first replica only. For a tensor
that every process holds whole it is an equal slice, so that no process does all the work.
Axis letters: P weights of one tensor (flattened), Q those of them that this process counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prismatic.collectives import World, world
from prismatic.experts.tiers import TierIndices, Tiers, is_sharded
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

    @property
    def name(self) -> str:
        """The name of the tensor."""
        return self.view.name

    def values(self, tensor: Tensor) -> Tensor:
        """Return the entries [Q] of a tensor laid out like the parameter, or of one of the expert's own shape."""
        if self.view.expert is not None and (is_sharded(tensor) or tensor.shape != self.shape):
            own = self.view.of(tensor)
            if own is None:
                return tensor.to_local().new_empty(0)  # type: ignore[attr-defined]
            tensor = own
        elif is_sharded(tensor):
            tensor = tensor.to_local()  # type: ignore[attr-defined]
        flat_P = (tensor.to_dense() if tensor.is_sparse else tensor).detach().reshape(-1)
        return flat_P if self.stop - self.start == len(flat_P) else flat_P[self.start : self.stop]

    def tiers(self, tiers: TierIndices) -> Tiers:
        """Return the parameter's tiers among the entries that are counted here, as indices into [Q]."""
        if self.stop == self.start:
            empty = torch.empty(0, dtype=torch.int64)
            return Tiers(empty, empty)
        whole = tiers[self.name]
        if self.sharded is None and (self.start, self.stop) == (0, self.shape.numel()):
            return whole
        return tiers.cached(self.name, (self.name, self.start, self.stop, self.sharded), self._tiers)

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


def parts_of(views: Mapping[str, View]) -> list[Part]:
    """Return the part of each tensor of an expert that this process counts, without any communication."""
    return [_part_of(view, world()) for view in views.values()]


def _part_of(view: View, processes: World) -> Part:
    weight, shape = view.parameter, view.shape
    if is_sharded(weight) and view.expert is not None:
        held = view.of(weight.detach()) is not None and _own_numel(weight) > 0
        return Part(view, shape, 0, shape.numel() if held else 0, None)
    if is_sharded(weight):
        sharded = weight.device_mesh, tuple(weight.placements)  # type: ignore[attr-defined]
        return Part(view, shape, 0, _own_numel(weight), sharded)
    count = shape.numel()
    start, stop = count * processes.rank // processes.size, count * (processes.rank + 1) // processes.size
    return Part(view, shape, start, stop, None)


def _own_numel(tensor: Any) -> int:
    """Return the number of entries of a DTensor that this process counts: its shard, or 0 if another replica does."""
    coordinate = tensor.device_mesh.get_coordinate()
    first = coordinate is not None and all(
        index == 0 for index, placement in zip(coordinate, tensor.placements, strict=True) if placement.is_replicate()
    )
    # A mesh without rank 0 is a replica of the mesh with rank 0.
    is_first_replica = first and bool((tensor.device_mesh.mesh == 0).any())
    return int(tensor.to_local().numel()) if is_first_replica else 0
