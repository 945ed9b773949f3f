"""Tiers against a plain Python sort, for any tensor: exact sizes, ties, zeros, weights that are not finite."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prismatic.errors import ModelError
from prismatic.experts.tiers import tier_indices, tier_size

quick = settings(deadline=None, derandomize=True, max_examples=60)


# A few repeated values make ties and zeros common.
WEIGHTS = st.lists(
    st.one_of(st.sampled_from([0.0, -0.0, 0.5, -0.5, 2.0]), st.floats(-(2.0**100), 2.0**100, width=32)),
    min_size=1,
    max_size=80,
)


SPARSITY = st.floats(0.01, 0.99)


def weights(count: int = 2000, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def sorted_tiers(values: list[float], sparsity: float) -> tuple[list[int], list[int]]:
    """Return tiers by sorting (magnitude, index) pairs: the slow second implementation."""
    pairs = [(abs(value), index) for index, value in enumerate(values)]
    nonzero = [pair for pair in pairs if pair[0] > 0]
    size = round(len(values) * sparsity / 2)
    if len(nonzero) < 2 * size or len({magnitude for magnitude, _ in pairs}) == 1:
        return [], []
    top = [index for _, index in sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:size]]
    bottom = [index for _, index in sorted(nonzero) if index not in top][:size]
    return sorted(top), sorted(bottom)


@quick
@given(WEIGHTS, SPARSITY)
def test_tiers_are_those_of_a_plain_sort(values: list[float], sparsity: float):
    tiers = tier_indices(torch.tensor(values), sparsity)
    assert (tiers.top.tolist(), tiers.bottom.tolist()) == sorted_tiers(values, sparsity)


@quick
@given(st.integers(2, 5000), SPARSITY)
def test_each_end_holds_exactly_half_the_sparsity(count: int, sparsity: float):
    top, bottom = tier_indices(torch.arange(1.0, count + 1), sparsity)
    assert len(top) == len(bottom) == round(count * sparsity / 2) == tier_size(count, sparsity)
    assert not set(top.tolist()) & set(bottom.tolist())


def test_top_is_the_largest_and_bottom_the_smallest_whatever_the_sign():
    weight = torch.tensor([[0.3, -9.0, 0.1], [-0.2, 4.0, 1.0]])
    tiers = tier_indices(weight, sparsity=0.66)
    assert (tiers.top.tolist(), tiers.bottom.tolist()) == ([1, 4], [2, 3])


def test_ties_are_broken_by_index():
    tiers = tier_indices(torch.tensor([1.0, 2, -2, 2, -1, 1, 2, 1]), sparsity=0.5)
    assert (tiers.top.tolist(), tiers.bottom.tolist()) == ([1, 2], [0, 4])


def test_zeros_are_never_in_the_bottom_tier():
    weight = weights(200)
    weight[:100] = 0
    assert tier_indices(weight, 0.2).bottom.min() >= 100


@pytest.mark.parametrize(
    "weight",
    [
        torch.ones(40),
        torch.zeros(40),
        torch.tensor([1.0, -1.0] * 20),
        torch.tensor([0.0] * 38 + [1.0, 2.0]),
        torch.empty(0),
    ],
    ids=["ones", "zeros", "one magnitude", "too few non-zero", "no weights"],
)
def test_a_tensor_with_nothing_to_rank_is_all_middle(weight: Tensor):
    tiers = tier_indices(weight, sparsity=0.2)
    assert len(tiers.top) == len(tiers.bottom) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_cannot_be_ranked(bad: float):
    weight = weights(50)
    weight[7] = bad
    with pytest.raises(ModelError, match="NaN or infinite"):
        tier_indices(weight, 0.1)
