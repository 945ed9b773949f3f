"""Which entries of a model's tensors this process counts: of all processes, each entry is counted by exactly one.

Of a sharded tensor (FSDP2, a DTensor) that is the process's own shard, and of its replicas the first one; of a tensor
that every process holds whole (DDP) it is an equal slice, so that no process does all the work.
Axis letters: P weights of one tensor (flattened), Q those of them that this process counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prismatic.collectives import World, world
from prismatic.experts.tiers import TierIndices, Tiers, is_sharded


class Part(NamedTuple):
    """What this process counts of a parameter, and of every tensor that lies as the parameter does."""

    name: str
    shape: torch.Size
    start: int
    stop: int
    sharded: tuple[Any, tuple[Any, ...]] | None
    """The mesh and the placements of a sharded tensor."""

    def values(self, tensor: Tensor) -> Tensor:
        """[Q] of a tensor of the parameter's shape."""
        if is_sharded(tensor):
            tensor = tensor.to_local()  # type: ignore[attr-defined]
        flat_P = (tensor.to_dense() if tensor.is_sparse else tensor).detach().reshape(-1)
        return flat_P if self.stop - self.start == len(flat_P) else flat_P[self.start : self.stop]

    def tiers(self, tiers: TierIndices) -> Tiers:
        """The tiers of the parameter among the entries that are counted here, as indices into [Q]."""
        whole = tiers[self.name]
        if self.sharded is None and (self.start, self.stop) == (0, self.shape.numel()):
            return whole
        return tiers.remembered(self.name, self, self._tiers)

    def _tiers(self, whole: Tiers) -> Tiers:
        """Found on the whole tensor, the same for all processes, and then cut as the tensor is."""
        code_P = torch.zeros(self.shape.numel(), dtype=torch.uint8, device=whole.top.device)
        for code, indices in enumerate(whole, start=1):
            code_P[indices] = code
        if self.sharded is None:
            code_Q = code_P[self.start : self.stop]
        else:
            from torch.distributed.tensor import distribute_tensor

            # Every process has the tiers, so none needs to be sent any.
            local = distribute_tensor(code_P.view(self.shape), *self.sharded, src_data_rank=None).to_local()
            code_Q = local.reshape(-1)[self.start : self.stop]
        top, bottom = ((code_Q == code).nonzero().flatten() for code in (1, 2))
        return Tiers(top, bottom)


def parts_of(parameters: Mapping[str, Tensor]) -> list[Part]:
    """What this process counts of each parameter of an expert; known without asking the others."""
    return [_part_of(name, weight, world()) for name, weight in parameters.items()]


def _part_of(name: str, weight: Tensor, processes: World) -> Part:
    if is_sharded(weight):
        sharded = weight.device_mesh, tuple(weight.placements)  # type: ignore[attr-defined]
        return Part(name, weight.shape, 0, _own_numel(weight), sharded)
    count = weight.numel()
    start, stop = count * processes.rank // processes.size, count * (processes.rank + 1) // processes.size
    return Part(name, weight.shape, start, stop, None)


def _own_numel(tensor: Any) -> int:
    """How many entries of a DTensor this process counts: its shard, or none where another replica's is counted."""
    place = tensor.device_mesh.get_coordinate()
    first = place is not None and all(
        where == 0 for where, how in zip(place, tensor.placements, strict=True) if how.is_replicate()
    )
    # A mesh without the first process is a replica of the one with it.
    counted = first and bool((tensor.device_mesh.mesh == 0).any())
    return int(tensor.to_local().numel()) if counted else 0
