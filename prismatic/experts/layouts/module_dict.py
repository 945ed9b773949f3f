"""A ModuleDict or ModuleList of blocks that is called with the chosen experts and weights: Switch, NLLB."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from prismatic.experts.found import FoundExperts, Stored
from prismatic.experts.layouts.calls import TopKCall


def find_module_dict(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer if the module's children with parameters are blocks of the same shapes."""
    if not isinstance(module, nn.ModuleDict | nn.ModuleList):
        return None
    call = TopKCall.of(module)
    blocks = [child for child in module.children() if [*child.parameters()]]
    if call is None or not (stored := stored_in_blocks(blocks)):
        return None
    return FoundExperts(module, path, "modules", len(blocks), stored, call, mixture="top_k")


def stored_in_blocks(blocks: Sequence[nn.Module]) -> list[Stored]:
    """Return where the tensors of two or more blocks of the same shapes are; none for other blocks."""
    shapes = [[(name, p.shape) for name, p in block.named_parameters()] for block in blocks]
    if len(blocks) < 2 or any(shape != shapes[0] for shape in shapes):
        return []
    return [
        Stored(name, block.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], expert)
        for expert, block in enumerate(blocks)
        for name, _ in block.named_parameters()
    ]
