"""Measure gradients: tier norms, shares and alignment of every expert in every layer (log_gradient_dynamics, measure).

Axis letters: P weights of one tensor, E experts, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prismatic.collectives import world
from prismatic.contract.schema import PACKED_ABOVE, TIERS
from prismatic.experts.discovery import find_routers
from prismatic.experts.found import FoundExperts
from prismatic.experts.protocol import SPARSITY, num_experts, parameters_of, roles_of, tiers_of
from prismatic.experts.tiers import TierIndices
from prismatic.experts.views import View
from prismatic.measure.kernels import COLUMNS, Sums, TensorGradients, measure_tensors
from prismatic.measure.metrics import ExpertArrays, ExpertDynamics, aggregate
from prismatic.measure.plan import Plan
from prismatic.measure.shards import PartTiers, entries_of


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


def dot_grad(parameter: nn.Parameter) -> Tensor | None:
    """Return the gradient that the optimizer is about to use."""
    return parameter.grad


def has_gradients(routers: Sequence[Any], gradient: Gradient = dot_grad) -> bool:
    """Return whether any expert of any router has a gradient; True if `gradient` fails, as `measure` will."""
    parameters = [parameter for router in routers for parameter in parameters_of(router)]
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
    return measure_views(routers, lambda view: gradient(view.parameter))


@torch.no_grad()
def measure_views(routers: Sequence[Any], gradient: OfView) -> list[Sequence[ExpertDynamics]]:
    """Return the same from a function of an expert's tensors, which may share a parameter."""
    plans, layers = [Plan.of(router) for router in routers], list[_Layer]()
    fetching = [plan for plan in plans if plan.fetching]
    # Before gradients are fetched, make sure that every process has its own: the others would wait for it.
    found = world().all_or_raise(lambda: [_gradients(plan, gradient) for plan in fetching]) if fetching else []
    fetched = dict(zip(fetching, found, strict=True))

    def local_numbers() -> NDArray[np.float64]:
        for router, plan in zip(routers, plans, strict=True):
            layers.append(_Layer.of(router, plan, fetched.get(plan) or _gradients(plan, gradient)))
        tensors = [tensor for layer in layers for tensor in layer.tensors]
        sums, routed = measure_tensors(tensors, [_routed(router) for router in routers])
        remaining = iter(sums)
        of_layers = [[next(remaining) for _ in layer.tensors] for layer in layers]
        numbers = [layer.numbers(own, known) for layer, own, known in zip(layers, of_layers, routed, strict=True)]
        return np.concatenate(numbers) if numbers else np.empty(0)

    counts = [_count(plan) for plan in plans]
    numbers = world().all_reduce(local_numbers, sum(counts))
    parts = np.split(numbers, np.cumsum(counts)[:-1])
    return [layer.dynamics(part) for layer, part in zip(layers, parts, strict=True)]


def _routed(router: Any) -> Tensor:
    """Return what is known of the routing: sums of weight and tokens [2, E], a layer's own shares [E], or nothing."""
    known = router.routing.peek() if isinstance(router, FoundExperts) else router.routing_weights
    return torch.empty(0) if known is None else known


_Found = Sequence[Mapping[str, Tensor | None]]


def _gradients(plan: Plan, gradient: OfView) -> _Found:
    """Return each expert's gradients by name."""
    return [{name: gradient(view) for name, view in views.items()} for views in plan.views]


def _count(plan: Plan) -> int:
    """Return the length of a layer's `numbers`."""
    experts = len(plan.views)
    return len(plan.names) * experts * (experts if plan.basis == "current" else 1) * COLUMNS + 3 * experts


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

    @classmethod
    def of(cls, router: Any, plan: Plan, grads: _Found) -> _Layer:
        parts, basis = plan.parts, plan.basis
        missing = [
            sum(own[p.name] is None and p.view.parameter.requires_grad and p.held is not False for p in each)
            for own, each in zip(grads, parts, strict=True)
        ]
        values = [entries_of(each, own, stored=True) for own, each in zip(grads, parts, strict=True)]
        places = range(len(parts[0]))
        if basis == "base":
            tiers = plan.tiers(0, tiers_of(router))
            tensors = [TensorGradients([own[p] for own in values], tiers[p]) for p in places]
        elif basis in ("own", "each"):
            of_each = [plan.tiers(expert, tiers_of(router, expert)) for expert in range(len(values))]
            tensors = [
                TensorGradients([values[0][p], own[p]][basis == "own" :], tiers[p])
                for p in places
                for tiers, own in zip(of_each, values, strict=True)
            ]
        else:
            sparsity = getattr(getattr(router, "config", None), "sparsity", SPARSITY)
            current = [
                TierIndices.of({name: view.parameter for name, view in views.items()}, sparsity, saved=False)
                for views in plan.views
            ]
            tensors = [
                TensorGradients([own[p] for own in values], PartTiers(parts[0][p], tiers))
                for p in places
                for tiers in current
            ]
        return cls(tensors, missing, plan)

    def numbers(self, sums: Sequence[Sums], routed: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the numbers that the processes add up.

        They are the sums of every tensor, then for each expert the share that the layer tells, and the weight and the
        tokens that its router gave.
        """
        experts = len(self.missing)
        counted_sums = [each[-1:] for each in sums] if self.plan.basis == "each" else sums
        sums_PE = np.concatenate(counted_sums) if sums else np.empty((0, COLUMNS))
        told = routed / world().size if routed.ndim == 1 and len(routed) else np.full(experts, np.nan)
        counted = routed if routed.ndim == 2 else np.zeros((2, experts))
        return np.concatenate([sums_PE.ravel(), told, *counted])

    def dynamics(self, numbers: NDArray[np.float64]) -> Sequence[ExpertDynamics]:
        """Return each expert's dynamics from the total of `numbers` over all processes."""
        experts = len(self.missing)
        told, weights, tokens = numbers[-3 * experts :].reshape(3, experts)
        sums_PE = numbers[: -3 * experts].reshape(-1, experts, COLUMNS)
        if self.plan.basis == "current":
            # Of each parameter, take each expert's row from the sums by that expert's own tiers.
            by_tiers = sums_PE.reshape(-1, experts, *sums_PE.shape[1:])
            sums_PE = by_tiers[:, np.arange(experts), np.arange(experts)]
        total_E, peers = sums_PE.sum(axis=0), self.plan.basis == "own"
        norm_E = np.sqrt(total_E[:, :3].sum(axis=1))
        missing_E = np.array(self.missing, dtype=np.float64)
        if self.plan.fused:  # a gradient of zeros means that the expert had no token
            missing_E = np.where(norm_E == 0, len(self.plan.names), missing_E)
        columns = {
            **{f"{tier}_norm": np.sqrt(total_E[:, place]) for place, tier in enumerate(TIERS)},
            "norm": norm_E,
            "routing_weight": _shares(weights, told),
            "gradient_cosine": np.full(experts, np.nan)
            if self.plan.basis == "own"
            else _cosines(total_E[:, 3], norm_E),
            "bottom_to_middle": self._bottom_to_middle(sums_PE),
            "nonfinite": total_E[:, -1],
            "missing_gradients": missing_E,
            "token_share": _shares(tokens),
        }
        found = ExpertArrays(columns, peer=peers)
        return found if experts > PACKED_ABOVE else found[:]

    def _bottom_to_middle(self, sums_PE: Sums) -> NDArray[np.float64]:
        """Return, per expert, the mean over tensors of log(bottom norm / middle norm).

        The tensors are the same for every expert: those with tiers and without a zero in any expert's norms. An expert
        without any gradient, or with a non-finite one, gets NaN and excludes no tensor.
        """
        whole_E = sums_PE[:, :, :3].sum(axis=(0, 2))
        sound = np.isfinite(whole_E) & (whole_E > 0)
        bottom_PE, middle_PE = sums_PE[:, :, 1], sums_PE[:, :, 2]
        usable = ((bottom_PE[:, sound] > 0) & (middle_PE[:, sound] > 0)).all(axis=1)
        if not usable.any():
            return np.full(len(whole_E), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):  # of experts that are not sound
            mean_E = np.log(bottom_PE[usable] / middle_PE[usable]).mean(axis=0) / 2
        return np.where(sound, mean_E, np.nan)


def _shares(sums_E: NDArray[np.float64], told_E: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return each expert's share of a sum; what the layer told where nothing was summed; NaN without either."""
    if sums_E.sum() > 0:
        return np.asarray(sums_E / sums_E.sum())
    known = told_E is not None and bool(np.isfinite(told_E).all())
    return told_E if known and told_E is not None else np.full(len(sums_E), np.nan)


def _cosines(product_E: NDArray[np.float64], norm_E: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each gradient with the first one; NaN if one of them is zero or not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        both_E = norm_E * norm_E[0]
    known_E = (both_E > 0) & np.isfinite(both_E) & np.isfinite(product_E)
    return np.where(known_E, product_E / np.where(known_E, both_E, 1.0), np.nan)
