"""Histograms of the gradient entries of each tier: counts by power of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.collectives import world
from prismatic.contract.schema import TIERS
from prismatic.experts.protocol import num_experts, tiers_of, views_of
from prismatic.measure.gradients import Gradient, dot_grad
from prismatic.measure.shards import parts_of

LOWEST, HIGHEST = -64, 63  # bins of log2|gradient|; the outermost bins also count the entries beyond them


@torch.no_grad()
def histogram_rows(routers: Sequence[Any], gradient: Gradient = dot_grad) -> list[dict[str, Any]]:
    """Return a row of the `histograms` table, without the step, per layer, expert, tier and non-empty bin.

    Bin b holds 2^b <= |g| < 2^(b+1); zeros and non-finite entries are in no bin. If several processes train the model,
    every process must call it.
    """
    blocks = [(layer, expert) for layer, router in enumerate(routers) for expert in range(num_experts(router))]

    def local_counts() -> NDArray[np.float64]:
        return np.concatenate([_counts(routers[layer], expert, gradient).numpy().ravel() for layer, expert in blocks])

    shape = (len(blocks), len(TIERS), HIGHEST - LOWEST + 1)
    counts = world().all_reduce(local_counts, math.prod(shape)).reshape(shape).astype(int)
    return [
        {"layer": layer, "expert": expert, "tier": TIERS[tier], "bin": LOWEST + place, "count": count}
        for (layer, expert), counts_KB in zip(blocks, counts.tolist(), strict=True)
        for tier, row in enumerate(counts_KB)
        for place, count in enumerate(row)
        if count
    ]


def _counts(router: Any, expert: int, gradient: Gradient) -> Tensor:
    """Return [K, bins]: the entries of each tier in each bin, among those that this process counts."""
    tiers = tiers_of(router, expert)
    counts_KB = torch.zeros(len(TIERS), HIGHEST - LOWEST + 1, dtype=torch.int64)
    for part in parts_of(views_of(router, expert)):
        if (grad := gradient(part.view.parameter)) is not None:
            counts_KB += _binned(part.values(grad), *part.tiers(tiers)).cpu()
    return counts_KB


def _binned(grad_P: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """Return [K, bins]: the entries of each tier in each bin."""
    ends = [_bins(grad_P[indices]) for indices in (top, bottom)]
    return torch.stack([*ends, _bins(grad_P) - ends[0] - ends[1]])


def _bins(values: Tensor) -> Tensor:
    present = values[torch.isfinite(values) & (values != 0)].double()
    # frexp returns a mantissa in [0.5, 1), so its exponent is one above the floor of the logarithm.
    exponents = (torch.frexp(present).exponent.long() - 1).clamp(LOWEST, HIGHEST) - LOWEST
    return torch.bincount(exponents, minlength=HIGHEST - LOWEST + 1)
