"""How large the gradient entries of each tier are, not only their norm: counts by power of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prismatic.dynamics import Gradient, RoutedExperts, dot_grad, tiers_of
from prismatic.schema import TIERS

LOWEST, HIGHEST = -64, 63  # bins of log2|gradient|; entries beyond them are counted in the outermost ones


@torch.no_grad()
def histogram_rows(routers: Sequence[RoutedExperts], gradient: Gradient = dot_grad) -> list[dict[str, Any]]:
    """A row of the `histograms` table per layer, expert, tier and bin that holds any entry, without the step.

    Bin b holds 2^b <= |g| < 2^(b+1). Zeros and entries that are not finite are in no bin.
    """
    rows = []
    for layer, router in enumerate(routers):
        tiers = tiers_of(router)
        for expert, block in enumerate(router.experts):
            counts_KB = torch.zeros(len(TIERS), HIGHEST - LOWEST + 1, dtype=torch.int64)
            for name, weight in block.named_parameters():
                grad = gradient(weight)
                if grad is not None:
                    counts_KB += _counts(grad.detach().reshape(-1), *tiers[name]).cpu()
            rows += [
                {"layer": layer, "expert": expert, "tier": TIERS[tier], "bin": LOWEST + place, "count": count}
                for tier, row in enumerate(counts_KB.tolist())
                for place, count in enumerate(row)
                if count
            ]
    return rows


def _counts(grad_P: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """[K, bins]: how many entries of each tier are in each bin."""
    ends = [_bins(grad_P[indices]) for indices in (top, bottom)]
    return torch.stack([*ends, _bins(grad_P) - ends[0] - ends[1]])


def _bins(values: Tensor) -> Tensor:
    there = values[torch.isfinite(values) & (values != 0)].double()
    # frexp gives a mantissa in [0.5, 1), so its exponent is one above the floor of the logarithm.
    exponents = (torch.frexp(there).exponent.long() - 1).clamp(LOWEST, HIGHEST) - LOWEST
    return torch.bincount(exponents, minlength=HIGHEST - LOWEST + 1)
