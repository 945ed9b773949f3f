"""Experts that are called with one batch of inputs for each of them: st-moe, soft-moe, mixture-of-experts, DeepSpeed.

The layer is the module around them. Its gate returns two tensors, which dispatch tokens to places of the experts and
combine their outputs, or (DeepSpeed) the expert, the place and the weight of each token. A soft mixture has no gate,
because all tokens take part in every place.
Axis letters: N tokens, E experts, C places of each expert, K experts per token.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prismatic.experts.found import Call, FoundExperts, Routed, Stored
from prismatic.experts.layouts.calls import RouterOutputCall
from prismatic.experts.layouts.module_dict import stored_in_blocks
from prismatic.experts.layouts.stacked import stored_in


def find_dispatched(module: nn.Module, path: str) -> FoundExperts | None:
    """Return the layer if the module has `experts` that are called with their inputs alone."""
    inner, gate = getattr(module, "experts", None), getattr(module, "gate", None)
    if not isinstance(inner, nn.Module) or not _takes_inputs_alone(inner):
        return None
    blocks = next((list(child) for child in inner.children() if isinstance(child, nn.ModuleList)), [])
    count, stored = len(blocks), stored_in_blocks(blocks)
    if isinstance(gate, nn.Module):
        if not blocks:
            count, stored = _stacked(inner)
        call: Call = RouterOutputCall(gate, _read, _force)
    else:
        call = SoftCall(inner, tuple(blocks))
    if not stored:
        return None
    layout, mixture = ("dispatched", "top_k") if isinstance(gate, nn.Module) else ("soft", "outputs")
    return FoundExperts(module, path, layout, count, stored, call, mixture=mixture)


def _takes_inputs_alone(module: nn.Module) -> bool:
    parameters = [*inspect.signature(type(module).forward).parameters.values()][1:]
    needed = [each for each in parameters if each.default is each.empty]
    return len(needed) == 1 and needed[0].kind == needed[0].POSITIONAL_OR_KEYWORD


def _stacked(inner: nn.Module) -> tuple[int, list[Stored]]:
    """Return the number of experts in tensors [E, ...] of a module, and where they are; none if there are others."""
    own = dict(inner.named_parameters())
    experts = {parameter.shape[0] for parameter in own.values()}
    whole = all("." not in name and parameter.dim() in (2, 3) for name, parameter in own.items())
    if not whole or len(experts) != 1 or experts == {1} or not any(p.dim() == 3 for p in own.values()):
        return 0, []
    return experts.pop(), [each for name, p in own.items() for each in stored_in(inner, name, p)]


def _read(output: Sequence[Any]) -> Routed:
    if (routes := _routes(output)) is not None:
        _, index_KN, _, weight_KN = (output[place] for place in routes)
        return Routed(index_KN.T, weight_KN.T)
    dispatch, combine = (output[place] for place in _places(output))
    sent_NE, weight_NE = ((part.sum(-1)).flatten(0, -2) for part in (dispatch, combine))
    index_NE = torch.arange(sent_NE.shape[-1], device=sent_NE.device).expand_as(sent_NE)
    return Routed(torch.where(sent_NE > 0, index_NE, -1), weight_NE)


def _force(output: Sequence[Any], expert: int) -> tuple[Any, ...]:
    """Return the gate's output with as many places as tokens, each token in a place of the expert."""
    parts = list(output)
    if (routes := _routes(output)) is not None:
        capacity, index, place, weight = routes
        index_KN = parts[index]
        parts[capacity] = index_KN.numel()
        parts[index] = torch.full_like(index_KN, expert)
        parts[place] = torch.arange(index_KN.numel(), device=index_KN.device).view_as(index_KN).to(index_KN)
        parts[weight] = torch.full_like(parts[weight], 1 / len(index_KN))
        return tuple(parts)
    for each in _places(output):
        part = parts[each]
        tokens = part.shape[-3]
        alone = part.new_zeros(*part.shape[:-1], tokens)
        alone[..., expert, :] = torch.eye(tokens, dtype=part.dtype, device=part.device)
        parts[each] = alone
    return tuple(parts)


def _routes(output: Sequence[Any]) -> tuple[int, int, int, int] | None:
    """Return where the gate's output has the capacity, and by token [K, N] the expert, its place and the weight."""
    flat = [place for place, part in enumerate(output) if isinstance(part, Tensor) and part.dim() == 2]
    kinds = [output[place].is_floating_point() for place in flat]
    if kinds != [False, False, True] or flat[0] < 2:
        return None
    return flat[0] - 2, flat[0], flat[1], flat[2]  # between capacity and experts comes their number


def _places(output: Sequence[Any]) -> tuple[int, int]:
    """Return where in the gate's output the tensors [..., N, E, C] are that dispatch and combine."""
    wide = [place for place, part in enumerate(output) if isinstance(part, Tensor) and part.dim() >= 3]
    first, second = wide  # two of them, or it is another kind of gate
    return (second, first) if output[second].dtype == torch.bool else (first, second)


@dataclass(frozen=True)
class SoftCall(Call):
    """A layer whose experts all work on mixtures of tokens; a forced expert works on those of all others, too."""

    inner: nn.Module
    blocks: tuple[nn.Module, ...]

    def install(self, layer: FoundExperts) -> list[RemovableHandle]:
        """Install the hook on the experts, which exchanges their outputs."""

        @torch.compiler.disable
        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return None if layer.forced is None else self.blocks[layer.forced](args[0])

        return [self.inner.register_forward_hook(after)]

    def run(self, layer: FoundExperts, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the output for the forced expert: the hook obeys it."""
        return layer.module.forward(*args, **kwargs)
