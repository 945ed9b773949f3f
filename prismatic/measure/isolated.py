"""The isolated probe: each expert's gradient measured alone on the same batch, without any routing.

Training is not affected: gradients come from `torch.autograd.grad` and leave `.grad` alone (under FSDP2 `.grad` is
restored), random states and buffers are restored, and the optimizer is not involved.
Axis letters: B sequences of a batch, E experts, L layers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from prismatic.collectives import world
from prismatic.experts.discovery import find_routers
from prismatic.experts.protocol import can_force, num_experts
from prismatic.experts.tiers import is_sharded
from prismatic.experts.views import View
from prismatic.measure.gradients import measure_views
from prismatic.measure.metrics import ExpertDynamics, PairDynamics
from prismatic.measure.outputs import OutputComparison, compared_outputs, output_distances
from prismatic.measure.pairs import (
    Gradients,
    HalfProducts,
    PairValues,
    half_products,
    pair_products,
    weight_distances,
)
from prismatic.measure.plan import Plan, plans_of

Loss = Callable[[Any], Tensor]
Probe = tuple[Loss, Any]
"""The training loss as a function of a batch, and the batch: tensors [B, ...], alone or in a mapping or sequence."""


class IsolatedDynamics(NamedTuple):
    """The dynamics of every expert of every layer, [L][E], and the comparison of its pairs of experts, [L][pairs]."""

    layers: list[list[ExpertDynamics]]
    pairs: list[list[PairDynamics]]
    unreached: frozenset[tuple[int, int]] = frozenset()
    """The layers and experts whose trained weights got no gradient from the loss; their norms mean nothing."""


def isolated_dynamics(model: nn.Module, loss: Loss, batch_B: Any, *, compared: bool = True) -> IsolatedDynamics:
    """Return the dynamics of every expert of every router, each with all routers forced to that expert.

    compared: compare the pairs of experts as well, at most SAMPLE experts of a layer.
    loss, batch_B: see `Probe`; the loss is a mean over sequences.

    A custom layer without `forced` is left out: its list is empty. Routing weights are None. Each gradient is the mean
    over two halves of the batch, sequences of even and of odd number, and the products between halves tell a direction
    from the noise of the batch: `half_product` of every expert and pair, `half_product_clean` of every expert but 0.
    All are None if the batch has no two sequences; of an odd number the last sequence is not used.
    If several processes train the model, every process must call it with its own share of the batch, in rank order, or
    with the same batch where they share it.
    Under DDP give the loss of the module inside; under FSDP2 give the whole model.
    """
    every = find_routers(model)
    routers = [router for router in every if can_force(router)]
    if not routers:
        return IsolatedDynamics([], [])
    means: Gradients = {}
    probed = _Probed.of(model, routers)
    products = [HalfProducts(plan.views, compared=compared) for plan in probed.plans]
    with _unchanged(probed):
        halves = _halves(loss, batch_B) or [_Half(lambda: loss(batch_B), counted=True)]
        with compared_outputs(routers if compared else ()) as outputs:
            for expert in range(max(map(num_experts, routers))):
                found = []
                for half in halves:
                    with _same_random_numbers(probed):  # or experts would differ by what dropout leaves of them
                        found.append(_alone(probed, expert, half.loss))
                means |= _mean_of(found)
                if len(found) == 2:
                    half_products(products, expert, found[0], means)
        if compared and len(halves) == 2:
            pair_products(products)
        layers = measure_views(routers, lambda view: means.get(view.key))
        found_pairs = _pairs(routers, products, outputs, counted=halves[0].counted) if compared else []
    found_layers = [
        [_with_products(dynamics, e, products[layer].values) for e, dynamics in enumerate(experts)]
        for layer, experts in enumerate(layers)
    ]
    found_all = IsolatedDynamics(found_layers, found_pairs, _unreached(probed.plans, means))
    return _numbered(found_all, [number for number, router in enumerate(every) if can_force(router)])


def _numbered(found: IsolatedDynamics, numbers: Sequence[int]) -> IsolatedDynamics:
    """Return the probed layers at their numbers in the model; layers that were left out have no experts."""
    places = {number: place for place, number in enumerate(numbers)}
    return IsolatedDynamics(
        [found.layers[places[n]] if n in places else [] for n in range(numbers[-1] + 1)],
        [found.pairs[places[n]] if n in places else [] for n in range(numbers[-1] + 1)] if found.pairs else [],
        frozenset((numbers[layer], expert) for layer, expert in found.unreached),
    )


def _pairs(
    routers: Sequence[Any], products: Sequence[HalfProducts], outputs: Sequence[OutputComparison], *, counted: bool
) -> list[list[PairDynamics]]:
    """Return the comparison of the pairs of each layer. counted: see `output_distances`."""
    values = zip(
        (layer.values for layer in products),
        weight_distances(routers),
        output_distances(outputs, counted=counted),
        strict=True,
    )
    return [[PairDynamics(*pair, *(each.get(pair) for each in layer)) for pair in layer[1]] for layer in values]


def _with_products(dynamics: ExpertDynamics, expert: int, products: PairValues) -> ExpertDynamics:
    return replace(
        dynamics,
        routing_weight=None,
        token_share=None,
        half_product=products.get((expert, expert)),
        half_product_clean=products.get((0, expert)) if expert else None,
    )


class _Probed(NamedTuple):
    """The model that is probed, and what is looked up in it once: it may have thousands of experts."""

    model: nn.Module
    routers: Sequence[Any]
    plans: Sequence[Plan]
    devices: Sequence[int]
    """The GPUs that hold the model, whose random numbers it may draw."""

    @classmethod
    def of(cls, model: nn.Module, routers: Sequence[Any]) -> _Probed:
        """Return the model with its layers."""
        devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
        return cls(model, routers, plans_of(routers), sorted(devices))


def _alone(probed: _Probed, expert: int, loss: Callable[[], Tensor]) -> Gradients:
    """Return the gradients of one expert's parameters in every layer, with every router forced to it.

    They are means over all processes, as the optimizer's gradients are.
    """
    model, alone = probed.model, [plan.views[expert].values() for plan in probed.plans if expert < plan.experts]
    with _forced(probed.routers, expert), torch.enable_grad():
        # An adapter is trained only while it is forced.
        by_layer = [[view for view in own if view.parameter.requires_grad] for own in alone]
        views = [view for own in by_layer for view in own]
        if not views:  # all frozen
            return {}
        parameters = [*dict.fromkeys(view.parameter for view in views)]
        if any(map(is_sharded, parameters)):
            found = _backward_gradients(model, parameters, loss)
            return {view.key: _own(view, found) for view in views}
        # Before the mean, make sure that no process failed: the others would wait for it.
        with _same_random_numbers(probed):
            grads = world().all_or_raise(lambda: torch.autograd.grad(loss(), parameters, allow_unused=True))
        found = dict(zip(parameters, grads, strict=True))
        hidden = [all(found[view.parameter] is None for view in own) for own in by_layer if own]
        if any(world().gather(any(hidden))) and not _act_in_backward(model):
            # Reentrant checkpointing hides its weights from `grad`, and not from `backward`.
            found = world().all_or_raise(lambda: _backward_gradients(model, parameters, loss))
    return dict(zip([view.key for view in views], _averaged([_own(view, found) for view in views]), strict=True))


def _act_in_backward(model: nn.Module) -> bool:
    """Return whether a backward pass does more than to add gradients, such as the steps of an optimizer."""
    return any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in model.parameters())


def _unreached(plans: Sequence[Plan], means: Gradients) -> frozenset[tuple[int, int]]:
    """Return the layer and expert of each whose trained weights have no gradient at all, in any process."""
    found = set()
    for layer, plan in enumerate(plans):
        for expert, views in enumerate(plan.views):
            trained = [view.key for view in views.values() if view.parameter.requires_grad]
            if trained and all(means.get(key) is None for key in trained):
                found.add((layer, expert))
    return frozenset.intersection(*map(frozenset, world().gather(found)))


def _own(view: View, gradients: Mapping[nn.Parameter, Tensor | None]) -> Tensor | None:
    """Return this expert's part of a gradient, as a copy if the parameter holds all experts."""
    whole = gradients[view.parameter]
    own = None if whole is None else view.of(whole)
    return own.clone() if own is not None and view.expert is not None else own


def _backward_gradients(
    model: nn.Module, parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor]
) -> dict[nn.Parameter, Tensor | None]:
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


class _Half(NamedTuple):
    """Half of the batch: its loss, and True if this process has a share of it."""

    loss: Callable[[], Tensor]
    counted: bool


def _halves(loss: Loss, batch_B: Any) -> list[_Half]:
    """Return the halves of the batch, the even sequences first; none if the batch has no two sequences.

    The halves are those of the whole batch, whatever share of it this process has, and the mean over all processes is
    the mean over the half's sequences. Even and odd numbers spread the work of each half over all processes. Processes
    that hold the same batch, as those that share the tokens of one do, take the same half of it.
    """
    known = world().gather((_sequences(batch_B), _digest(batch_B)))
    rank = world().rank
    if len({digest for _, digest in known}) == 1:
        known, rank = known[:1], 0
    lengths = [length for length, _ in known]
    own, before = lengths[rank], sum(lengths[:rank])
    half = sum(lengths) // 2

    def half_of(parity: int) -> _Half:
        rows = slice((parity - before) % 2, max(min(own, 2 * half - before), 0), 2)
        share = len(range(own)[rows]) * len(lengths) / half
        part = _part(batch_B, rows if share else slice(1))  # a process without any sequence joins with one
        return _Half(lambda: share * loss(part), counted=share > 0)

    return [half_of(parity) for parity in (0, 1)] if half else []


def _mean_of(halves: Sequence[Gradients]) -> Gradients:
    """Return the gradients of the whole batch."""
    if len(halves) == 1:
        return dict(halves[0])
    means: Gradients = {}
    for parameter, first in halves[0].items():
        second = halves[1][parameter]
        means[parameter] = None if first is None or second is None else (first + second) / 2
    return means


def _sequences(batch_B: Any) -> int:
    """Return B; 0 if the batch holds no tensor of sequences."""
    if isinstance(batch_B, Tensor):
        return len(batch_B) if batch_B.dim() else 0
    inner = batch_B.values() if isinstance(batch_B, Mapping) else batch_B if isinstance(batch_B, list | tuple) else ()
    return next((length for length in map(_sequences, inner) if length), 0)


def _digest(batch_B: Any) -> str:
    """Return a hash of all tensors of the batch, equal in two processes that hold the same one."""
    digest = hashlib.sha256()
    pending = [batch_B] if world().size > 1 else []
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping | list | tuple):
            pending += value.values() if isinstance(value, Mapping) else value
    return digest.hexdigest()


def _part(batch_B: Any, rows: slice) -> Any:
    """Return some sequences of the batch; anything else in it, such as a count, stays."""
    if isinstance(batch_B, Tensor):
        return batch_B[rows].contiguous() if batch_B.dim() else batch_B  # models call view() on their labels
    if isinstance(batch_B, Mapping):
        return {name: _part(value, rows) for name, value in batch_B.items()}
    return [_part(value, rows) for value in batch_B] if isinstance(batch_B, list | tuple) else batch_B


@contextmanager
def _forced(routers: Sequence[Any], expert: int) -> Iterator[None]:
    """Make every router run this expert alone; a router with fewer experts runs its clean one."""
    try:
        for router in routers:
            router.forced = expert if expert < num_experts(router) else 0
        yield
    finally:
        for router in routers:
            router.forced = None


@contextmanager
def _unchanged(probed: _Probed) -> Iterator[None]:
    """Restore random states and buffers at the end, so that the forward passes in between leave no trace."""
    # Eager, because a compiled model would compile again for every forced expert.
    with _same_random_numbers(probed), torch.compiler.set_stance("force_eager"), _copied_buffers(probed.model):
        yield


@contextmanager
def _same_random_numbers(probed: _Probed) -> Iterator[None]:
    """Restore all random states at the end."""
    python, numeric = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=probed.devices):
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
