"""Linear layers that hold the weights of all experts, called with rows sorted by expert and their counts: JetMoE.

The layer is the module around them. Its router returns, among others, the counts as a list and the gate of each row.
Axis letters: E experts, R rows (tokens times experts per token).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from prismatic.experts.found import FoundExperts, Routed, Stored
from prismatic.experts.layouts.calls import RouterOutputCall


def find_parallel_linear(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer if the module has a router, and children that each hold one tensor [E, out, in]."""
    router = getattr(module, "router", None)
    linears = {name: child for name, child in module.named_children() if _holds_all_experts(child)}
    experts = {child.get_parameter("weight").shape[0] for child in linears.values()}
    if not isinstance(router, nn.Module) or not linears or len(experts) != 1:
        return None
    stored = [Stored(f"{name}.weight", child, "weight") for name, child in linears.items()]
    call = RouterOutputCall(router, _read, _force)
    return FoundExperts(module, path, "linear layers", experts.pop(), stored, call, mixture="top_k")


def _holds_all_experts(module: nn.Module) -> bool:
    own = dict(module.named_parameters())
    if own.keys() != {"weight"} or own["weight"].dim() != 3 or own["weight"].shape[0] < 2:
        return False
    names = [*inspect.signature(type(module).forward).parameters]
    return len(names) == 3 and "size" in names[2]


def _counts(output: tuple[Any, ...]) -> tuple[int, list[int]]:
    """Return the place and the value of the counts in the router's output."""
    return next((place, part) for place, part in enumerate(output) if isinstance(part, list))


def _read(output: tuple[Any, ...]) -> Routed:
    place, counts = _counts(output)
    gates: Tensor = output[place - 1]
    index = torch.repeat_interleave(
        torch.arange(len(counts), device=gates.device), torch.tensor(counts, device=gates.device)
    )
    return Routed(index[:, None], gates.reshape(-1)[:, None])


def _force(output: tuple[Any, ...], expert: int) -> tuple[Any, ...]:
    place, counts = _counts(output)
    forced = [sum(counts) if number == expert else 0 for number in range(len(counts))]
    return (*output[:place], forced, *output[place + 1 :])
