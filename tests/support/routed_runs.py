"""Files of runs whose tokens are routed: rows of `layers` with given shares, and the numbers that callbacks add."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prismatic.measure.metrics import routing_metrics
from prismatic.runfile.logger import DynamicsLogger


def write_shares(path: Path, shares: Sequence[Sequence[Sequence[float]]], *, weights: bool = False) -> Path:
    """Write the shares of tokens, by step, layer and expert, one logged step after the other.

    weights: as the router's weights alone, as a layer logs them that counts no tokens.
    """
    with DynamicsLogger(path, num_experts=len(shares[0][0])) as logger:
        logger.log_run({"planned_steps": len(shares), "log_freq": 1, "mixture": "top_k"})
        for step, layers in enumerate(shares):
            rows = [
                {"layer": layer, "expert": e, "source": "merged", "top_norm": 1.0}
                | {"routing_weight": share, "token_share": None if weights else share}
                for layer, own in enumerate(layers)
                for e, share in enumerate(own)
            ]
            gradients = {f"expert_{e}": {"top_norm": 1.0} for e in range(len(layers[0]))}
            logger.log(step, {"expert_gradients": gradients, "layers": rows}, **routing_metrics(rows))
    return path
