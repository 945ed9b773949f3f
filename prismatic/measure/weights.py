"""The experts' weights beside the clean expert's: how far apart training has taken them.

It reads every weight, which costs more than reading every gradient: not for every logged step.
Axis letters: L layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.collectives import world
from prismatic.experts.protocol import RoutedExperts
from prismatic.measure.metrics import ExpertDynamics, cosine
from prismatic.measure.shards import parts_of


@torch.no_grad()
def with_weights(
    layers: Sequence[Sequence[ExpertDynamics]], routers: Sequence[RoutedExperts]
) -> list[list[ExpertDynamics]]:
    """The same [L][E] with each expert's weights beside expert 0's: their cosine, and |w_i - w_0| / |w_0|."""
    counts = [3 * len(router.experts) for router in routers]
    sums = world().all_reduce(lambda: np.concatenate([_sums(router) for router in routers]), sum(counts))
    rows_of = [part.reshape(-1, 3).tolist() for part in np.split(sums, np.cumsum(counts)[:-1])]
    return [
        [
            replace(own, weight_cosine=cosine(product, math.sqrt(square), math.sqrt(rows[0][1])), weight_distance=away)
            for own, (product, square, apart) in zip(experts, rows, strict=True)
            for away in [math.sqrt(apart / rows[0][1]) if rows[0][1] else None]
        ]
        for experts, rows in zip(layers, rows_of, strict=True)
    ]


def _sums(router: RoutedExperts) -> NDArray[np.float64]:
    """[E x 3], of what this process counts: product with expert 0, own square, square of the difference.

    The difference by itself, since it may be tiny.
    """
    parts = parts_of(dict(router.experts[0].named_parameters()))

    def of(expert: int) -> list[Tensor]:
        return [part.values(router.experts[expert].get_parameter(part.name)) for part in parts]

    sums = []
    for expert in range(len(router.experts)):
        pairs = [(own.double(), clean.double()) for own, clean in zip(of(expert), of(0), strict=True)]
        each = [torch.stack([own @ clean, own @ own, (own - clean).square().sum()]) for own, clean in pairs]
        sums.append(torch.stack(each).sum(0))
    return torch.cat(sums).cpu().numpy()
