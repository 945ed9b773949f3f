"""The distance and cosine between each expert's weights and the clean expert's (weight_distance, weight_cosine).

It reads every weight, which costs more than reading every gradient, so it does not run in every logged step.
Axis letters: L layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.collectives import world
from prismatic.experts.protocol import has_peers, num_experts, views_of
from prismatic.measure.metrics import ExpertDynamics, cosine
from prismatic.measure.shards import entries_of, parts_of


@torch.no_grad()
def with_weights(layers: Sequence[Sequence[ExpertDynamics]], routers: Sequence[Any]) -> list[Sequence[ExpertDynamics]]:
    """Return `layers` [L][E] with the cosine of each expert's weights with expert 0's, and |w_i - w_0| / |w_0|.

    Peers are compared with no expert.
    """
    pairs = [(own, router) for own, router in zip(layers, routers, strict=True) if not has_peers(router)]
    if not pairs:
        return [*layers]
    compared = iter(_compared([own for own, _ in pairs], [router for _, router in pairs]))
    return [own if has_peers(router) else next(compared) for own, router in zip(layers, routers, strict=True)]


def _compared(layers: Sequence[Sequence[ExpertDynamics]], routers: Sequence[Any]) -> list[list[ExpertDynamics]]:
    counts = [3 * num_experts(router) for router in routers]
    sums = world().all_reduce(lambda: np.concatenate([np.empty(0), *map(_sums, routers)]), sum(counts))
    rows_of = [part.reshape(-1, 3).tolist() for part in np.split(sums, np.cumsum(counts)[:-1])]
    return [
        [
            replace(
                expert,
                weight_cosine=cosine(product, math.sqrt(square), math.sqrt(rows[0][1])),
                weight_distance=math.sqrt(difference / rows[0][1]) if rows[0][1] else None,
            )
            for expert, (product, square, difference) in zip(experts, rows, strict=True)
        ]
        for experts, rows in zip(layers, rows_of, strict=True)
    ]


def _sums(router: Any) -> NDArray[np.float64]:
    """Return [E x 3] over the entries counted here: product with expert 0, own square, square of the difference.

    The difference may be tiny, so it is not computed from the other two.
    """

    def values_of(expert: int) -> list[Tensor]:
        parts = parts_of(views_of(router, expert), compared=True)
        entries = entries_of(parts, {part.name: part.view.parameter for part in parts})
        return [values for values in entries if values is not None]  # every parameter has its values

    sums, first = [], values_of(0)
    for expert in range(num_experts(router)):
        pairs = [(w.double(), clean.double()) for w, clean in zip(values_of(expert), first, strict=True)]
        per_tensor = [torch.stack([w @ clean, w @ w, (w - clean).square().sum()]) for w, clean in pairs]
        sums.append(torch.stack(per_tensor).sum(0))
    return torch.cat(sums).cpu().numpy()
