"""Stacked tensors inside a module that is called with scores, expert ids and counts of tokens: torchtitan.

The module sorts the tokens by expert and sends them where the experts are, so the ids that it gets are global.
Axis letters: N tokens, K experts per token.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prismatic.experts.found import FoundExperts, Routed
from prismatic.experts.layouts.calls import WEIGHTS, TopKCall
from prismatic.experts.layouts.stacked import stored_in

IDS, COUNTS = re.compile("expert_id|expert_ind|index|indices|selected"), re.compile("count|num_.*per_expert")


def find_counted(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer if the module is called so, or is the stacked tensors that are called with inputs and counts."""
    names = _arguments(module)
    if len(names) == 2 and COUNTS.search(names[1]) and not IDS.search(names[1]):
        return _layer(module, module, path, None)  # whoever sorts the tokens is not known, so neither is the routing
    ids, weights, counts = ([n for n in names[1:] if kind.search(n)] for kind in (IDS, WEIGHTS, COUNTS))
    ids = [name for name in ids if name not in counts]
    if len(names) != 4 or not (len(ids) == len(weights) == len(counts) == 1):
        return None
    call = CountedCall(ids[0], weights[0], {name: place for place, name in enumerate(names)}, counts[0])
    return next((layer for child in module.children() if (layer := _layer(module, child, path, call))), None)


def _arguments(module: nn.Module) -> list[str]:
    """Return the names of the arguments that a module is called with; none if there may be any number."""
    parameters = [*inspect.signature(type(module).forward).parameters.values()][1:]
    single = all(each.kind == each.POSITIONAL_OR_KEYWORD for each in parameters)
    return [each.name for each in parameters] if single else []


def _layer(module: nn.Module, inner: nn.Module, path: str, call: TopKCall | None) -> FoundExperts | None:
    own = dict(inner.named_parameters(recurse=False))
    experts = {parameter.shape[0] for parameter in own.values()}
    if len(experts) != 1 or experts == {1} or not any(parameter.dim() == 3 for parameter in own.values()):
        return None
    stored = [each for name, parameter in own.items() for each in stored_in(inner, name, parameter)]
    return FoundExperts(module, path, "stacked, with counts", experts.pop(), stored, call, mixture="top_k")


@dataclass(frozen=True)
class CountedCall(TopKCall):
    """A call that is also told how many tokens each expert gets."""

    counts: str

    def _read(self, layer: FoundExperts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Routed:
        index, weight = self._get(self.index, args, kwargs), self._get(self.weights, args, kwargs)
        return Routed(index.flatten(0, -2), weight.flatten(0, -2))

    def _forced(
        self, layer: FoundExperts, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        chosen, weight, counts = (self._get(n, args, kwargs) for n in (self.index, self.weights, self.counts))
        assert layer.forced is not None
        every = torch.zeros_like(counts)
        every[layer.forced] = chosen.numel()
        alone, even = torch.full_like(chosen, layer.forced), torch.full_like(weight, 1 / weight.shape[-1])
        return self._set({self.index: alone, self.weights: even, self.counts: every}, args, kwargs)
