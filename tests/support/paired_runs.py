"""Files of peers in two groups with pairs and shares of tokens, in which every value follows a formula."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from prismatic.measure.metrics import routing_metrics
from prismatic.measure.pairs import pairs_of
from prismatic.runfile.logger import DynamicsLogger

NEAR, FAR = 0.1, 0.6  # direction within a group and between groups, at the end of the training


def group(expert: int) -> int:
    """Return the group of an expert: two in a row are in one, and so are half of any sample."""
    return expert // 2 % 2


def direction(expert: int, other: int, layer: int, grown: float) -> float:
    """Return 1 - cosine of two experts, which differ more from layer to layer. grown: from 0 to 1, at the end."""
    return grown * (NEAR if group(expert) == group(other) else FAR) * (1 + 0.2 * layer)


def share(expert: int, experts: int, grown: float) -> float:
    """Return the share of tokens of an expert: even at first, later the second half gets none."""
    whole = [1 / experts * (1 + grown * (1 if e < experts / 2 else -1)) for e in range(experts)]
    return whole[expert] / sum(whole)


def write_pairs(
    path: Path,
    *,
    experts: int = 8,
    layers: int = 2,
    probes: int = 48,
    noisy: Collection[int] = (),
    counted: bool = True,
    compared: bool = True,
) -> Path:
    """Write a run of peers with a probe every 10 steps.

    noisy: experts whose gradients are mostly noise in the first half. counted: False without shares of tokens.
    compared: False for a probe that compared no pairs.
    """
    with DynamicsLogger(path, num_experts=experts, flush_seconds=1e9) as logger:
        facts = {"mixture": "top_k", "planned_steps": 10 * probes, "log_freq": 10, "probe_freq": 10, "routers": layers}
        logger.log_run({**facts, "option.seed": 0, "exit_state": "finished"})
        logger.log_table("experts", [{"expert": e, "role": "peer"} for e in range(experts)])
        for probe in range(probes):
            grown = (probe + 1) / probes
            mixed = {e for e in noisy if probe < probes // 2}
            rows = [*_layer_rows(experts, layers, grown, mixed, counted)]
            gradients = {
                f"expert_{e}": {"top_norm": 1.0, "bottom_norm": 0.5, "middle_norm": 2.0} for e in range(experts)
            }
            pairs = [*_pair_rows(experts, layers, grown)] if compared else []
            step = {"expert_gradients": gradients, "layers": rows, "pairs": pairs}
            logger.log(10 * probe, step, loss=3.0 - grown, **routing_metrics(rows))
    return path


def _layer_rows(
    experts: int, layers: int, grown: float, noisy: Collection[int], counted: bool
) -> Iterator[dict[str, Any]]:
    for layer in range(layers):
        for e in range(experts):
            norms = {"top_norm": 1.0, "bottom_norm": 0.5, "middle_norm": 2.0, "norm": math.sqrt(5.25)}
            own = {"layer": layer, "expert": e, **norms, "bottom_to_middle": math.log(0.25)}
            tokens = share(e, experts, grown)
            shares = {"routing_weight": tokens, "token_share": tokens if counted else None}
            yield {**own, "source": "merged", **shares}
            product = 5.25 * (0.01 if e in noisy else 0.5)
            yield {**own, "source": "isolated", "half_product": product}


def _pair_rows(experts: int, layers: int, grown: float) -> Iterator[dict[str, Any]]:
    for layer in range(layers):
        for e, f in pairs_of(experts):
            apart = direction(e, f, layer, grown)
            values = {
                "half_product": 5.25 * 0.5 * (1 - apart),
                "weight_distance": 2 * apart,
                "output_distance": apart / 2,
            }
            yield {"layer": layer, "expert": e, "other": f, **values}
