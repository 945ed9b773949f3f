"""A ModuleDict or ModuleList of blocks that is called with the chosen experts and weights: Switch, NLLB."""

from __future__ import annotations

from torch import nn

from prismatic.experts.found import FoundExperts, Stored
from prismatic.experts.layouts.calls import TopKCall


def find_module_dict(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer if the module's children with parameters are blocks of the same shapes."""
    if not isinstance(module, nn.ModuleDict | nn.ModuleList):
        return None
    call = TopKCall.of(module)
    blocks = [child for child in module.children() if [*child.parameters()]]
    shapes = [[(name, p.shape) for name, p in block.named_parameters()] for block in blocks]
    if call is None or len(blocks) < 2 or any(shape != shapes[0] for shape in shapes):
        return None
    stored = [
        Stored(name, block.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], expert)
        for expert, block in enumerate(blocks)
        for name, _ in block.named_parameters()
    ]
    return FoundExperts(module, path, "modules", len(blocks), stored, call, mixture="top_k")
