"""The tensors [E, ...] of an ensemble in a ParameterDict, as `torch.func.stack_module_state` stacks them.

They are used by `functional_call` under `vmap`, which calls no module: there is no routing, and no expert to force.
Axis letters: E experts.
"""

from __future__ import annotations

from torch import nn

from prismatic.experts.found import FoundExperts, Stored


def find_ensemble(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer if the module is a ParameterDict of weights and biases that share a first dimension."""
    if not isinstance(module, nn.ParameterDict):
        return None
    dimensions = {parameter.dim() for parameter in module.parameters()}
    return ensemble(module, path) if {2, 3} <= dimensions else None


def ensemble(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer if all parameters of the module share a first dimension above 1.

    Give it to `register_experts` with the type of a module that holds an ensemble in another way.
    """
    own = dict(module.named_parameters(recurse=False))
    experts = {parameter.shape[0] if parameter.dim() else 0 for parameter in own.values()}
    if len(experts) != 1 or max(experts) < 2:
        return None
    stored = [Stored(name, module, name) for name in own]
    return FoundExperts(module, path, "ensemble", experts.pop(), stored, None, mixture="separate")
