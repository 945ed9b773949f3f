"""Pairs of experts in the isolated probe: the pairs to compare, half-batch products, and distances of weights.

Axis letters: E experts, L layers, N pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.collectives import world
from prismatic.experts.protocol import can_force, num_experts, views_of
from prismatic.measure.kernels import Compared, inner_products, square_distances
from prismatic.measure.shards import Part, entries_of, parts_of

NEIGHBOURS = 8  # on each side of an expert
SHORT = 1 << 14  # weights: shorter tensors are joined, because each operation costs some microseconds

Pair = tuple[int, int]
PairValues = dict[Pair, float | None]
"""A value of each pair (e, f) with e <= f; None where there is none."""
Gradients = dict[tuple[int, int | None, str], Tensor | None]
"""The gradient of each tensor of an expert, by the key of its view."""


def pairs_of(experts: int) -> list[Pair]:
    """Return the pairs that are compared: experts at most NEIGHBOURS apart on a ring, each with as many others.

    They are all pairs of up to 17 experts. For more, their number grows with the experts and not with its square, and
    half differences of at most 17 experts are kept at a time.
    """
    every = ((e, f) for e in range(experts) for f in range(e + 1, experts))
    return [(e, f) for e, f in every if min(f - e, experts + e - f) <= NEIGHBOURS]


def left_out(routers: Sequence[Any]) -> str:
    """Return a message about the pairs of the largest layer that are not compared; empty if all of them are."""
    experts = max((num_experts(router) for router in routers if can_force(router)), default=0)
    compared, every = len(pairs_of(experts)), experts * (experts - 1) // 2
    reason = f"each expert with the {NEIGHBOURS} before and the {NEIGHBOURS} after it"
    return f"the probe compares {compared} of {every} pairs of experts: {reason}" if compared < every else ""


@dataclass(frozen=True, eq=False)
class HalfGradients:
    """An expert's gradients in one layer on both halves of the batch: their mean, and half their difference.

    They are the entries that this process counts, as a few long tensors in the same order for every expert.
    """

    names: frozenset[str]
    """The parameters with a gradient; that of any other is zero in the tensors."""
    means: Sequence[Tensor]
    differences: Sequence[Tensor]

    @classmethod
    def of(cls, router: Any, expert: int, first: Gradients, means: Gradients) -> HalfGradients:
        """Return them from the gradients on the first half and the means over both."""
        experts = [views_of(router, e) for e in range(num_experts(router))]
        trained = {name for name in experts[expert] if any(each[name].parameter.requires_grad for each in experts)}
        views = {name: view for name, view in experts[expert].items() if name in trained}
        parts = parts_of(views, compared=True)
        mean, one = (
            entries_of(parts, {name: half.get(view.key) for name, view in views.items()}) for half in (means, first)
        )
        names = frozenset(part.name for part, values in zip(parts, mean, strict=True) if values is not None)
        joined = _joined(parts, mean)
        return cls(names, joined, [a - b for a, b in zip(_joined(parts, one), joined, strict=True)])


def _joined(parts: Sequence[Part], entries: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the entries of each part, zeros for those without any, short ones joined."""
    long: list[Tensor] = []
    short: dict[torch.device, list[Tensor]] = {}
    for part, values in zip(parts, entries, strict=True):
        if values is None:
            weight = part.view.parameter
            values = torch.zeros(part.stop - part.start, dtype=weight.dtype, device=weight.device)
        if len(values) > SHORT:
            long.append(values)
        else:
            short.setdefault(values.device, []).append(values)
    return [*long, *map(torch.cat, short.values())]


class HalfProducts:
    """Half-batch products of the experts of one layer, while they are measured one after the other.

    The product of e and f on the halves A and B is (<e_A, f_B> + <e_B, f_A>) / 2. It is the product of their means
    minus that of their half differences, so two gradients are kept of each expert, of which one is needed anyway.
    """

    def __init__(self, router: Any):
        self.router = router
        self.pairs = pairs_of(num_experts(router))
        self.values: PairValues = {}
        """By pair, with (e, e) and (0, e) of every expert; None if no tensor of both has a gradient."""
        self._kept: dict[int, HalfGradients] = {}

    def add(self, expert: int, first: Gradients, means: Gradients) -> list[Pair]:
        """Keep the gradients of an expert; return its pairs with itself, with expert 0 and with earlier partners."""
        if expert >= num_experts(self.router):
            return []
        self._kept[expert] = HalfGradients.of(self.router, expert, first, means)
        return sorted({(expert, expert), (0, expert)} | {pair for pair in self.pairs if pair[1] == expert})

    def local_products(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """Return the products of pairs of one expert over the entries that this process counts."""
        if not pairs:
            return np.empty(0)
        own, others = self._kept[pairs[-1][1]], [self._kept[e] for e, _ in pairs]
        means = [Compared(one, [o.means[n] for o in others]) for n, one in enumerate(own.means)]
        differences = [Compared(one, [o.differences[n] for o in others]) for n, one in enumerate(own.differences)]
        return _total(inner_products(means), len(pairs)) - _total(inner_products(differences), len(pairs))

    def store(self, pairs: Sequence[Pair], products: NDArray[np.float64]) -> None:
        """Keep the products of one expert, summed over all processes, and forget what no later expert needs."""
        for (e, f), product in zip(pairs, products, strict=True):
            self.values[e, f] = float(product) if self._kept[e].names & self._kept[f].names else None
        for expert in [e for e in self._kept if pairs and NEIGHBOURS <= e <= pairs[-1][1] - NEIGHBOURS]:
            del self._kept[expert]


def _total(sums: Sequence[NDArray[np.float64]], count: int) -> NDArray[np.float64]:
    """Return the sum of arrays [count] over tensors; zeros without any tensor."""
    return np.sum(sums, axis=0) if sums else np.zeros(count)


def half_products(layers: Sequence[HalfProducts], expert: int, first: Gradients, means: Gradients) -> None:
    """Measure the products of an expert with the earlier ones, in every layer, by one collective of all processes."""
    pairs = [layer.add(expert, first, means) for layer in layers]
    sums = world().all_reduce(
        lambda: np.concatenate([layer.local_products(own) for layer, own in zip(layers, pairs, strict=True)]),
        sum(map(len, pairs)),
    )
    for layer, own, products in zip(layers, pairs, np.split(sums, np.cumsum([*map(len, pairs)])[:-1]), strict=True):
        layer.store(own, products)


@torch.no_grad()
def weight_distances(routers: Sequence[Any]) -> list[PairValues]:
    """Return |w_e - w_f| / sqrt((|w_e|^2 + |w_f|^2) / 2) of the pairs, by layer; None where all weights are zero.

    It is the same from both sides, and sqrt(2) for weights that are orthogonal, whatever their norms.
    """
    counts = [num_experts(router) + len(pairs_of(num_experts(router))) for router in routers]
    sums = world().all_reduce(lambda: np.concatenate([_weight_sums(router) for router in routers]), sum(counts))
    found: list[PairValues] = []
    for router, part in zip(routers, np.split(sums, np.cumsum(counts)[:-1]), strict=True):
        squares_E, squares_N = np.split(part, [num_experts(router)])
        values: PairValues = {}
        for (e, f), square in zip(pairs_of(len(squares_E)), squares_N, strict=True):
            whole = (squares_E[e] + squares_E[f]) / 2
            values[e, f] = math.sqrt(square / whole) if whole else None
        found.append(values)
    return found


def _weight_sums(router: Any) -> NDArray[np.float64]:
    """Return [E + N] over the entries that this process counts: squares of the weights, then of their differences."""
    experts = [views_of(router, e) for e in range(num_experts(router))]
    parts = [parts_of(views, compared=True) for views in experts]
    values = [_joined(own, entries_of(own, {part.name: part.view.parameter for part in own})) for own in parts]
    later = [[f for e, f in pairs_of(len(values)) if e == expert] for expert in range(len(values))]
    squares = [_total(inner_products([Compared(one, [one]) for one in own]), 1) for own in values]
    distances = [
        _total(
            square_distances([Compared(one, [values[f][n] for f in others]) for n, one in enumerate(own)]), len(others)
        )
        for own, others in zip(values, later, strict=True)
    ]
    return np.concatenate([*squares, *distances])
