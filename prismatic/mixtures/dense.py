"""The MLPs of a dense model: found by structure or by name, and the axis of their intermediate units.

Axis letters: D hidden size, F intermediate size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from prismatic.errors import ModelError


@dataclass(frozen=True, eq=False)
class DenseMLP:
    """A block of a dense model that becomes a layer of experts."""

    paths: tuple[str, ...]
    """Its names in the model: several if the model uses it in several places."""
    module: nn.Module
    hidden_size: int
    unit_axes: Mapping[str, int]
    """By tensor, the axis of the F intermediate units; empty if the block's structure is not known."""

    @property
    def path(self) -> str:
        """Its first name in the model."""
        return self.paths[0]


def find_mlps(model: nn.Module, where: str | Sequence[str] | None = None) -> list[DenseMLP]:
    """Return the MLPs of a model, in the model's order: those named, or those recognised by structure.

    where: names of modules, in which * stands for any text, such as "layers.*.mlp". They must map [N, D] to [N, D].
    An MLP has two or three linear layers and no other weights: one or two from D to F, one back, and F is above D.
    Raises ModelError if there is none.
    """
    patterns = [where] if isinstance(where, str) else where
    homes: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        homes.setdefault(module, []).append(path)
    found: list[DenseMLP] = []
    for path, module in model.named_modules():
        if not path or any(path.startswith(f"{mlp.path}.") for mlp in found):
            continue
        units = unit_axes(module)
        if units is not None if patterns is None else any(fnmatchcase(path, pattern) for pattern in patterns):
            found.append(DenseMLP(tuple(homes[module]), module, _hidden_size(module, path), units or {}))
    if not found:
        looked = (
            "MLP (two or three linear layers, wider inside)" if patterns is None else f"module {' or '.join(patterns)}"
        )
        raise ModelError(
            f"{type(model).__name__} has no {looked}, so nothing can become a layer of experts. Name the modules by "
            'where=, such as where="layers.*.mlp".'
        )
    return found


def unit_axes(module: nn.Module) -> dict[str, int] | None:
    """Return, by tensor, the axis of an MLP's intermediate units; None for a module of another structure.

    The bias of the layer back to the hidden size has none.
    """
    linears = {name: child for name, child in module.named_modules() if name and type(child) is nn.Linear}
    held = sum(len([*linear.parameters()]) for linear in linears.values())
    inside = any(all(name.startswith(f"{child}.") for name in linears) for child, _ in module.named_children())
    callable_itself = not isinstance(module, nn.ModuleList | nn.ModuleDict)
    if len(linears) not in (2, 3) or held != len([*module.parameters()]) or inside or not callable_itself:
        return None
    back = [name for name, linear in linears.items() if linear.in_features > linear.out_features]
    if len(back) != 1:
        return None
    units, hidden = linears[back[0]].in_features, linears[back[0]].out_features
    axes = {}
    for name, linear in linears.items():
        if name == back[0]:
            axes[f"{name}.weight"] = 1
        elif (linear.in_features, linear.out_features) == (hidden, units):
            axes |= {f"{name}.{parameter}": 0 for parameter, _ in linear.named_parameters()}
        else:
            return None
    return axes


def _hidden_size(module: nn.Module, path: str) -> int:
    """Return D of a block: the input of its first linear layer, or else the length of its first weight."""
    linear = next((each for each in module.modules() if isinstance(each, nn.Linear)), None)
    if linear is not None:
        return linear.in_features
    weight = next((each for each in module.parameters() if each.dim() == 2), None)
    if weight is None:
        raise ModelError(
            f"{path} has no matrix, so the size of its input is not known. Name blocks that hold linear layers."
        )
    return int(weight.shape[-1])


def replace(model: nn.Module, mlp: DenseMLP, mixture: nn.Module) -> None:
    """Put a mixture in the place, or the places, of an MLP."""
    for path in mlp.paths:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, mixture)
