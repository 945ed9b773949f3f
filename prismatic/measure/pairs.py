"""Pairs of experts in the isolated probe: the pairs to compare, half-batch products, and distances of weights.

A layer of more than SAMPLE experts is compared by a sample of them, because the number of pairs and the gradients that
are kept for them must not grow without bound.
Axis letters: E experts, L layers, N experts that are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismatic.collectives import world
from prismatic.experts.protocol import can_force, num_experts, views_of
from prismatic.experts.views import View
from prismatic.measure.kernels import inner_products, square_distances, squares
from prismatic.measure.shards import Part, entries_of, parts_of

SAMPLE = 64  # experts of a layer that are compared with each other, at most
SHORT = 1 << 14  # weights: shorter tensors are joined, because each operation costs some microseconds

Pair = tuple[int, int]
PairValues = dict[Pair, float | None]
"""A value of each pair (e, f) with e <= f; None where there is none."""
Gradients = dict[tuple[int, int | None, str], Tensor | None]
"""The gradient of each tensor of an expert, by the key of its view."""


def sample_of(experts: int) -> list[int]:
    """Return the experts of a layer that are compared: all of them, or SAMPLE evenly spread ones, the first included.

    Their number alone decides, so that all layers, runs and steps compare the same ones.
    """
    count = min(experts, SAMPLE)
    return [place * experts // count for place in range(count)]


def pairs_of(experts: int) -> list[Pair]:
    """Return the pairs that are compared: all pairs of the sample, the smaller number first."""
    return [*combinations(sample_of(experts), 2)]


def left_out(routers: Sequence[Any]) -> tuple[str, list[int]]:
    """Return a message about the largest layer if only a sample of its experts is compared, and this sample."""
    experts = max((num_experts(router) for router in routers if can_force(router)), default=0)
    sample = sample_of(experts)
    if len(sample) == experts:
        return "", []
    shown = f"{', '.join(map(str, sample[:4]))}, ... {sample[-1]}"
    return f"the probe compares {len(sample)} of {experts} experts with each other: {shown}", sample


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
    def of(cls, views: Mapping[str, View], first: Gradients, means: Gradients) -> HalfGradients:
        """Return them from the gradients on the first half and the means over both. views: the tensors to compare."""
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
    minus that of their half differences. The mean is the gradient that the probe measures anyway; the half difference
    is kept as well of each expert of the sample, which takes as much memory as their weights.
    """

    def __init__(self, views: Sequence[Mapping[str, View]], *, compared: bool = True):
        """views: the tensors of each expert by name; those that are trained in no expert are left out."""
        trained = {name for own in views for name, view in own.items() if view.parameter.requires_grad}
        self.views = [{name: view for name, view in own.items() if name in trained} for own in views]
        self.sample = sample_of(len(views)) if compared else []
        self.values: PairValues = {}
        """By pair, with (e, e) and (0, e) of every expert; None if no tensor of both has a gradient."""
        self._kept: dict[int, HalfGradients] = {}

    def keep(self, expert: int, first: Gradients, means: Gradients) -> list[int]:
        """Keep the gradients of an expert; return expert 0 and this one, or nothing if the layer has fewer experts."""
        if expert >= len(self.views):
            return []
        self._kept[expert] = HalfGradients.of(self.views[expert], first, means)
        return sorted({0, expert})

    def local_products(self, experts: Sequence[int]) -> NDArray[np.float64]:
        """Return the products of some experts, [N, N], over the entries that this process counts."""
        kept = [self._kept[expert] for expert in experts]
        return inner_products([one.means for one in kept]) - inner_products([one.differences for one in kept])

    def store(self, experts: Sequence[int], products_NN: NDArray[np.float64]) -> None:
        """Keep the products of some experts, summed over all processes, and forget what none needs any more.

        One that is known stays: it may differ in the last bit, and must not depend on what else is compared.
        """
        for (i, e), (j, f) in combinations_with_replacement(enumerate(experts), 2):
            common = self._kept[e].names & self._kept[f].names
            self.values.setdefault((e, f), float(products_NN[i, j]) if common else None)
        self._kept = {e: own for e, own in self._kept.items() if e == 0 or e in self.sample}


def half_products(layers: Sequence[HalfProducts], expert: int, first: Gradients, means: Gradients) -> None:
    """Measure the products of an expert with itself and with expert 0, in every layer."""
    _measure(layers, [layer.keep(expert, first, means) for layer in layers])


def pair_products(layers: Sequence[HalfProducts]) -> None:
    """Measure the products of all pairs of each layer's sample, whose gradients were kept."""
    _measure(layers, [layer.sample for layer in layers])


def _measure(layers: Sequence[HalfProducts], experts: Sequence[Sequence[int]]) -> None:
    """Measure the products of some experts of each layer, by one collective of all processes."""
    counts = [len(own) ** 2 for own in experts]
    sums = world().all_reduce(
        lambda: np.concatenate([layer.local_products(own).ravel() for layer, own in zip(layers, experts, strict=True)]),
        sum(counts),
    )
    for layer, own, products in zip(layers, experts, np.split(sums, np.cumsum(counts)[:-1]), strict=True):
        layer.store(own, products.reshape(len(own), len(own)))


@torch.no_grad()
def weight_distances(routers: Sequence[Any]) -> list[PairValues]:
    """Return |w_e - w_f| / sqrt((|w_e|^2 + |w_f|^2) / 2) of the pairs, by layer; None where all weights are zero.

    It is the same from both sides, and sqrt(2) for weights that are orthogonal, whatever their norms.
    """
    samples = [sample_of(num_experts(router)) for router in routers]
    counts = [len(sample) + len(sample) * (len(sample) - 1) // 2 for sample in samples]
    sums = world().all_reduce(
        lambda: np.concatenate([_weight_sums(*layer) for layer in zip(routers, samples, strict=True)]), sum(counts)
    )
    found: list[PairValues] = []
    for sample, part in zip(samples, np.split(sums, np.cumsum(counts)[:-1]), strict=True):
        square_N, distances = np.split(part, [len(sample)])
        square = dict(zip(sample, square_N.tolist(), strict=True))
        values: PairValues = {}
        for (e, f), distance in zip(combinations(sample, 2), distances.tolist(), strict=True):
            whole = (square[e] + square[f]) / 2
            values[e, f] = math.sqrt(distance / whole) if whole else None
        found.append(values)
    return found


def _weight_sums(router: Any, experts: Sequence[int]) -> NDArray[np.float64]:
    """Return the squares of the weights of some experts, then of the differences of their pairs.

    They are sums over the entries that this process counts.
    """
    parts = [parts_of(views_of(router, expert), compared=True) for expert in experts]
    values = [_joined(own, entries_of(own, {part.name: part.view.parameter for part in own})) for own in parts]
    return np.concatenate([squares(values), square_distances(values)])
