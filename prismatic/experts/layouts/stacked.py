"""Stacked tensors [E, ...] of all experts, called with the top-k index and weights: transformers 5 (Mixtral, gpt-oss).

`gate_up_proj` holds two matrices, one after the other or row by row; each has tiers of its own. DBRX stores [E * F, D]
in a module inside the one that is called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from prismatic.experts.found import FoundExperts, Stored
from prismatic.experts.layouts.calls import TopKCall
from prismatic.experts.views import whole

Pieces = dict[str, Callable[[Tensor], Tensor]]


def find_stacked(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer if the module's own tensors share a first dimension, or those of its only child do in rows."""
    own = dict(module.named_parameters(recurse=False))
    call = TopKCall.of(module)
    if call is None:
        return None
    if any(p.dim() == 3 for p in own.values()):
        experts = min(p.shape[0] for p in own.values() if p.dim() == 3)
        if experts < 2:
            return None
        stored = [each for name, p in own.items() if p.shape[0] >= experts for each in stored_in(module, name, p)]
        return FoundExperts(module, path, "stacked", experts, stored, call, mixture="top_k")
    return _in_rows(module, path, call)


def _in_rows(module: nn.Module, path: str, call: TopKCall) -> FoundExperts | None:
    """Return the layer if a child holds matrices [E * F, D] of all experts; E is the module's own number."""
    experts = getattr(module, "num_experts", None)
    children = [child for child in module.children() if [*child.parameters()]]
    if not isinstance(experts, int) or experts < 2 or len(children) != 1:
        return None
    (child,) = children
    rows = {name: p for name, p in child.named_parameters(recurse=False) if p.dim() == 2}
    if not rows or len(rows) != len([*module.parameters()]) or any(p.shape[0] % experts for p in rows.values()):
        return None
    stored = [Stored(name, child, name) for name in rows]
    return FoundExperts(module, path, "rows", experts, stored, call, mixture="top_k")


def stored_in(module: nn.Module, name: str, parameter: Tensor) -> list[Stored]:
    """Return the matrices in one stacked tensor."""
    pieces: Pieces = {name: whole}
    if "gate_up" in name:
        dim = _dimension_of_both(module, parameter)
        cut = _every_second if getattr(module, "is_concatenated", True) is False else _half
        pieces = {name.replace("gate_up", part): partial(cut, dim, place) for place, part in enumerate(("gate", "up"))}
    return [Stored(each, module, name, piece=piece) for each, piece in pieces.items()]


def _dimension_of_both(module: nn.Module, parameter: Tensor) -> int:
    """Return the dimension of an expert's slice along which gate and up lie: the one that is not the hidden size."""
    if parameter.dim() == 2:  # a bias
        return 0
    transposed = getattr(module, "is_transposed", None)
    if transposed is None:
        down = dict(module.named_parameters(recurse=False)).get("down_proj")
        # [E, D, 2F] beside [E, F, D], or [E, 2F, D] beside [E, D, F]
        rows, columns = parameter.shape[1:]
        transposed = down is not None and rows == down.shape[2] and columns == 2 * down.shape[1]
    return 1 if transposed else 0


def _half(dim: int, place: int, slice_of_expert: Tensor) -> Tensor:
    return slice_of_expert.chunk(2, dim)[place]


def _every_second(dim: int, place: int, slice_of_expert: Tensor) -> Tensor:
    return slice_of_expert[place::2] if dim == 0 else slice_of_expert[:, place::2]
