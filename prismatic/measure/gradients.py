"""Measure gradients: tier norms, shares and alignment of every expert in every layer (log_gradient_dynamics, measure).

Small models would pay more for calls of Python and numpy than for the reading of their gradients, so what stays from
step to step is in a plan.
Axis letters: P tensors of an expert, E experts, L layers, R = P x E gradients of a layer, S sums of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prismatic.collectives import world
from prismatic.experts.discovery import find_routers
from prismatic.experts.found import FoundExperts
from prismatic.experts.protocol import SPARSITY, num_experts, roles_of, tiers_of
from prismatic.experts.tiers import TierIndices
from prismatic.experts.views import View
from prismatic.measure.dynamics import dynamics_of
from prismatic.measure.kernels import Sums, TensorGradients, measure_tensors
from prismatic.measure.metrics import ExpertDynamics, aggregate
from prismatic.measure.plan import Gradients, Plan, plans_of
from prismatic.measure.shards import PartTiers


def log_gradient_dynamics(model: nn.Module, step: int) -> dict[str, Any] | None:
    """Measure the gradients of every layer of experts in a model: call it after backward, before the optimizer's step.

    Returns what `DynamicsLogger.log` takes: `expert_gradients` and `divergence_scores` as means over layers, `layers`
    with a row per layer and expert, and counts of entries and tensors that could not be measured; None for a model
    without such a layer or without any gradient yet. Of more than 32 experts, `layers` is read like a list but kept as
    arrays, and `roles` are theirs.
    """
    routers = find_routers(model)
    if not has_gradients(routers):
        return None
    return {"step": step, **aggregate(measure(routers), roles_of(max(routers, key=num_experts)))}


Gradient = Callable[[nn.Parameter], Tensor | None]
OfView = Callable[[View], Tensor | None]
"""The gradient of one tensor of an expert: laid out like its parameter, or of the expert's own shape."""
_NOTHING = torch.empty(0)


dot_grad: Gradient = attrgetter("grad")
"""A function that returns the gradient that the optimizer is about to use."""


def has_gradients(routers: Sequence[Any], gradient: Gradient = dot_grad) -> bool:
    """Return whether any expert of any router has a gradient; True if `gradient` fails, as `measure` will."""
    parameters = [parameter for plan in plans_of(routers) for parameter in plan.parameters]
    if any(parameter.grad is not None for parameter in parameters):
        return True
    try:
        return any(gradient(parameter) is not None for parameter in parameters)
    except Exception:  # raised again in `measure`, by all processes, none of which then waits for another
        return True


def measure(routers: Sequence[Any], gradient: Gradient = dot_grad) -> list[Sequence[ExpertDynamics]]:
    """Return the dynamics of every expert of every router, [L][E].

    gradient: a function from a parameter to its gradient.
    If several processes train the model, each sums its part of every tensor and all of them get the total: every
    process must call it.
    """
    return _measured(routers, lambda plan: [*map(gradient, plan.parameters)])


def measure_views(routers: Sequence[Any], gradient: OfView) -> list[Sequence[ExpertDynamics]]:
    """Return the same from a function of an expert's tensors, which may share a parameter."""
    return _measured(routers, lambda plan: [*map(gradient, plan.views_R)])


@torch.no_grad()
def _measured(routers: Sequence[Any], gradients: Callable[[Plan], Gradients]) -> list[Sequence[ExpertDynamics]]:
    """Return the dynamics from a function that returns the gradients of a layer, [R]."""
    plans, layers = plans_of(routers), list[_Layer]()
    fetching = [plan for plan in plans if plan.fetching]
    # Before gradients are fetched, make sure that every process has its own: the others would wait for it.
    found = world().all_or_raise(lambda: [*map(gradients, fetching)]) if fetching else []
    fetched = dict(zip(fetching, found, strict=True))

    def local_numbers() -> NDArray[np.float64]:
        for router, plan in zip(routers, plans, strict=True):
            layers.append(_Layer.of(router, plan, fetched.get(plan) or gradients(plan)))
        sums, routed = measure_tensors([t for layer in layers for t in layer.tensors], [*map(_routed, routers)])
        own_sums = _split(sums, [layer.rows for layer in layers])
        parts = [part for own in zip(plans, own_sums, routed, strict=True) for part in _numbers(*own)]
        return np.concatenate([np.empty(0), *parts])

    lengths = [plan.numbers for plan in plans]
    numbers = _split(world().all_reduce(local_numbers, sum(lengths)), lengths)
    return [dynamics_of(layer.plan, own, layer.missing) for layer, own in zip(layers, numbers, strict=True)]


def _split(rows: NDArray[np.float64], lengths: Sequence[int]) -> list[NDArray[np.float64]]:
    """Return parts of so many rows, one after the other."""
    return [rows[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True)]


def _routed(router: Any) -> Tensor:
    """Return what is known of the routing: sums of weight and tokens [2, E], a layer's own shares [E], or nothing."""
    known = router.routing.peek() if isinstance(router, FoundExperts) else router.routing_weights
    return _NOTHING if known is None else known


@dataclass(frozen=True, eq=False)
class _Layer:
    """The gradients of one layer: the entries that this process counts, by parameter tensor."""

    tensors: Sequence[TensorGradients]
    """With the basis "base" there is one per tensor, else one per tensor *and* expert.

    With "each" it holds the gradients of expert 0 and of the expert; with "own", those of the expert alone.
    """
    missing: Sequence[int]
    """Per expert, the number of trained parameters without a gradient."""
    plan: Plan

    @property
    def rows(self) -> int:
        """The number of sums of this process."""
        return self.plan.sums * (2 if self.plan.basis == "each" else 1)

    @classmethod
    def of(cls, router: Any, plan: Plan, grads_R: Gradients) -> _Layer:
        """Return the layer of the gradients of all its tensors."""
        entries_R = plan.entries(grads_R)
        by_tensor = [entries_R[at : at + plan.experts] for at in range(0, len(entries_R), plan.experts)]
        return cls(_tensors(router, plan, by_tensor), plan.missing(grads_R), plan)


def _tensors(router: Any, plan: Plan, by_tensor: Sequence[Gradients]) -> list[TensorGradients]:
    """Return the gradients [P][E] with the tiers that they are summed by."""
    experts = range(plan.experts)
    if plan.basis == "base":
        return [*map(TensorGradients, by_tensor, plan.tiers(0, tiers_of(router)))]
    if plan.basis in ("own", "each"):
        of_each = [plan.tiers(expert, tiers_of(router, expert)) for expert in experts]
        return [
            TensorGradients([own[0], own[e]][plan.basis == "own" :], of_each[e][place])
            for place, own in enumerate(by_tensor)
            for e in experts
        ]
    sparsity = getattr(getattr(router, "config", None), "sparsity", SPARSITY)
    current = [
        TierIndices.of({name: view.parameter for name, view in views.items()}, sparsity, saved=False)
        for views in plan.views
    ]
    return [
        TensorGradients(own, PartTiers(part, tiers))
        for part, own in zip(plan.parts[0], by_tensor, strict=True)
        for tiers in current
    ]


def _numbers(plan: Plan, sums_S: Sums, routed: list[Any]) -> tuple[NDArray[np.float64], list[float]]:
    """Return the numbers of a layer that the processes add up, see `dynamics_of`. routed: see `_routed`."""
    # With the basis "each", a sum of the first expert comes before each one that counts.
    counted = sums_S[1::2] if plan.basis == "each" else sums_S
    told, weights, tokens = [math.nan] * plan.experts, [0.0] * plan.experts, [0.0] * plan.experts
    if routed and isinstance(routed[0], list):
        weights, tokens = routed
    elif routed:
        told = [share / world().size for share in routed]
    return counted.ravel(), [*told, *weights, *tokens]
