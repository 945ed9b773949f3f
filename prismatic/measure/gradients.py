"""Measure gradients: tier norms, shares and alignment of every expert in every layer (log_gradient_dynamics, measure).

Axis letters: P weights of one tensor, E experts, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prismatic.collectives import world
from prismatic.experts.protocol import SPARSITY, RoutedExperts, find_routers, tier_basis, tiers_of
from prismatic.experts.tiers import TierIndices
from prismatic.measure.kernels import SUMS, Sums, TensorGradients, measure_tensors
from prismatic.measure.metrics import ExpertDynamics, aggregate, cosine
from prismatic.measure.shards import parts_of


def log_gradient_dynamics(model: nn.Module, step: int) -> dict[str, Any] | None:
    """Measure the gradients of every layer of experts in a model: call it after backward, before the optimizer's step.

    Returns what `DynamicsLogger.log` takes: `expert_gradients` and `divergence_scores` as means over layers, `layers`
    with a row per layer and expert, and counts of entries and tensors that could not be measured; None for a model
    without such a layer or without any gradient yet.
    """
    routers = find_routers(model)
    if not has_gradients(routers):
        return None
    return {"step": step, **aggregate(measure(routers))}


def has_gradients(routers: Sequence[RoutedExperts]) -> bool:
    """Return whether any expert of any router has a gradient."""
    experts = [expert for router in routers for expert in router.experts]
    return any(parameter.grad is not None for expert in experts for parameter in expert.parameters())


Gradient = Callable[[nn.Parameter], Tensor | None]


def dot_grad(parameter: nn.Parameter) -> Tensor | None:
    """Return the gradient that the optimizer is about to use."""
    return parameter.grad


@torch.no_grad()
def measure(routers: Sequence[RoutedExperts], gradient: Gradient = dot_grad) -> list[list[ExpertDynamics]]:
    """Return the dynamics of every expert of every router, [L][E].

    gradient: a function from a parameter to its gradient.
    If several processes train the model, each sums its part of every tensor and all of them get the total: every
    process must call it.
    """
    layers: list[_Layer] = []

    def local_numbers() -> NDArray[np.float64]:
        layers.extend(_Layer.of(router, gradient) for router in routers)
        tensors = [tensor for layer in layers for tensor in layer.tensors]
        routed = [router.routing_weights for router in routers]
        sums, shares = measure_tensors(tensors, [torch.empty(0) if weights is None else weights for weights in routed])
        remaining = iter(sums)
        numbers = [
            layer.numbers([next(remaining) for _ in layer.tensors], p) for layer, p in zip(layers, shares, strict=True)
        ]
        return np.concatenate(numbers) if numbers else np.empty(0)

    counts = [_Layer.count(router) for router in routers]
    numbers = world().all_reduce(local_numbers, sum(counts))
    parts = np.split(numbers, np.cumsum(counts)[:-1])
    return [layer.dynamics(part) for layer, part in zip(layers, parts, strict=True)]


@dataclass(frozen=True, eq=False)
class _Layer:
    """The gradients of one layer: the entries that this process counts, by parameter tensor."""

    tensors: Sequence[TensorGradients]
    missing: Sequence[int]
    """Per expert, the number of trained parameters without a gradient."""
    routed: bool
    own_tiers: bool = False
    """True if every expert has its own tiers; then there is a TensorGradients per parameter *and* expert."""

    @classmethod
    def of(cls, router: RoutedExperts, gradient: Gradient) -> _Layer:
        tiers = tiers_of(router)
        experts = [dict(expert.named_parameters()) for expert in router.experts]
        parts = parts_of(experts[0])
        grads = [{name: gradient(weight) for name, weight in expert.items()} for expert in experts]
        missing = [
            sum(by_name[name] is None and weight.requires_grad for name, weight in expert.items())
            for by_name, expert in zip(grads, experts, strict=True)
        ]
        routed = router.routing_weights is not None
        values = {
            part.name: [None if (grad := by_name.get(part.name)) is None else part.values(grad) for by_name in grads]
            for part in parts
        }
        if tier_basis(router) == "base":
            return cls([TensorGradients(values[part.name], part.tiers(tiers)) for part in parts], missing, routed)
        sparsity = getattr(getattr(router, "config", None), "sparsity", SPARSITY)
        current = [TierIndices.of(expert, sparsity) for expert in experts]
        tensors = [TensorGradients(values[part.name], part.tiers(expert)) for part in parts for expert in current]
        return cls(tensors, missing, routed, own_tiers=True)

    @staticmethod
    def count(router: RoutedExperts) -> int:
        """Return the length of `numbers` for a layer of this router."""
        experts = len(router.experts)
        tensors = sum(1 for _ in router.experts[0].parameters()) * (1 if tier_basis(router) == "base" else experts)
        return (tensors * len(SUMS) + 2) * experts

    def numbers(self, sums: Sequence[Sums], shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the numbers that the processes add up: sums of every tensor, counts of non-finite entries, shares."""
        sums_PE = np.stack(sums)
        nonfinite = [self._count_nonfinite(sums_PE, expert) for expert in range(len(self.missing))]
        shares = shares / world().size if self.routed else np.zeros(len(nonfinite))
        return np.concatenate([sums_PE.ravel(), nonfinite, shares])

    def dynamics(self, numbers: NDArray[np.float64]) -> list[ExpertDynamics]:
        """Return each expert's dynamics from the total of `numbers` over all processes."""
        experts = len(self.missing)
        nonfinite, shares = numbers[-2 * experts :].reshape(2, experts).tolist()
        sums_PE = numbers[: -2 * experts].reshape(-1, experts, len(SUMS))
        if self.own_tiers:
            # Of each parameter, take each expert's row from the sums by that expert's own tiers.
            by_tiers = sums_PE.reshape(-1, experts, *sums_PE.shape[1:])
            sums_PE = by_tiers[:, np.arange(experts), np.arange(experts)]
        total = sums_PE.sum(axis=0)
        norms = [math.sqrt(row[:3].sum()) for row in total]
        ratios = self._bottom_to_middle(sums_PE)
        return [
            ExpertDynamics(
                top_norm=math.sqrt(row[0]),
                bottom_norm=math.sqrt(row[1]),
                middle_norm=math.sqrt(row[2]),
                norm=norms[expert],
                routing_weight=shares[expert] if self.routed else None,
                gradient_cosine=cosine(row[3], norms[expert], norms[0]),
                bottom_to_middle=ratios[expert],
                nonfinite=int(nonfinite[expert]),
                missing_gradients=self.missing[expert],
            )
            for expert, row in enumerate(total)
        ]

    def _bottom_to_middle(self, sums_PE: Sums) -> list[float | None]:
        """Return, per expert, the mean over tensors of log(bottom norm / middle norm).

        The tensors are the same for every expert: those with tiers and without a zero in any expert's norms. An expert
        without any gradient, or with a non-finite one, gets None and excludes no tensor.
        """
        stride = len(self.missing) if self.own_tiers else 1
        ranked = [place for place, tensor in enumerate(self.tensors[::stride]) if len(tensor.tiers.bottom)]
        bottom_PE, middle_PE = sums_PE[ranked, :, 1], sums_PE[ranked, :, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio_PE = np.log(bottom_PE / middle_PE) / 2
        whole_E = sums_PE[:, :, :3].sum(axis=(0, 2))
        sound = np.isfinite(whole_E) & (whole_E > 0)
        usable = np.isfinite(ratio_PE[:, sound]).all(axis=1)
        return [
            float(ratio_PE[usable, expert].mean()) if sound[expert] and usable.any() else None
            for expert in range(len(whole_E))
        ]

    def _count_nonfinite(self, sums_PE: Sums, expert: int) -> int:
        """Return the number of NaN or infinite gradient entries: a second pass, only if the sums are not finite."""
        if math.isfinite(sums_PE[:, expert, :3].sum()):
            return 0
        stride = len(self.missing) if self.own_tiers else 1
        grads = [tensor.gradients[expert] for tensor in self.tensors[::stride]]
        return sum(int((~torch.isfinite(grad)).sum()) for grad in grads if grad is not None)
