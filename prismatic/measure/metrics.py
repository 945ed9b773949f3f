"""The metrics of an expert at one step: divergence scores, cosine, means over layers, rows of the layers table.

Axis letters: L layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from prismatic.contract.schema import TIERS


@dataclass(frozen=True)
class ExpertDynamics:
    """The metrics of an expert in one layer at one step. Norms are L2 over all its parameters; NaN if a gradient is."""

    top_norm: float
    bottom_norm: float
    middle_norm: float
    norm: float
    routing_weight: float | None
    gradient_cosine: float | None
    bottom_to_middle: float | None
    nonfinite: int
    missing_gradients: int
    half_product: float | None = None
    """Product of the expert's isolated gradients on the two halves of the batch; see `isolated`."""
    half_product_clean: float | None = None
    """The same between this expert and expert 0, mean over both pairs of halves."""
    weight_cosine: float | None = None
    weight_distance: float | None = None
    token_share: float | None = None
    peer: bool = False
    """True if nothing is said about the role of the expert, so that it is not compared to the first one."""


@dataclass(frozen=True)
class PairDynamics:
    """The comparison of two experts of one layer by the isolated probe; see `pairs` and `outputs`."""

    expert: int
    other: int
    half_product: float | None
    """Product of the two experts' isolated gradients on different halves of the batch, mean over both ways."""
    weight_distance: float | None
    output_distance: float | None


def cosine(product: float, norm: float, other: float) -> float | None:
    """Return the cosine of two gradients from their product and norms; None if one of them is zero or not finite."""
    both = norm * other
    return float(product / both) if both > 0 and math.isfinite(both) and math.isfinite(product) else None


def divergence(expert: ExpertDynamics, clean: ExpertDynamics) -> float:
    """Return the documented score: mean over tiers of |norm_i - norm_0|. It scales with the loss and the share."""
    return fmean(abs(getattr(expert, f"{tier}_norm") - getattr(clean, f"{tier}_norm")) for tier in TIERS)


def relative_divergence(expert: ExpertDynamics, clean: ExpertDynamics) -> float | None:
    """Return the mean over tiers of |n_i/p_i - n_0/p_0| / (n_0/p_0): independent of the loss scale and the share.

    None if an expert has no share or a tier of the clean expert has no gradient.
    """
    # An expert that was measured alone was not routed, so its share is 1.
    shares = [1.0 if e.routing_weight is None else e.routing_weight for e in (expert, clean)]
    if not all(shares):
        return None
    ratios = []
    for tier in TIERS:
        per_share = getattr(expert, f"{tier}_norm") / shares[0]
        base = getattr(clean, f"{tier}_norm") / shares[1]
        if not base:
            return None
        ratios.append(abs(per_share - base) / base)
    return fmean(ratios)


def aggregate(layers: Sequence[Sequence[ExpertDynamics]]) -> dict[str, Any]:
    """Return means over layers under the documented names, and a row per layer and expert.

    Layers may have different numbers of experts.
    """
    rows = layer_rows(layers, "merged")
    num_experts = max(map(len, layers))
    gradients, scores = {}, {}
    for expert in range(num_experts):
        own_rows = [row for row in rows if row["expert"] == expert]
        whole = "perturbed_norm" if expert else "clean_norm"
        gradients[f"expert_{expert}"] = {
            **{f"{tier}_norm": _mean(own_rows, f"{tier}_norm") for tier in TIERS},
            whole: _mean(own_rows, "norm"),
            "routing_weight": _mean(own_rows, "routing_weight"),
            "bottom_to_middle": _mean(own_rows, "bottom_to_middle"),
        }
        if expert:
            scores[f"expert_{expert}_divergence"] = _mean(own_rows, "divergence")
            scores[f"expert_{expert}_relative_divergence"] = _mean(own_rows, "relative_divergence")
            alignment = _mean(own_rows, "gradient_cosine")
            scores[f"expert_{expert}_direction"] = None if alignment is None else 1 - alignment
    return {
        "expert_gradients": gradients,
        "divergence_scores": scores,
        "nonfinite": sum(row["nonfinite"] for row in rows),
        "missing_gradients": sum(row["missing_gradients"] for row in rows),
        "layers": rows,
    }


def routing_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return how evenly routers send tokens, from rows of the `layers` table: three numbers, whatever the layers are.

    `routing_entropy` is the mean over layers of the entropy of the token shares over log E: 1 is even, 0 is one expert.
    `routing_violation` is the largest over layers of (largest share / even share) - 1 (Wang et al. 2024, MaxVio).
    `unused_experts` is the number of experts without a token, in all layers.
    """
    shares: dict[int, list[float]] = {}
    for row in rows:
        if row["source"] == "merged" and row.get("token_share") is not None:
            shares.setdefault(row["layer"], []).append(row["token_share"])
    if not shares:
        return {}
    entropies = [-sum(p * math.log(p) for p in own if p > 0) / math.log(len(own)) for own in shares.values()]
    return {
        "routing_entropy": fmean(entropies),
        "routing_violation": max(max(own) * len(own) - 1 for own in shares.values()),
        "unused_experts": float(sum(share == 0 for own in shares.values() for share in own)),
    }


def layer_rows(layers: Sequence[Sequence[ExpertDynamics]], source: str) -> list[dict[str, Any]]:
    """Return a row of the `layers` table for each layer and expert, by column name, without the step."""
    return [
        {
            "layer": layer,
            "expert": i,
            "source": source,
            **{name: value for name, value in vars(expert).items() if name != "peer"},
            "divergence": divergence(expert, experts[0]) if i and not expert.peer else None,
            "relative_divergence": relative_divergence(expert, experts[0]) if i and not expert.peer else None,
        }
        for layer, experts in enumerate(layers)
        for i, expert in enumerate(experts)
    ]


def pair_rows(layers: Sequence[Sequence[PairDynamics]]) -> list[dict[str, Any]]:
    """Return a row of the `pairs` table for each layer and pair, by column name, without the step."""
    return [{"layer": layer, **vars(pair)} for layer, pairs in enumerate(layers) for pair in pairs]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Return the mean over the layers that have a value; None if no layer has one."""
    values = [row[name] for row in rows if row[name] is not None]
    return fmean(values) if values else None
