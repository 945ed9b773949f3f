"""Write run files with layers and histograms: the bottom tier of perturbed experts gains in one layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prismatic.contract.schema import TIERS
from prismatic.runfile.logger import DynamicsLogger

LEVEL = {"top": 0.2, "bottom": 0.2, "middle": 0.9}


def write_layers(
    path: Path,
    *,
    layers: int = 3,
    experts: int = 3,
    steps: int = 150,
    gain: float = 1.5,
    gaining: int = 0,
    histograms: bool = False,
    control: int = 1,
    seed: int = 0,
    **facts: Any,
) -> Path:
    """Write a run file with the real logger.

    gain: factor on the bottom norms of perturbed experts in layer `gaining`. control: the number of control experts.
    """
    rng = np.random.default_rng(seed)
    roles = ["clean", *["perturbed"] * (experts - 1)]
    if control and experts > 1 + control:
        roles[-control:] = ["control"] * control
    norms = {
        (layer, e, tier): LEVEL[tier]
        / experts
        * (gain if (layer, roles[e], tier) == (gaining, "perturbed", "bottom") else 1.0)
        * np.exp(rng.normal(0, 0.05, steps))
        for layer in range(layers)
        for e in range(experts)
        for tier in TIERS
    }
    with DynamicsLogger(path, num_experts=experts, flush_seconds=1e9) as logger:
        logger.log_table("experts", [{"expert": e, "role": role} for e, role in enumerate(roles)])
        logger.log_run(facts)
        for step in range(steps):
            rows = [_row(step, layer, e, norms, experts) for layer in range(layers) for e in range(experts)]
            dynamics = {"expert_gradients": _means(rows, experts), "layers": rows}
            if histograms and step % 10 == 0:
                dynamics["histograms"] = [
                    {"step": step, "layer": layer, "expert": e, "tier": tier, "bin": bin, "count": 10 + 5 * (bin + 12)}
                    for layer in range(layers)
                    for e in range(experts)
                    for tier in TIERS
                    for bin in range(-12, -6)
                ]
            logger.log(step, dynamics)
    return path


def _row(step: int, layer: int, expert: int, norms: dict[tuple[int, int, str], Any], experts: int) -> dict[str, Any]:
    tier_norms = {f"{tier}_norm": float(norms[layer, expert, tier][step]) for tier in TIERS}
    return {
        "step": step,
        "layer": layer,
        "expert": expert,
        "source": "merged",
        **tier_norms,
        "norm": float(np.sqrt(sum(value**2 for value in tier_norms.values()))),
        "routing_weight": 1 / experts,
        "bottom_to_middle": float(np.log(tier_norms["bottom_norm"] / tier_norms["middle_norm"])),
        "gradient_cosine": 1.0 if expert == 0 else 0.9,
    }


def _means(rows: list[dict[str, Any]], experts: int) -> dict[str, dict[str, float]]:
    """Return the means over layers, as the trainer writes them into `dynamics`."""
    found = {}
    for e in range(experts):
        own_rows = [row for row in rows if row["expert"] == e]
        mean = {
            name: float(np.mean([row[name] for row in own_rows]))
            for name in (*(f"{tier}_norm" for tier in TIERS), "norm", "routing_weight", "bottom_to_middle")
        }
        mean["perturbed_norm" if e else "clean_norm"] = mean.pop("norm")
        found[f"expert_{e}"] = mean | ({"direction": 0.1} if e else {})
    return found
