"""Calls, the ways in which layers get their routing: as arguments (top-k), or from the output of a router beside them.

Axis letters: E experts, N tokens, K experts per token.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from prismatic.experts.found import Call, FoundExperts, Routed
from prismatic.experts.hooks import Hook
from prismatic.guard import log_failures

INDEX, WEIGHTS = re.compile("index|indices|selected|mask|assign"), re.compile("weight|prob|score|gate")


@dataclass(frozen=True)
class TopKCall(Call):
    """A call with the hidden states, the chosen experts, and their weights, by name or by place."""

    index: str
    weights: str
    places: Mapping[str, int]

    @classmethod
    def of(cls, module: nn.Module) -> TopKCall | None:
        """Return the call of a module whose forward takes hidden states, an index and weights; None otherwise."""
        names = [
            name
            for name, parameter in inspect.signature(type(module).forward).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY)
        ][1:]
        if len(names) != 3 or not INDEX.search(names[1]) or not WEIGHTS.search(names[2]):
            return None
        return cls(names[1], names[2], {name: place for place, name in enumerate(names)})

    def install(self, layer: FoundExperts) -> list[RemovableHandle]:
        """Install the hook, before all others, so that they see what the experts get."""

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if layer.forced is not None:
                return self._forced(layer, args, kwargs)
            with log_failures():
                layer.saw(self._read(layer, args, kwargs))
            return None

        return [layer.module.register_forward_pre_hook(Hook(before), with_kwargs=True, prepend=True)]

    def run(self, layer: FoundExperts, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the output for the forced expert."""
        args, kwargs = self._forced(layer, tuple(args), dict(kwargs))
        return layer.module.forward(*args, **kwargs)

    def _read(self, layer: FoundExperts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Routed:
        chosen, weight = self._get(self.index, args, kwargs), self._get(self.weights, args, kwargs)
        if chosen.dim() == 3:  # marks of the chosen experts, [N, K, E]; none for a token that found no room
            index = torch.where(chosen.sum(-1) > 0, chosen.argmax(-1), -1)
        else:
            index = chosen.reshape(-1, chosen.shape[-1])
        weight = weight.reshape(-1, weight.shape[-1])
        if weight.shape[-1] != index.shape[-1]:  # weights of all experts, [N, E]
            weight = weight.gather(-1, index.clamp(min=0).long())
        return Routed(index, weight)

    def _forced(
        self, layer: FoundExperts, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with every token sent to the forced expert, with weights that add up to one."""
        chosen, weight = self._get(self.index, args, kwargs), self._get(self.weights, args, kwargs)
        assert layer.forced is not None
        slots = chosen.shape[1] if chosen.dim() == 3 else chosen.shape[-1]
        if chosen.dim() == 3:
            one = F.one_hot(torch.tensor(layer.forced, device=chosen.device), chosen.shape[-1])
            alone = one.to(chosen.dtype).expand_as(chosen)
        else:
            alone = torch.full_like(chosen, layer.forced)
        if weight.shape[-1] == slots:
            even = torch.full_like(weight, 1 / slots)
        else:  # weights of all experts: each slot reads the same one
            even = torch.zeros_like(weight)
            even[..., layer.forced] = 1 / slots
        return self._set({self.index: alone, self.weights: even}, args, kwargs)

    def _get(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        place = self.places[name]
        value: Tensor = args[place] if place < len(args) else kwargs[name]
        return value

    def _set(
        self, values: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        positional, named = list(args), dict(kwargs)
        for name, value in values.items():
            if self.places[name] < len(positional):
                positional[self.places[name]] = value
            else:
                named[name] = value
        return tuple(positional), named


@dataclass(frozen=True)
class RouterOutputCall(Call):
    """A layer whose router is a module beside the experts: its output is read, or exchanged for a forced one."""

    router: nn.Module
    read: Callable[[Any], Routed]
    force: Callable[[Any, int], Any]

    def install(self, layer: FoundExperts) -> list[RemovableHandle]:
        """Install the hook on the router, after all others."""

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if layer.forced is not None:
                return self.force(output, layer.forced)
            with log_failures():
                layer.saw(self.read(output))
            return None

        return [self.router.register_forward_hook(Hook(after))]

    def run(self, layer: FoundExperts, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the output for the forced expert: the router's hook obeys it."""
        return layer.module.forward(*args, **kwargs)
