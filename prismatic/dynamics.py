"""Gradients in, numbers out: tier norms, divergence and alignment of every expert, per layer and as their mean.

Axis letters: P weights of one tensor, E experts, K tiers in the order of `schema.TIERS`, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from prismatic.perturbation import Tiers
from prismatic.router import Prismatic
from prismatic.schema import TIERS

# What `_expert_sums` returns, in order: sums of squares per tier, product with expert 0, sum and count of log ratios.
_SUMS = (*TIERS, "product", "log_ratio", "ranked")


@dataclass(frozen=True)
class ExpertDynamics:
    """One expert of one layer at one step. Norms are L2 over all its parameters; NaN where a gradient is NaN."""

    top_norm: float
    bottom_norm: float
    middle_norm: float
    norm: float
    routing_weight: float
    gradient_cosine: float | None
    bottom_to_middle: float | None
    nonfinite: int
    missing_gradients: int


def find_routers(model: nn.Module) -> list[Prismatic]:
    """Every Prismatic router of the model, wherever it is, in the order the model holds them."""
    return [module for module in model.modules() if isinstance(module, Prismatic)]


def log_gradient_dynamics(model: nn.Module, step: int) -> dict[str, Any] | None:
    """Measure the gradients of every Prismatic router of `model`: call it after backward, before the optimizer's step.

    Returns what `DynamicsLogger.log` takes: `expert_gradients` and `divergence_scores` as means over layers, `layers`
    with a row per layer and expert, and counts of what could not be measured; None for a model without routers or
    without any gradient yet.
    """
    routers = find_routers(model)
    if not any(parameter.grad is not None for router in routers for parameter in router.experts.parameters()):
        return None
    return {"step": step, **aggregate(measure(routers))}


def measure(routers: Sequence[Prismatic]) -> list[list[ExpertDynamics]]:
    """The dynamics of every expert of every router, [L][E], from the `.grad` of their parameters."""
    sums = [_layer_sums(router) for router in routers]
    # One transfer for all layers: reading each number by itself would stall a GPU once per number.
    values = torch.cat([torch.cat([s.flatten(), r.routing_E.double()]) for s, r in zip(sums, routers, strict=True)])
    numbers = values.tolist()
    layers = []
    for router in routers:
        experts = len(router.roles)
        cut = experts * len(_SUMS)
        rows, shares, numbers = numbers[:cut], numbers[cut : cut + experts], numbers[cut + experts :]
        table = [dict(zip(_SUMS, rows[i * len(_SUMS) : (i + 1) * len(_SUMS)], strict=True)) for i in range(experts)]
        layers.append([_expert_dynamics(router, i, table, shares[i]) for i in range(experts)])
    return layers


@torch.no_grad()
def _layer_sums(router: Prismatic) -> Tensor:
    """[E, len(_SUMS)], float64: bf16 or float32 sums would round the small tiers away."""
    clean = _gradients(router, 0)
    return torch.stack([_expert_sums(router, _gradients(router, i), clean) for i in range(len(router.roles))])


def _expert_sums(router: Prismatic, gradients: dict[str, Tensor], clean: dict[str, Tensor]) -> Tensor:
    sums = router.routing_E.new_zeros(len(_SUMS), dtype=torch.float64)
    for name, grad_P in gradients.items():
        tiers = router.tiers[name]
        squares_K = tier_squares(grad_P, tiers)
        sums[:3] += squares_K
        if name in clean:
            sums[3] += grad_P @ clean[name]
        if len(tiers.bottom):
            sums[4] += (squares_K[1] / squares_K[2]).log() / 2
            sums[5] += 1
    return sums


def tier_squares(grad_P: Tensor, tiers: Tiers) -> Tensor:
    """Sum of squares of each tier's gradient entries, [K], in the dtype of grad_P."""
    square_P = grad_P.square()
    ends = torch.stack([square_P[tiers.top].sum(), square_P[tiers.bottom].sum()])
    # The middle is summed, not subtracted: whole - ends cancels when the middle is small, and turns one inf into NaN.
    middle_P = square_P.index_fill(0, torch.cat(tiers), 0)
    return torch.cat([ends, middle_P.sum()[None]])


def _gradients(router: Prismatic, expert: int) -> dict[str, Tensor]:
    """The gradients this expert has, flat and float64."""
    return {
        name: (p.grad.to_dense() if p.grad.is_sparse else p.grad).flatten().double()
        for name, p in router.experts[expert].named_parameters()
        if p.grad is not None
    }


def _expert_dynamics(
    router: Prismatic, expert: int, table: list[dict[str, float]], routing_weight: float
) -> ExpertDynamics:
    sums = table[expert]
    norm, clean_norm = (math.sqrt(sum(table[i][tier] for tier in TIERS)) for i in (expert, 0))
    both = norm * clean_norm
    ratio = sums["log_ratio"] / sums["ranked"] if sums["ranked"] else math.nan
    return ExpertDynamics(
        top_norm=math.sqrt(sums["top"]),
        bottom_norm=math.sqrt(sums["bottom"]),
        middle_norm=math.sqrt(sums["middle"]),
        norm=norm,
        routing_weight=routing_weight,
        gradient_cosine=sums["product"] / both if both > 0 and math.isfinite(both) else None,
        bottom_to_middle=ratio if math.isfinite(ratio) else None,
        nonfinite=0 if math.isfinite(norm) else _count_nonfinite(router, expert),
        missing_gradients=sum(p.grad is None for p in router.experts[expert].parameters()),
    )


def _count_nonfinite(router: Prismatic, expert: int) -> int:
    """How many gradient entries are NaN or infinite: a second pass, made only when the first one met any."""
    return sum(int((~torch.isfinite(grad_P)).sum()) for grad_P in _gradients(router, expert).values())


def divergence(expert: ExpertDynamics, clean: ExpertDynamics) -> float:
    """The documented score: mean over tiers of |norm_i - norm_0|. It scales with the loss and the routing share."""
    return fmean(abs(getattr(expert, f"{tier}_norm") - getattr(clean, f"{tier}_norm")) for tier in TIERS)


def relative_divergence(expert: ExpertDynamics, clean: ExpertDynamics) -> float | None:
    """Mean over tiers of |n_i/p_i - n_0/p_0| / (n_0/p_0): free of the loss's scale and of the routing share.

    None where an expert has no share or a tier of the clean expert has no gradient.
    """
    if not expert.routing_weight or not clean.routing_weight:
        return None
    ratios = []
    for tier in TIERS:
        own = getattr(expert, f"{tier}_norm") / expert.routing_weight
        base = getattr(clean, f"{tier}_norm") / clean.routing_weight
        if not base:
            return None
        ratios.append(abs(own - base) / base)
    return fmean(ratios)


def aggregate(layers: Sequence[Sequence[ExpertDynamics]]) -> dict[str, Any]:
    """Means over layers under the documented names, and a row per layer and expert. Layers may differ in experts."""
    rows = [row for layer, experts in enumerate(layers) for row in _layer_rows(layer, experts)]
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


def _layer_rows(layer: int, experts: Sequence[ExpertDynamics]) -> list[dict[str, Any]]:
    """One row of the `layers` table per expert, by column name, without the step."""
    return [
        {
            "layer": layer,
            "expert": i,
            "source": "merged",
            **vars(expert),
            "divergence": divergence(expert, experts[0]) if i else None,
            "relative_divergence": relative_divergence(expert, experts[0]) if i else None,
        }
        for i, expert in enumerate(experts)
    ]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Mean over the layers that have a value; None where none has."""
    values = [row[name] for row in rows if row[name] is not None]
    return fmean(values) if values else None
