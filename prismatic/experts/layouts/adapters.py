"""Adapters by name beside a layer of a frozen model: PEFT (LoRA and its kin). Each adapter is an expert.

Each layer that has adapters is a layer of experts of its own, so that layers can be compared. Nothing is routed: the
training chooses which adapters are active. The isolated probe makes one after the other active.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from prismatic.experts.found import Call, FoundExperts, Stored


def find_adapters(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer if the module names its dictionaries of adapters, which are two or more of the same shapes."""
    kinds = getattr(type(module), "adapter_layer_names", None)
    if not isinstance(kinds, tuple) or not hasattr(module, "active_adapters") or not hasattr(module, "set_adapter"):
        return None
    homes = {kind: home for kind in kinds if isinstance(home := getattr(module, kind, None), _HOMES) and len(home)}
    names = list(dict.fromkeys(name for home in homes.values() for name in home))
    stored = [_stored(homes, name, expert) for expert, name in enumerate(names)]
    shapes = [[(each.name, each.owner.get_parameter(each.attribute).shape) for each in own] for own in stored]
    if len(names) < 2 or not shapes[0] or any(shape != shapes[0] for shape in shapes):
        return None
    every = [each for own in stored for each in own]
    call = AdapterCall(tuple(names))
    return FoundExperts(module, path, "adapters", len(names), every, call, mixture="separate", names=tuple(names))


_HOMES = (nn.ModuleDict, nn.ParameterDict)


def _stored(homes: Mapping[str, Any], name: str, expert: int) -> list[Stored]:
    """Return where the tensors of one adapter are."""
    found = []
    for kind, home in homes.items():
        if name not in home:
            continue
        if isinstance(home, nn.ParameterDict):
            found.append(Stored(kind, home, name, expert))
            continue
        for inner, _ in home[name].named_parameters():
            owner, _, attribute = inner.rpartition(".")
            found.append(Stored(f"{kind}.{inner}", home[name].get_submodule(owner), attribute, expert))
    return found


@dataclass(frozen=True)
class AdapterCall(Call):
    """A layer that runs the adapters that are active."""

    names: tuple[str, ...]
    _before: list[Any] = field(default_factory=list)

    def install(self, layer: FoundExperts) -> list[RemovableHandle]:
        """Install nothing: there is no router."""
        return []

    def run(self, layer: FoundExperts, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the output with the forced adapter."""
        return layer.module.forward(*args, **kwargs)

    def switch(self, layer: FoundExperts, expert: int | None) -> None:
        """Make one adapter active, and the one that is trained; None brings back those before."""
        module: Any = layer.module
        if not self._before:
            flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
            self._before.extend([list(module.active_adapters), flags])
        if expert is not None:
            module.set_adapter(self.names[expert])
            return
        active, flags = self._before
        self._before.clear()
        module.set_adapter(active)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
