"""Find the layers of experts in a model: those of our protocol, and those of other models by their structure."""

from __future__ import annotations

from collections import Counter
from typing import Any
from weakref import WeakSet

from torch import nn

from prismatic.experts.found import FoundExperts
from prismatic.experts.layouts import LAYOUTS, OWN, layer_of
from prismatic.experts.protocol import RoutedExperts, num_experts
from prismatic.experts.treatment import treatment_of

_OTHERS: WeakSet[nn.Module] = WeakSet()
"""Modules that are no layer of experts."""
KEPT = "_prismatic_experts"  # attribute of a module: its layer, which keeps its routing from one call to the next


def find_routers(model: nn.Module) -> list[Any]:
    """Return the layers of experts in a model, at any depth, in the model's order.

    A layer of our protocol is the module itself; any other is a FoundExperts.
    """
    found: list[Any] = []
    pending: list[tuple[str, nn.Module, bool]] = [("", model, False)]
    seen: set[nn.Module] = set()
    while pending:
        path, module, inside = pending.pop()
        if module in seen:
            continue
        seen.add(module)
        if not inside:  # an experts module is part of the layer around it
            layer = module if _keeps_protocol(module) else _found(module, path)
            if layer is not None:
                found.append(layer)
                inside = True
        prefix = f"{path}." if path else ""
        children = [(f"{prefix}{name}", child, inside) for name, child in module._modules.items() if child is not None]
        pending += reversed(children)
    return found


def _keeps_protocol(module: nn.Module) -> bool:
    if not isinstance(module, RoutedExperts):
        return False
    return isinstance(module.experts, nn.ModuleList) and len(module.experts) > 1


def may_be_routed_later(model: nn.Module) -> bool:
    """Return whether a module has `experts` as the protocol wants them, and may set `routing_weights` in forward."""
    return any(
        isinstance(experts := getattr(module, "experts", None), nn.ModuleList) and len(experts) > 1
        for module in model.modules()
    )


def _found(module: nn.Module, path: str) -> FoundExperts | None:
    if module in _OTHERS:
        return None
    layer: FoundExperts | None = vars(module).get(KEPT)
    if layer is None:
        layer = layer_of(module, path)
        if layer is None:
            _OTHERS.add(module)
        else:
            vars(module)[KEPT] = layer
            treatment = treatment_of(layer)
            layer.roles = None if treatment is None else treatment.roles
    return layer


def describe(model: nn.Module, routers: list[Any]) -> str:
    """Return one line about what was found, such as "MixtralForCausalLM: 2 layers of 4 experts (stacked), at ..."."""
    kinds = Counter((num_experts(router), _layout(router), _pattern(router)) for router in routers)
    parts = [
        f"{layers} layer{'s' * (layers > 1)} of {experts} experts ({layout}){f', at {place}' if place else ''}"
        for (experts, layout, place), layers in kinds.items()
    ]
    return f"{type(model).__name__}: {'; '.join(parts)}"


def nothing_found(model: nn.Module) -> str:
    """Return what was looked for in a model without a layer of experts, and the ways on."""
    looked = "; ".join(
        [
            "a module with a ModuleList `experts` and `routing_weights`",
            *LAYOUTS,
            *(f"modules of type {module_type.__name__}" for module_type in OWN),
        ]
    )
    return (
        f"{type(model).__name__} has no layer of experts that is known, so nothing is logged. Looked for: {looked}. "
        "Ways on: give the layer the attributes `experts` (an nn.ModuleList) and `routing_weights`; or describe it by "
        "prismatic.register_experts(module_type, layout); or build the model with a Prismatic layer."
    )


def _layout(router: Any) -> str:
    return router.layout if isinstance(router, FoundExperts) else "a ModuleList"


def _pattern(router: Any) -> str:
    """Return the layer's place in the model, with * for numbers."""
    path = router.path if isinstance(router, FoundExperts) else ""
    return ".".join("*" if part.isdigit() else part for part in path.split("."))
