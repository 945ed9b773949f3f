"""The isolated probe: each expert's gradient measured alone on the same batch, without any routing.

Training is not affected: gradients come from `torch.autograd.grad` and leave `.grad` alone (under FSDP2 `.grad` is
restored), random states and buffers are restored, and the optimizer is not involved.
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
"""The training loss as a function of a batch, and the batch: tensors [B, ...], alone or in a mapping or sequence."""
Gradients = dict[nn.Parameter, Tensor | None]


def isolated_dynamics(model: nn.Module, loss: Loss, batch_B: Any) -> list[list[ExpertDynamics]]:
    """Return the dynamics of every expert of every router, [L][E], each with all routers forced to that expert.

    A custom layer without `forced` is skipped. loss, batch_B: see `Probe`. Routing weights are None.
    `noise_direction` of expert 0 is 1 - cosine between its gradients on the two halves of the batch: a smaller
    direction is no difference. It is None for a batch of one.
    If several processes train the model, every process must call it with its own share of the batch, in rank order.
    Under DDP give the loss of the module inside; under FSDP2 give the whole model.
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
            replace(dynamics, routing_weight=None, noise_direction=None if expert else floor)
            for expert, dynamics in enumerate(experts)
        ]
        for experts, floor in zip(layers, floors, strict=True)
    ]


def _alone(model: nn.Module, routers: Sequence[Any], expert: int, loss: Callable[[], Tensor]) -> Gradients:
    """Return the gradients of one expert's parameters in every layer, with every router forced to it.

    They are means over all processes, as the optimizer's gradients are.
    """
    parameters = [p for router in routers for p in router.experts[expert].parameters() if p.requires_grad]
    if not parameters:  # all frozen
        return {}
    with _forced(routers, expert), torch.enable_grad():
        if any(map(is_sharded, parameters)):
            return _backward_gradients(model, parameters, loss)
        # Before the mean, make sure that no process failed: the others would wait for it.
        grads = world().all_or_raise(lambda: torch.autograd.grad(loss(), parameters, allow_unused=True))
    return dict(zip(parameters, _averaged(grads), strict=True))


def _backward_gradients(model: nn.Module, parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor]) -> Gradients:
    """Return gradients of a backward pass and restore `.grad`. FSDP2 gathers and scatters in backward hooks only."""
    saved = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in saved:
            parameter.grad = None
        loss().backward()
        return {parameter: parameter.grad for parameter in parameters}
    finally:
        for parameter, grad in saved:
            parameter.grad = grad


def _averaged(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the mean of these gradients over all processes, by one collective."""
    present = [grad for grad in grads if grad is not None]
    if world().size == 1 or not present:
        return list(grads)
    joined = torch.cat([grad.flatten() for grad in present])
    dist.all_reduce(joined)
    means = iter((joined / world().size).split([grad.numel() for grad in present]))
    return [None if grad is None else next(means).view(grad.shape) for grad in grads]


def _noise_directions(model: nn.Module, routers: Sequence[Any], loss: Loss, batch_B: Any) -> list[float | None]:
    """Return, per layer, 1 - cosine of the clean expert's gradients on the two halves of the batch."""
    processes = world()
    lengths = processes.gather(_sequences(batch_B))
    half, before = sum(lengths) // 2, sum(lengths[: processes.rank])
    if not half:
        return [None] * len(routers)

    def gradients_of_half(index: int) -> Gradients:
        # If the batch is spread over processes, each process has some, all or none of the sequences of a half.
        start, stop = (min(max(end * half - before, 0), lengths[processes.rank]) for end in (index, index + 1))
        share = (stop - start) * processes.size / half
        part = _part(batch_B, slice(start, stop) if share else slice(1))  # a process without any joins with one
        return _alone(model, routers, 0, lambda: share * loss(part))

    halves = gradients_of_half(0), gradients_of_half(1)
    sums = processes.all_reduce(
        lambda: np.concatenate([_products(router, halves) for router in routers]), 3 * len(routers)
    )
    cosines = [cosine(product, first**0.5, second**0.5) for first, second, product in sums.reshape(-1, 3).tolist()]
    return [None if value is None else 1 - value for value in cosines]


def _products(router: Any, halves: Sequence[Gradients]) -> NDArray[np.float64]:
    """Return both squares and the product of two gradients of the clean expert, over the entries counted here."""
    clean, tensors = dict(router.experts[0].named_parameters()), []
    for part in parts_of(clean):
        pair = [half.get(clean[part.name]) for half in halves]
        values = [None if grad is None else part.values(grad) for grad in pair]
        tensors.append(TensorGradients(values, part.tiers(tiers_of(router))))
    sums = np.sum(measure_tensors(tensors)[0], axis=0)
    return np.array([*sums[:, :3].sum(axis=1), sums[1, 3]])


def _sequences(batch_B: Any) -> int:
    """Return B; 0 if the batch holds no tensor of sequences."""
    if isinstance(batch_B, Tensor):
        return len(batch_B) if batch_B.dim() else 0
    inner = batch_B.values() if isinstance(batch_B, Mapping) else batch_B if isinstance(batch_B, list | tuple) else ()
    return next((length for length in map(_sequences, inner) if length), 0)


def _part(batch_B: Any, rows: slice) -> Any:
    """Return some sequences of the batch; anything else in it, such as a count, stays."""
    if isinstance(batch_B, Tensor):
        return batch_B[rows] if batch_B.dim() else batch_B
    if isinstance(batch_B, Mapping):
        return {name: _part(value, rows) for name, value in batch_B.items()}
    return [_part(value, rows) for value in batch_B] if isinstance(batch_B, list | tuple) else batch_B


@contextmanager
def _forced(routers: Sequence[Any], expert: int) -> Iterator[None]:
    """Make every router run this expert alone; a router with fewer experts runs its clean one."""
    try:
        for router in routers:
            router.forced = expert if expert < len(router.experts) else 0
        yield
    finally:
        for router in routers:
            router.forced = None


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Restore random states and buffers at the end, so that the forward passes in between leave no trace."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    python, numeric = random.getstate(), np.random.get_state()
    # Eager, because a compiled model would compile again for every forced expert.
    with torch.random.fork_rng(devices=devices), torch.compiler.set_stance("force_eager"), _copied_buffers(model):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numeric)


@contextmanager
def _copied_buffers(model: nn.Module) -> Iterator[None]:
    """Put copies in place of the buffers, whose versions must not change: a kept graph may still need them."""
    saved = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    copies: dict[int, Tensor] = {}
    for module, buffers in saved:
        for name, buffer in buffers.items():
            if buffer is not None:
                module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
    try:
        yield
    finally:
        for module, buffers in saved:
            module._buffers.clear()
            module._buffers.update(buffers)
