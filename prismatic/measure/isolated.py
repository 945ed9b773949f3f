"""The isolated probe: each expert's gradient measured alone on the same batch, without any routing.

Training is not affected: gradients come from `torch.autograd.grad` and leave `.grad` alone (under FSDP2 `.grad` is
restored), random states and buffers are restored, and the optimizer is not involved.
Axis letters: B sequences of a batch, E experts, L layers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from prismatic.collectives import world
from prismatic.experts.protocol import find_routers
from prismatic.experts.tiers import is_sharded
from prismatic.measure.gradients import measure
from prismatic.measure.kernels import inner_products
from prismatic.measure.metrics import ExpertDynamics
from prismatic.measure.shards import parts_of

Loss = Callable[[Any], Tensor]
Probe = tuple[Loss, Any]
"""The training loss as a function of a batch, and the batch: tensors [B, ...], alone or in a mapping or sequence."""
Gradients = dict[nn.Parameter, Tensor | None]


def isolated_dynamics(model: nn.Module, loss: Loss, batch_B: Any) -> list[list[ExpertDynamics]]:
    """Return the dynamics of every expert of every router, [L][E], each with all routers forced to that expert.

    A custom layer without `forced` is skipped. loss, batch_B: see `Probe`; the loss is a mean over sequences. Routing
    weights are None. Each gradient is the mean over two halves of the batch, sequences of even and of odd number, and
    the products between halves tell a direction from the noise of the batch: `half_product` of every expert, and
    `half_product_clean` of every expert but 0. `noise_direction` of expert 0 is 1 - cosine between its halves. All
    are None if the batch has no two sequences; of an odd number the last sequence is not used.
    If several processes train the model, every process must call it with its own share of the batch, in rank order.
    Under DDP give the loss of the module inside; under FSDP2 give the whole model.
    """
    routers = [router for router in find_routers(model) if hasattr(router, "forced")]
    if not routers:
        return []
    gradients: Gradients = {}
    clean: list[Gradients] = []
    products: list[NDArray[np.float64]] = []
    with _unchanged(model):
        losses = _half_losses(loss, batch_B) or [lambda: loss(batch_B)]
        for expert in range(max(len(router.experts) for router in routers)):
            halves = [_alone(model, routers, expert, half) for half in losses]
            clean = clean or halves
            products.append(_half_products(routers, expert, halves, clean))
            gradients |= _mean_of(halves)
        layers = measure(routers, gradients.get)
    return [
        [_with_products(dynamics, *products[expert][layer]) for expert, dynamics in enumerate(experts)]
        for layer, experts in enumerate(layers)
    ]


def _with_products(dynamics: ExpertDynamics, own: float, clean: float, noise: float) -> ExpertDynamics:
    known = [None if math.isnan(value) else float(value) for value in (own, clean, noise)]
    return replace(
        dynamics, routing_weight=None, half_product=known[0], half_product_clean=known[1], noise_direction=known[2]
    )


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


def _half_losses(loss: Loss, batch_B: Any) -> list[Callable[[], Tensor]]:
    """Return the loss of each half of the batch, as functions; none if the batch has no two sequences.

    The halves are those of the whole batch, whatever share of it this process has, and the mean over all processes is
    the mean over the half's sequences. Even and odd numbers spread the work of each half over all processes.
    """
    lengths = world().gather(_sequences(batch_B))
    own, before = lengths[world().rank], sum(lengths[: world().rank])
    half = sum(lengths) // 2

    def half_loss(parity: int) -> Tensor:
        rows = slice((parity - before) % 2, max(min(own, 2 * half - before), 0), 2)
        share = len(range(own)[rows]) * world().size / half
        part = _part(batch_B, rows if share else slice(1))  # a process without any sequence joins with one
        return share * loss(part)

    return [partial(half_loss, parity) for parity in (0, 1)] if half else []


def _mean_of(halves: Sequence[Gradients]) -> Gradients:
    """Return the gradients of the whole batch."""
    if len(halves) == 1:
        return dict(halves[0])
    means: Gradients = {}
    for parameter, first in halves[0].items():
        second = halves[1][parameter]
        means[parameter] = None if first is None or second is None else (first + second) / 2
    return means


def _half_products(
    routers: Sequence[Any], expert: int, halves: Sequence[Gradients], clean: Sequence[Gradients]
) -> NDArray[np.float64]:
    """Return half_product, half_product_clean and noise_direction of an expert, [L, 3]; NaN where there is none."""
    if len(halves) == 1:
        return np.full((len(routers), 3), np.nan)
    products = world().all_reduce(
        lambda: np.concatenate([_own_products(router, expert, halves, clean) for router in routers]), 4 * len(routers)
    )
    own_L, second_L, third_L, found_L = products.reshape(-1, 4).T
    own_L, none_L = np.where(found_L > 0, own_L, np.nan), np.full(len(routers), np.nan)
    if expert:
        return np.stack([own_L, np.where(found_L > 0, (second_L + third_L) / 2, np.nan), none_L], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # the clean expert's other products are its halves' squares
        return np.stack([own_L, none_L, 1 - own_L / np.sqrt(second_L * third_L)], axis=1)


def _own_products(
    router: Any, expert: int, halves: Sequence[Gradients], clean: Sequence[Gradients]
) -> NDArray[np.float64]:
    """Return four sums over the entries that this process counts: products of half-batch gradients, and a count.

    The products are that of both halves, and that of each half with the clean expert's other half (for the clean expert
    itself, with the same half). The count is that of the tensors with gradients.
    """
    if expert >= len(router.experts):
        return np.zeros(4)
    weights, of_clean = (dict(router.experts[number].named_parameters()) for number in (expert, 0))
    pairs: list[tuple[Tensor, Tensor]] = []
    for part in parts_of(of_clean):
        first, second = (half.get(weights[part.name]) for half in halves)
        others = [half.get(of_clean[part.name]) for half in (clean if expert == 0 else reversed(clean))]
        if first is None or second is None or others[0] is None or others[1] is None:
            continue
        values = [part.values(grad) for grad in (first, second, others[0], others[1])]
        pairs += [(values[0], values[1]), (values[0], values[2]), (values[1], values[3])]
    return np.array([*inner_products(pairs).reshape(-1, 3).sum(axis=0), len(pairs) / 3])


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
