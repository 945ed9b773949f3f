"""Each expert's gradient measured alone, on the same batch: what it would learn by itself, free of the routing.

Nothing that training will see changes: gradients come from `torch.autograd.grad` and never touch `.grad` (under FSDP2
they do, and it is put back), random states and buffers are put back, the optimizer is not involved.
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
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from prismatic.collectives import world
from prismatic.experts.protocol import find_routers, tiers_of
from prismatic.experts.tiers import is_sharded
from prismatic.measure.gradients import measure
from prismatic.measure.kernels import TensorGradients, measure_tensors
from prismatic.measure.metrics import ExpertDynamics, cosine
from prismatic.measure.shards import parts_of

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
    Of a model that several processes train, every process must call it with its own share of the batch, in the order
    of the processes; under DDP the loss is best that of the module inside, under FSDP2 `model` is the whole model.
    """
    routers = [router for router in find_routers(model) if hasattr(router, "forced")]
    if not routers:
        return []
    gradients: Gradients = {}
    with _unchanged(model):
        for expert in range(max(len(router.experts) for router in routers)):
            gradients |= _alone(model, routers, expert, lambda: loss(batch_B))
        layers = measure(routers, gradients.get)
        floors = _noise_directions(model, routers, loss, batch_B)
    return [
        [
            replace(own, routing_weight=None, noise_direction=None if expert else floor)
            for expert, own in enumerate(experts)
        ]
        for experts, floor in zip(layers, floors, strict=True)
    ]


def _alone(model: nn.Module, routers: Sequence[Any], expert: int, loss: Callable[[], Tensor]) -> Gradients:
    """The gradients of one expert's parameters in every layer, with every router forced to it.

    The mean over all processes, as the optimizer's are.
    """
    parameters = [p for router in routers for p in router.experts[expert].parameters() if p.requires_grad]
    if not parameters:  # all frozen
        return {}
    with _forced(routers, expert), torch.enable_grad():
        if any(map(is_sharded, parameters)):
            return _by_backward(model, parameters, loss)
        # The mean is taken only when each process has its own: one that fails must not leave the others waiting.
        own = world().all_or_raise(lambda: torch.autograd.grad(loss(), parameters, allow_unused=True))
    return dict(zip(parameters, _averaged(own), strict=True))


def _by_backward(model: nn.Module, parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor]) -> Gradients:
    """By a backward pass, for FSDP2, whose hooks gather weights and scatter gradients in one; `.grad` is put back."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in kept:
            parameter.grad = None
        loss().backward()
        return {parameter: parameter.grad for parameter in parameters}
    finally:
        for parameter, grad in kept:
            parameter.grad = grad


def _averaged(own: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The mean of these gradients over all processes, in one collective."""
    present = [grad for grad in own if grad is not None]
    if world().size == 1 or not present:
        return list(own)
    together = torch.cat([grad.flatten() for grad in present])
    dist.all_reduce(together)
    means = iter((together / world().size).split([grad.numel() for grad in present]))
    return [None if grad is None else next(means).view(grad.shape) for grad in own]


def _noise_directions(model: nn.Module, routers: Sequence[Any], loss: Loss, batch_B: Any) -> list[float | None]:
    """Per layer, 1 - cosine of the clean expert's gradients on the two halves of the batch."""
    processes = world()
    lengths = processes.gather(_sequences(batch_B))
    half, before = sum(lengths) // 2, sum(lengths[: processes.rank])
    if not half:
        return [None] * len(routers)

    def of_half(place: int) -> Gradients:
        # Of a batch that is spread over processes, each has some sequences of a half, or all, or none.
        start, stop = (min(max(end * half - before, 0), lengths[processes.rank]) for end in (place, place + 1))
        share = (stop - start) * processes.size / half
        part = _part(batch_B, slice(start, stop) if share else slice(1))  # without any it only takes part
        return _alone(model, routers, 0, lambda: share * loss(part))

    halves = of_half(0), of_half(1)
    sums = processes.all_reduce(
        lambda: np.concatenate([_products(router, halves) for router in routers]), 3 * len(routers)
    )
    cosines = [cosine(both, first**0.5, second**0.5) for first, second, both in sums.reshape(-1, 3).tolist()]
    return [None if alike is None else 1 - alike for alike in cosines]


def _products(router: Any, halves: Sequence[Gradients]) -> NDArray[np.float64]:
    """Of two gradients of the clean expert, what this process counts: both squares, and their product."""
    clean, tensors = dict(router.experts[0].named_parameters()), []
    for part in parts_of(clean):
        pair = [half.get(clean[part.name]) for half in halves]
        own = [None if grad is None else part.values(grad) for grad in pair]
        tensors.append(TensorGradients(own, part.tiers(tiers_of(router))))
    sums = np.sum(measure_tensors(tensors)[0], axis=0)
    return np.array([*sums[:, :3].sum(axis=1), sums[1, 3]])


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
