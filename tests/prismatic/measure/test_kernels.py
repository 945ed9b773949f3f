"""The fast tier sums by numpy, numba and torch, compared to the obvious ones: masks and float64, expert by expert."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic.errors import ModelError
from prismatic.experts.tiers import Tiers, tier_indices
from prismatic.measure.kernels import (
    COLUMNS,
    SUMS,
    TensorGradients,
    inner_products,
    measure_tensors,
    products,
    square_distances,
    squares,
    with_torch,
)
from prismatic.measure.kernels.with_numba import tier_sums_numba
from prismatic.measure.kernels.with_numpy import CHUNK, tier_sums_numpy
from prismatic.measure.kernels.with_torch import tier_sums_torch


def by_torch(tensor):
    """Return the sums that a GPU would give without Triton, in small pieces."""
    if tensor.checked() is None:
        return np.zeros((len(tensor.gradients), COLUMNS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(with_torch, "MOST", 100_000)
        return tier_sums_torch(tensor).numpy()


WAYS = {
    "numpy": tier_sums_numpy,
    "numba": lambda tensor: tier_sums_numba([tensor]),
    "torch": by_torch,
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def obvious(tensor):
    """Return [E, len(SUMS)] from boolean masks in float64."""
    rows = []
    clean = tensor.gradients[0]
    for grad in tensor.gradients:
        if grad is None:
            rows.append([0.0] * len(SUMS))
            continue
        exact = grad.double()
        masks = torch.zeros(3, len(exact), dtype=torch.bool)
        masks[0, tensor.tiers.top], masks[1, tensor.tiers.bottom] = True, True
        masks[2] = ~masks[0] & ~masks[1]
        squares = [float(exact[mask].square().sum()) for mask in masks]
        rows.append([*squares, 0.0 if clean is None else float(exact @ clean.double())])
    return np.array(rows)


def drawn(weights, *, experts=3, seed=0, sparsity=0.1, scale=1.0, dtype=torch.float32):
    """Return random gradients of a tensor with tiers of random weights."""
    rng = torch.Generator().manual_seed(seed)
    tiers = tier_indices(torch.randn(weights, generator=rng), sparsity)
    return TensorGradients([(scale * torch.randn(weights, generator=rng)).to(dtype) for _ in range(experts)], tiers)


def assert_same(found, expected, rel=1e-6):
    assert found[:, :3] == pytest.approx(expected[:, :3], rel=2 * rel, nan_ok=True)  # squares, so half of it for norms
    sizes = np.sqrt(expected[:, :3].sum(axis=1))
    assert np.all(np.abs(found[:, 3] - expected[:, 3]) <= rel * sizes * sizes[0])


@every_way
@pytest.mark.parametrize("weights", [1, 19, 20, 1000, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
def test_sums_are_the_obvious_ones_at_every_size(way, weights):
    tensor = drawn(weights)
    assert_same(way(tensor), obvious(tensor))


@every_way
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_sums_are_right_in_every_type(way, dtype):
    tensor = drawn(5000, dtype=dtype)
    assert_same(way(tensor), obvious(tensor))


@every_way
@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("weights", [1000, CHUNK + 1, 5 * CHUNK + 3])
def test_every_second_entry_of_a_tensor_is_summed_as_a_tensor_of_its_own(way, weights, experts):
    apart = drawn(weights, experts=experts)
    within = [torch.stack([grad, torch.full_like(grad, 1e6)], dim=1)[:, 0] for grad in apart.gradients]
    assert within[0].stride() == (2,)
    assert_same(way(TensorGradients(within, apart.tiers)), obvious(apart))


@every_way
def test_half_precision_does_not_overflow(way):
    tensor = drawn(5000, scale=1e4, dtype=torch.float16)
    assert np.isfinite(way(tensor)).all()
    assert_same(way(tensor), obvious(tensor))


@every_way
@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-12, 1e12, 1e25])
def test_very_small_and_very_large_gradients_keep_their_digits(way, scale):
    tensor = drawn(5000, scale=scale)
    assert_same(way(tensor), obvious(tensor))


@every_way
@pytest.mark.parametrize("tier", ["top", "bottom", "middle"])
@pytest.mark.parametrize("share", [1e-3, 1e-6])
def test_a_tier_that_is_a_tiny_part_of_the_whole_is_exact(way, tier, share):
    tensor = drawn(50_000)
    chosen = torch.zeros(50_000, dtype=torch.bool)
    chosen[torch.cat(list(tensor.tiers)) if tier == "middle" else getattr(tensor.tiers, tier)] = True
    small = ~chosen if tier == "middle" else chosen
    for grad in tensor.gradients:
        grad[small] *= share
    assert_same(way(tensor), obvious(tensor))


@every_way
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_entry_spoils_its_own_tier_and_no_other(way, bad):
    tensor = drawn(5000)
    tensor.gradients[1][tensor.tiers.top[3]] = bad
    sums = way(tensor)
    assert not np.isfinite(sums[1, 0])
    assert np.isfinite(sums[1, 1:3]).all()
    assert np.isfinite(sums[[0, 2]]).all()


@every_way
@pytest.mark.parametrize("without", [(0,), (1,), (0, 1), (0, 1, 2)])
def test_an_expert_without_gradient_is_zero_and_the_others_are_right(way, without):
    tensor = drawn(3000)
    held = TensorGradients([None if i in without else g for i, g in enumerate(tensor.gradients)], tensor.tiers)
    assert_same(way(held), obvious(held))


@every_way
def test_a_tensor_without_tiers_is_all_middle(way):
    empty = torch.empty(0, dtype=torch.int64)
    tensor = TensorGradients([torch.ones(10), torch.full((10,), 2.0)], Tiers(empty, empty))
    assert way(tensor) == pytest.approx(np.array([[0.0, 0.0, 10.0, 10.0, 0.0], [0.0, 0.0, 40.0, 20.0, 0.0]]))


@every_way
@pytest.mark.parametrize("end", ["top", "bottom"])
def test_a_part_of_a_tensor_may_hold_one_end_alone(way, end):
    tensor = drawn(3000)
    tiers = Tiers.none()._replace(**{end: getattr(tensor.tiers, end)})
    part = TensorGradients(tensor.gradients, tiers)
    assert_same(way(part), obvious(part))


ONE_MAGNITUDE = {
    "signs": lambda size, seed: 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(seed)).sign(),
    "constant": lambda size, seed: torch.full((size,), 0.1 * (seed + 1)),
    "expanded": lambda size, seed: torch.tensor([0.7311 * (seed + 1)]).expand(size),
    "bfloat16": lambda size, seed: torch.full((size,), 0.1 * (seed + 1)).bfloat16(),
}


@every_way
@pytest.mark.parametrize("kind", ONE_MAGNITUDE)
@pytest.mark.parametrize("weights", [CHUNK // 2, CHUNK + 77])
def test_gradients_whose_rounding_errors_do_not_cancel_are_exact(way, kind, weights):
    grads = [ONE_MAGNITUDE[kind](weights, seed) for seed in range(3)]
    tensor = TensorGradients(grads, Tiers(torch.arange(0, weights, 20), torch.arange(1, weights, 20)))
    assert_same(way(tensor), obvious(tensor))


@every_way
@pytest.mark.parametrize("shapes", [[(40, 8), (10, 8)], [(10, 8), (40, 8)], [(0, 8), (10, 8)], [(8, 10), (10, 8)]])
def test_gradients_of_other_shapes_are_an_error_and_not_read(way, shapes):
    tensor = TensorGradients([torch.ones(shape) for shape in shapes], Tiers.none())
    with pytest.raises(ModelError, match="the gradients of a tensor have the shape"):
        way(tensor)


@every_way
def test_tiers_of_a_larger_tensor_are_an_error(way):
    tensor = TensorGradients([torch.ones(3000)], drawn(20_000).tiers)
    with pytest.raises(ModelError, match="a tensor has 3000 weights, and its tiers were made of at least"):
        way(tensor)


@every_way
def test_complex_gradients_are_an_error(way):
    tensor = TensorGradients([torch.ones(30), torch.ones(30, dtype=torch.complex64)], Tiers.none())
    with pytest.raises(ModelError, match="complex numbers"):
        way(tensor)


@every_way
def test_gradients_that_are_all_zero_sum_to_zero(way):
    tensor = drawn(1000, scale=0.0)
    assert not way(tensor).any()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(1, 4000), st.integers(1, 5), st.floats(0.01, 0.9), st.integers(0, 1000))
def test_both_ways_agree_for_any_shape(weights, experts, sparsity, seed):
    tensor = drawn(weights, experts=experts, sparsity=sparsity, seed=seed)
    for way in WAYS.values():
        assert_same(way(tensor), obvious(tensor))


def test_many_tensors_keep_their_order_and_small_ones_are_fetched_with_them():
    tensors = [drawn(size, seed=size) for size in (10, 200_000, 1000, 20)]
    found, fetched = measure_tensors(tensors, [torch.tensor([0.25, 0.75])])
    for sums, tensor in zip(np.split(found, len(tensors)), tensors, strict=True):
        assert_same(sums, obvious(tensor))
    assert fetched == [[0.25, 0.75]]


def test_no_tensors_have_no_sums():
    found, fetched = measure_tensors([])
    assert found.shape == (0, COLUMNS)
    assert fetched == []


def in_chunks(monkeypatch, *vectors):
    """Return the products [N, N] and the square distances [pairs] of vectors, summed in several chunks."""
    monkeypatch.setattr(products, "CHUNK", 1000)
    return inner_products([[v] for v in vectors]), square_distances([[v] for v in vectors])


@pytest.mark.parametrize("size", [1, 7, 1 << 14])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_products_and_square_distances_are_those_of_float64(monkeypatch, size, dtype):
    torch.manual_seed(size)
    vectors = [(torch.randn(size) * 1e3).to(dtype) for _ in range(4)]
    products, distances = in_chunks(monkeypatch, *vectors)
    exact = [[(one.double() @ other.double()).item() for other in vectors] for one in vectors]
    apart = [(one.double() - other.double()).square().sum().item() for one, other in combinations(vectors, 2)]
    assert products == pytest.approx(np.array(exact), rel=1e-12, abs=1e-12 * np.max(exact))
    assert distances == pytest.approx(apart, rel=1e-12)


@pytest.mark.parametrize("apart", [0.0, 1e-12, 1e-7, 1e-4, 1e-2])
def test_distances_of_vectors_that_are_nearer_to_each_other_than_to_the_first_keep_their_digits(monkeypatch, apart):
    first, base = torch.randn(2, 3000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vectors = [first, base, base * (1 + apart), 3 * base, base.flip(0), base * (1 - 2 * apart)]
    _, distances = in_chunks(monkeypatch, *vectors)
    exact = [(one - other).square().sum().item() for one, other in combinations(vectors, 2)]
    assert distances == pytest.approx(exact, rel=1e-9, abs=0)
    assert squares([[v] for v in vectors]) == pytest.approx([v.square().sum().item() for v in vectors], rel=1e-12)


def test_a_vector_may_be_given_as_several_tensors():
    vectors = [torch.randn(50) for _ in range(3)]
    parts = [[v[:20], v[20:]] for v in vectors]
    whole = [[v] for v in vectors]
    assert inner_products(parts) == pytest.approx(inner_products(whole))
    assert square_distances(parts) == pytest.approx(square_distances(whole))
    assert inner_products([]).shape == (0, 0)
    assert inner_products([[], []]).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert square_distances([[], []]).tolist() == [0.0]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_products_of_tiny_and_of_huge_gradients_are_not_lost(monkeypatch, scale):
    products, _ = in_chunks(monkeypatch, torch.full((4000,), scale), torch.full((4000,), 3 * scale))
    assert products[0, 1] == pytest.approx(3.0 * float(torch.tensor(scale)) ** 2 * 4000, rel=1e-5)


def test_a_small_difference_of_large_weights_keeps_its_digits(monkeypatch):
    one = torch.full((10_000,), 1.0)
    other = one + torch.finfo(torch.float32).eps
    _, distances = in_chunks(monkeypatch, one, other, one)
    square = 10_000 * torch.finfo(torch.float32).eps ** 2
    assert distances.tolist() == pytest.approx([square, 0.0, square], rel=1e-12, abs=0.0)
