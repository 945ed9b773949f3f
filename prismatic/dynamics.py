"""Gradients in, numbers out: tier norms, divergence and alignment of every expert, per layer and as their mean.

Axis letters: P weights of one tensor, E experts, K tiers in the order of `schema.TIERS`, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prismatic.meter import SUMS, Sums, TensorGradients, measure_tensors
from prismatic.processes import processes
from prismatic.schema import TIERS
from prismatic.shards import parts_of
from prismatic.tiers import TierIndices

SPARSITY = 0.1  # of routers that do not say themselves


@runtime_checkable
class RoutedExperts(Protocol):
    """What a layer must have to be measured: a Prismatic router is one, and so is any mixture of experts that has

    experts: an nn.ModuleList of blocks of the same shapes, the first of which the others are compared to;
    routing_weights: Tensor [E], each expert's share of the last batch; None where nothing is routed.

    Where the layer also has `tiers` (a `TierIndices`, saved with the model) they are used; otherwise they are made from
    the first expert's weights when the layer is first seen, and a resumed run would make others. `mixture` and `roles`
    say what it is and what its experts are (`prismatic.experts`); `forced`, which the layer then must obey, lets the
    isolated probe run one expert alone: its number, or None.
    """

    @property
    def experts(self) -> nn.ModuleList: ...

    @property
    def routing_weights(self) -> Tensor | None: ...


@dataclass(frozen=True)
class ExpertDynamics:
    """One expert of one layer at one step. Norms are L2 over all its parameters; NaN where a gradient is NaN."""

    top_norm: float
    bottom_norm: float
    middle_norm: float
    norm: float
    routing_weight: float | None
    gradient_cosine: float | None
    bottom_to_middle: float | None
    nonfinite: int
    missing_gradients: int
    noise_direction: float | None = None
    weight_cosine: float | None = None
    weight_distance: float | None = None


_TIERS_OF_OTHERS: WeakKeyDictionary[nn.Module, TierIndices] = WeakKeyDictionary()


def find_routers(model: nn.Module) -> list[Any]:
    """Every layer of the model that is routed over experts, wherever it is, in the order the model holds them."""
    # Asked for one attribute first: a protocol is slow to ask, and most modules have none of it.
    candidates = (module for module in model.modules() if hasattr(module, "experts"))
    return [module for module in candidates if isinstance(module, RoutedExperts) and len(module.experts) > 1]


def tiers_of(router: Any) -> TierIndices:
    """The router's own tiers, or those of the weights its first expert had when it was first seen."""
    own = getattr(router, "tiers", None)
    if isinstance(own, TierIndices):
        return own
    if router not in _TIERS_OF_OTHERS:
        _TIERS_OF_OTHERS[router] = TierIndices.of(dict(router.experts[0].named_parameters()), SPARSITY)
    return _TIERS_OF_OTHERS[router]


def log_gradient_dynamics(model: nn.Module, step: int) -> dict[str, Any] | None:
    """Measure the gradients of every Prismatic router of `model`: call it after backward, before the optimizer's step.

    Returns what `DynamicsLogger.log` takes: `expert_gradients` and `divergence_scores` as means over layers, `layers`
    with a row per layer and expert, and counts of what could not be measured; None for a model without routers or
    without any gradient yet.
    """
    routers = find_routers(model)
    if not has_gradients(routers):
        return None
    return {"step": step, **aggregate(measure(routers))}


def has_gradients(routers: Sequence[RoutedExperts]) -> bool:
    """Whether any expert of any router has a gradient."""
    experts = [expert for router in routers for expert in router.experts]
    return any(parameter.grad is not None for expert in experts for parameter in expert.parameters())


Gradient = Callable[[nn.Parameter], Tensor | None]


def dot_grad(parameter: nn.Parameter) -> Tensor | None:
    """The gradient that the optimizer is about to use."""
    return parameter.grad


@torch.no_grad()
def measure(routers: Sequence[RoutedExperts], gradient: Gradient = dot_grad) -> list[list[ExpertDynamics]]:
    """The dynamics of every expert of every router, [L][E]; `gradient` says where a parameter's gradient is.

    Of a model that several processes train, each counts its part of every tensor, and their sums are added up: every
    process must call it, and has the numbers of the whole.
    """
    layers: list[_Layer] = []

    def own_numbers() -> NDArray[np.float64]:
        layers.extend(_Layer.of(router, gradient) for router in routers)
        tensors = [tensor for layer in layers for tensor in layer.tensors]
        routed = [router.routing_weights for router in routers]
        sums, shares = measure_tensors(tensors, [torch.empty(0) if own is None else own for own in routed])
        arrived = iter(sums)
        numbers = [
            layer.numbers([next(arrived) for _ in layer.tensors], p) for layer, p in zip(layers, shares, strict=True)
        ]
        return np.concatenate(numbers) if numbers else np.empty(0)

    counts = [_Layer.count(router) for router in routers]
    numbers = processes().total(own_numbers, sum(counts))
    parts = np.split(numbers, np.cumsum(counts)[:-1])
    return [layer.dynamics(part) for layer, part in zip(layers, parts, strict=True)]


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer's gradients, by parameter tensor, and how many of each expert's should be there and are not."""

    tensors: Sequence[TensorGradients]
    """What this process counts of them."""
    missing: Sequence[int]
    routed: bool
    own_tiers: bool = False
    """Whether every expert has tiers of its own; then there is a TensorGradients per parameter *and* expert."""

    @classmethod
    def of(cls, router: RoutedExperts, gradient: Gradient) -> _Layer:
        tiers = tiers_of(router)
        experts = [dict(expert.named_parameters()) for expert in router.experts]
        parts = parts_of(experts[0])
        grads = [{name: gradient(weight) for name, weight in expert.items()} for expert in experts]
        missing = [
            sum(own[name] is None and weight.requires_grad for name, weight in expert.items())
            for own, expert in zip(grads, experts, strict=True)
        ]
        routed = router.routing_weights is not None
        values = {
            part.name: [None if (grad := own.get(part.name)) is None else part.values(grad) for own in grads]
            for part in parts
        }
        if _tier_basis(router) == "base":
            return cls([TensorGradients(values[part.name], part.tiers(tiers)) for part in parts], missing, routed)
        sparsity = getattr(getattr(router, "config", None), "sparsity", SPARSITY)
        current = [TierIndices.of(expert, sparsity) for expert in experts]
        tensors = [TensorGradients(values[part.name], part.tiers(own)) for part in parts for own in current]
        return cls(tensors, missing, routed, own_tiers=True)

    @staticmethod
    def count(router: RoutedExperts) -> int:
        """How many numbers a layer of this router has."""
        experts = len(router.experts)
        tensors = sum(1 for _ in router.experts[0].parameters()) * (1 if _tier_basis(router) == "base" else experts)
        return (tensors * len(SUMS) + 2) * experts

    def numbers(self, sums: Sequence[Sums], shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the processes add up: the sums of every tensor, how many entries are not finite, and the shares."""
        sums_PE = np.stack(sums)
        nonfinite = [self._count_nonfinite(sums_PE, expert) for expert in range(len(self.missing))]
        shares = shares / processes().size if self.routed else np.zeros(len(nonfinite))
        return np.concatenate([sums_PE.ravel(), nonfinite, shares])

    def dynamics(self, numbers: NDArray[np.float64]) -> list[ExpertDynamics]:
        """Per expert, from `numbers`, of all processes."""
        experts = len(self.missing)
        nonfinite, shares = numbers[-2 * experts :].reshape(2, experts).tolist()
        sums_PE = numbers[: -2 * experts].reshape(-1, experts, len(SUMS))
        if self.own_tiers:
            # Of each parameter, the row of each expert from the sums that were taken by that expert's tiers.
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
        """Per expert, the mean over tensors of log(bottom norm / middle norm).

        Over the same tensors for every expert: those with tiers in which none of them has a zero. An expert without any
        gradient, or with one that is not finite, has no such mean and does not count here.
        """
        every = len(self.missing) if self.own_tiers else 1
        ranked = [place for place, tensor in enumerate(self.tensors[::every]) if len(tensor.tiers.bottom)]
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
        """How many gradient entries are NaN or infinite: a second pass, made only when the first one met any."""
        if math.isfinite(sums_PE[:, expert, :3].sum()):
            return 0
        every = len(self.missing) if self.own_tiers else 1
        grads = [tensor.gradients[expert] for tensor in self.tensors[::every]]
        return sum(int((~torch.isfinite(grad)).sum()) for grad in grads if grad is not None)


def _tier_basis(router: RoutedExperts) -> str:
    return getattr(getattr(router, "config", None), "tier_basis", "base")


def cosine(product: float, norm: float, other: float) -> float | None:
    both = norm * other
    return float(product / both) if both > 0 and math.isfinite(both) and math.isfinite(product) else None


def divergence(expert: ExpertDynamics, clean: ExpertDynamics) -> float:
    """The documented score: mean over tiers of |norm_i - norm_0|. It scales with the loss and the routing share."""
    return fmean(abs(getattr(expert, f"{tier}_norm") - getattr(clean, f"{tier}_norm")) for tier in TIERS)


def relative_divergence(expert: ExpertDynamics, clean: ExpertDynamics) -> float | None:
    """Mean over tiers of |n_i/p_i - n_0/p_0| / (n_0/p_0): free of the loss's scale and of the routing share.

    None where an expert has no share or a tier of the clean expert has no gradient.
    """
    # An expert that was measured alone was not routed to: its share is the whole.
    shares = [1.0 if e.routing_weight is None else e.routing_weight for e in (expert, clean)]
    if not all(shares):
        return None
    ratios = []
    for tier in TIERS:
        own = getattr(expert, f"{tier}_norm") / shares[0]
        base = getattr(clean, f"{tier}_norm") / shares[1]
        if not base:
            return None
        ratios.append(abs(own - base) / base)
    return fmean(ratios)


def aggregate(layers: Sequence[Sequence[ExpertDynamics]]) -> dict[str, Any]:
    """Means over layers under the documented names, and a row per layer and expert. Layers may differ in experts."""
    rows = layer_rows(layers, "merged")
    num_experts = max(map(len, layers))
    gradients, scores = {}, {}
    for expert in range(num_experts):
        mine = [row for row in rows if row["expert"] == expert]
        whole = "perturbed_norm" if expert else "clean_norm"
        gradients[f"expert_{expert}"] = {
            **{f"{tier}_norm": _mean(mine, f"{tier}_norm") for tier in TIERS},
            whole: _mean(mine, "norm"),
            "routing_weight": _mean(mine, "routing_weight"),
            "bottom_to_middle": _mean(mine, "bottom_to_middle"),
        }
        if expert:
            scores[f"expert_{expert}_divergence"] = _mean(mine, "divergence")
            scores[f"expert_{expert}_relative_divergence"] = _mean(mine, "relative_divergence")
            cosine = _mean(mine, "gradient_cosine")
            scores[f"expert_{expert}_direction"] = None if cosine is None else 1 - cosine
    return {
        "expert_gradients": gradients,
        "divergence_scores": scores,
        "nonfinite": sum(row["nonfinite"] for row in rows),
        "missing_gradients": sum(row["missing_gradients"] for row in rows),
        "layers": rows,
    }


def layer_rows(layers: Sequence[Sequence[ExpertDynamics]], source: str) -> list[dict[str, Any]]:
    """A row of the `layers` table for each layer and expert, by column name, without the step."""
    return [
        {
            "layer": layer,
            "expert": i,
            "source": source,
            **vars(expert),
            "divergence": divergence(expert, experts[0]) if i else None,
            "relative_divergence": relative_divergence(expert, experts[0]) if i else None,
        }
        for layer, experts in enumerate(layers)
        for i, expert in enumerate(experts)
    ]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Mean over the layers that have a value; None where none has."""
    values = [row[name] for row in rows if row[name] is not None]
    return fmean(values) if values else None
