"""Stacked tensors that are called with one input for each expert, multiplied by the router's scores: Llama 4.

The layer is the module around them. Its router returns the scores of all experts, zero for those that were not chosen.
Axis letters: E experts, N tokens.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from prismatic.experts.found import FoundExperts, Routed
from prismatic.experts.layouts.calls import RouterOutputCall
from prismatic.experts.layouts.stacked import stored_in


def find_scaled_input(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer if the module has a router, and experts of stacked tensors that take the inputs alone."""
    inner, router = getattr(module, "experts", None), getattr(module, "router", None)
    if not isinstance(inner, nn.Module) or not isinstance(router, nn.Module):
        return None
    own = dict(inner.named_parameters(recurse=False))
    experts = {p.shape[0] for p in own.values() if p.dim() == 3}
    if len(inspect.signature(type(inner).forward).parameters) != 2 or len(experts) != 1 or experts == {1}:
        return None
    count = experts.pop()
    stored = [each for name, p in own.items() if p.shape[0] == count for each in stored_in(inner, name, p)]
    return FoundExperts(
        module, path, "stacked, scaled inputs", count, stored, RouterOutputCall(router, _read, _force), mixture="top_k"
    )


def _read(output: tuple[Tensor, ...]) -> Routed:
    scores_NE = output[0]
    index = torch.arange(scores_NE.shape[-1], device=scores_NE.device).expand_as(scores_NE)
    return Routed(torch.where(scores_NE > 0, index, -1), scores_NE)


def _force(output: tuple[Tensor, ...], expert: int) -> tuple[Any, ...]:
    alone = torch.zeros_like(output[0])
    alone[..., expert] = 1
    return (alone, *output[1:])
