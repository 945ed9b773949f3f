"""The ways in which models store a layer of experts, one file each, found by structure and never by a class's name.

A layout is a function from a module and its path to the layer that the module is, or None. A new one is a file here and
a line in LAYOUTS; `register_experts` adds one's own.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from prismatic.experts.found import FoundExperts
from prismatic.experts.layouts.adapters import find_adapters
from prismatic.experts.layouts.counted import find_counted
from prismatic.experts.layouts.dispatched import find_dispatched
from prismatic.experts.layouts.ensemble import find_ensemble
from prismatic.experts.layouts.module_dict import find_module_dict
from prismatic.experts.layouts.parallel_linear import find_parallel_linear
from prismatic.experts.layouts.scaled_input import find_scaled_input
from prismatic.experts.layouts.stacked import find_stacked

Layout = Callable[[nn.Module, str], FoundExperts | None]

LAYOUTS: dict[str, Layout] = {
    "stacked tensors, called with the top-k index and weights": find_stacked,
    "a ModuleDict, called with the chosen experts and weights": find_module_dict,
    "linear layers of all experts, called with the number of rows for each": find_parallel_linear,
    "stacked tensors, called with inputs that the router's scores multiply": find_scaled_input,
    "stacked tensors, called with inputs in the order of experts and their counts": find_counted,
    "`experts` that are called with a batch of inputs for each": find_dispatched,
    "two or more adapters of the same shapes beside a frozen layer": find_adapters,
    "a ParameterDict of weights and biases of all experts": find_ensemble,
}
OWN: dict[type[nn.Module], Layout] = {}


def register_experts(module_type: type[nn.Module], layout: Layout) -> None:
    """Let modules of a type, and of its subclasses, be layers of experts that `layout` describes.

    layout: a function from the module and its path in the model to a `FoundExperts`, or None.
    """
    OWN[module_type] = layout


def layer_of(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer of experts that a module is; None if it is none."""
    for module_type, layout in OWN.items():
        if isinstance(module, module_type):
            return layout(module, path)
    return next((found for layout in LAYOUTS.values() if (found := layout(module, path)) is not None), None)
