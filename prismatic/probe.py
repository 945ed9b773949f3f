"""Each expert's gradient measured alone, on the same batch: what it would learn by itself, free of the routing.

Nothing that training will see changes: gradients come from `torch.autograd.grad` and never touch `.grad`, random states
and buffers are put back, the optimizer is not involved.
Axis letters: B sequences of a batch, E experts, L layers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prismatic.dynamics import ExpertDynamics, find_routers, measure

Loss = Callable[[Any], Tensor]
Probe = tuple[Loss, Any]
"""The training loss of a batch, and the batch: a tensor, or a mapping or sequence of tensors, [B, ...] each."""
Gradients = dict[nn.Parameter, Tensor | None]


def isolated_dynamics(model: nn.Module, loss: Loss, batch_B: Any) -> list[list[ExpertDynamics]]:
    """The dynamics of every expert of every router, [L][E], each with all routers forced to that expert.

    A mixture of experts of one's own is left out unless it has `forced` and obeys it.
    loss, batch_B: see `Probe`. `noise_direction` of expert 0 is 1 - cosine between its
    gradients on the two halves of the batch: a direction below it is no difference. None for a batch of one.
    Routing weights are None: nothing is routed.
    """
    routers = [router for router in find_routers(model) if hasattr(router, "forced")]
    if not routers:
        return []
    gradients: Gradients = {}
    with _unchanged(model):
        for expert in range(max(len(router.experts) for router in routers)):
            gradients |= _alone(routers, expert, loss, batch_B)
        layers = measure(routers, gradients.get)
        floors = _noise_directions(routers, loss, batch_B)
    return [
        [
            replace(own, routing_weight=None, noise_direction=None if expert else floor)
            for expert, own in enumerate(experts)
        ]
        for experts, floor in zip(layers, floors, strict=True)
    ]


def _alone(routers: Sequence[Any], expert: int, loss: Loss, batch_B: Any) -> Gradients:
    """The gradients of one expert's parameters in every layer, with every router forced to it."""
    parameters = [p for router in routers for p in router.experts[expert].parameters() if p.requires_grad]
    if not parameters:  # all frozen
        return {}
    with _forced(routers, expert), torch.enable_grad():
        return dict(zip(parameters, torch.autograd.grad(loss(batch_B), parameters, allow_unused=True), strict=True))


def _noise_directions(routers: Sequence[Any], loss: Loss, batch_B: Any) -> list[float | None]:
    """Per layer, 1 - cosine of the clean expert's gradients on the two halves of the batch."""
    half = _sequences(batch_B) // 2
    if not half:
        return [None] * len(routers)
    parts = [_part(batch_B, slice(half)), _part(batch_B, slice(half, 2 * half))]
    halves = [_alone(routers, 0, loss, part) for part in parts]
    floors: list[float | None] = []
    for router in routers:
        pairs = [[half[p] for half in halves] for p in router.experts[0].parameters() if p in halves[0]]
        if not pairs:
            floors.append(None)
            continue
        first, second = (torch.cat([g.flatten() for g in side if g is not None]) for side in zip(*pairs, strict=True))
        floors.append(1 - torch.cosine_similarity(first.double(), second.double(), dim=0).item())
    return floors


def _sequences(batch_B: Any) -> int:
    """B; 0 where it cannot be told."""
    if isinstance(batch_B, Tensor):
        return len(batch_B) if batch_B.dim() else 0
    inner = batch_B.values() if isinstance(batch_B, Mapping) else batch_B if isinstance(batch_B, list | tuple) else ()
    return next((length for length in map(_sequences, inner) if length), 0)


def _part(batch_B: Any, rows: slice) -> Any:
    """Some sequences of the batch; what is no tensor of sequences, such as a count, stays."""
    if isinstance(batch_B, Tensor):
        return batch_B[rows] if batch_B.dim() else batch_B
    if isinstance(batch_B, Mapping):
        return {name: _part(value, rows) for name, value in batch_B.items()}
    return [_part(value, rows) for value in batch_B] if isinstance(batch_B, list | tuple) else batch_B


@contextmanager
def _forced(routers: Sequence[Any], expert: int) -> Iterator[None]:
    """Every router runs this expert alone; a router with fewer experts runs its clean one."""
    try:
        for router in routers:
            router.forced = expert if expert < len(router.experts) else 0
        yield
    finally:
        for router in routers:
            router.forced = None


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Random states and buffers as they were, whatever the forward passes in between drew and counted."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    python, numeric = random.getstate(), np.random.get_state()
    # A compiled model would compile anew for every forced expert.
    with torch.random.fork_rng(devices=devices), torch.compiler.set_stance("force_eager"), _buffers_of_its_own(model):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numeric)


@contextmanager
def _buffers_of_its_own(model: nn.Module) -> Iterator[None]:
    """Copies in place of the buffers, so that the buffers are not even touched: a kept graph may still need them."""
    kept = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    copies: dict[int, Tensor] = {}
    for module, buffers in kept:
        for name, buffer in buffers.items():
            if buffer is not None:
                module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
    try:
        yield
    finally:
        for module, buffers in kept:
            module._buffers.clear()
            module._buffers.update(buffers)
