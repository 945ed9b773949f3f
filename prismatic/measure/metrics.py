"""One expert's numbers of a step, and what follows from them: the documented scores, rows, means over layers.

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


def cosine(product: float, norm: float, other: float) -> float | None:
    """Of two gradients, by their product and norms; None where one of them is zero or not finite."""
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
