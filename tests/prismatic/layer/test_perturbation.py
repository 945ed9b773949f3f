"""The perturbation of weights, by mode and strategy, as properties of any tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prismatic.experts.tiers import Tiers, tier_indices
from prismatic.layer.config import RouterConfig
from prismatic.layer.perturbation import noise_seed, perturb
from prismatic.layer.router import Prismatic

quick = settings(deadline=None, derandomize=True, max_examples=60)
# A few repeated values make ties and zeros common.
WEIGHTS = st.lists(
    st.one_of(st.sampled_from([0.0, -0.0, 0.5, -0.5, 2.0]), st.floats(-(2.0**100), 2.0**100, width=32)),
    min_size=1,
    max_size=80,
)


def weights(count: int = 2000, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_the_noise_of_a_seed_is_always_the_same():
    weight = weights()
    tiers = tier_indices(weight, 0.1)
    first, again, other = (perturb(weight, tiers, scale=1.0, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_noise_does_not_depend_on_the_order_in_which_parameters_are_visited():
    a, b = nn.Linear(6, 6), nn.Linear(6, 6)
    config = RouterConfig(sparsity=0.4)
    one = Prismatic(nn.ModuleDict({"a": a, "b": b}), 6, config)
    two = Prismatic(nn.ModuleDict({"b": b, "a": a}), 6, config)
    for name in ("a.weight", "a.bias", "b.weight", "b.bias"):
        assert torch.equal(one.experts[1].get_parameter(name), two.experts[1].get_parameter(name))


@quick
@given(st.integers(0, 2**62), st.lists(st.text(max_size=5), min_size=2, max_size=2, unique=True))
def test_each_name_has_different_noise(seed: int, names: list[str]):
    seeds = {noise_seed(seed, 0, 1, name) for name in names}
    assert len(seeds) == 2
    assert all(0 <= value < 2**63 for value in seeds)


@pytest.mark.parametrize("mode", ["noise", "attractive", "repulsive"])
@pytest.mark.parametrize("strategy", ["dual_sided", "top_only", "bottom_only", "random"])
def test_bfloat16_and_float32_weights_are_perturbed_alike(mode: str, strategy: str):
    half = weights().bfloat16()
    tiers = tier_indices(half, 0.1)
    assert all(map(torch.equal, tiers, tier_indices(half.float(), 0.1)))
    options = {"scale": 0.7, "mode": mode, "strategy": strategy, "seed": 1}
    single = perturb(half.float(), tiers, **options)
    assert torch.equal(perturb(half, tiers, **options), single.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("strategy", "selected"), [("dual_sided", 200), ("top_only", 100), ("random", 200)])
def test_weights_that_are_not_selected_keep_every_bit(dtype: torch.dtype, strategy: str, selected: int):
    weight = torch.randn(40, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    result = perturb(weight, tier_indices(weight, 0.1), scale=1.0, strategy=strategy, seed=5)
    assert (result.dtype, result.shape) == (dtype, weight.shape)
    assert 0.9 * selected < int((result != weight).sum()) <= selected


@quick
@given(WEIGHTS, st.floats(0, 3), st.sampled_from(["noise", "attractive", "repulsive"]), st.integers(0, 2**62))
def test_no_weight_changes_by_more_than_scale_times_its_magnitude(values, scale, mode, seed):
    weight = torch.tensor(values)
    change = perturb(weight, tier_indices(weight, 0.5), scale=scale, mode=mode, seed=seed) - weight
    rounding = 1e-6 * weight.abs() + 1e-44  # float32 sums are exact to half a unit in the last place
    assert bool((change.abs() <= scale * weight.abs() * (1 + 1e-6) + (1 + scale) * rounding).all())


def test_noise_reaches_the_whole_range_to_both_sides():
    weight = weights(40_000)
    tiers = tier_indices(weight, 0.1)
    for indices in tiers:
        share = ((perturb(weight, tiers, scale=0.5, seed=0) - weight) / weight.abs())[indices]
        assert -0.5 <= share.min() < -0.49 < 0.49 < share.max() <= 0.5
        assert abs(share.mean().item()) < 0.03


@pytest.mark.parametrize(("mode", "large", "small"), [("attractive", 0.75, 1.25), ("repulsive", 1.25, 0.75)])
def test_attraction_brings_the_two_ends_together_and_repulsion_apart(mode: str, large: float, small: float):
    weight = weights()
    tiers = tier_indices(weight, 0.1)
    result = perturb(weight, tiers, scale=0.25, mode=mode, seed=0)
    torch.testing.assert_close(result[tiers.top], weight[tiers.top] * large)
    torch.testing.assert_close(result[tiers.bottom], weight[tiers.bottom] * small)


@pytest.mark.parametrize(("strategy", "ends"), [("dual_sided", (0, 1)), ("top_only", (0,)), ("bottom_only", (1,))])
def test_a_strategy_changes_the_ends_that_it_names(strategy: str, ends: tuple[int, ...]):
    weight = weights()
    tiers = tier_indices(weight, 0.1)
    changed = (perturb(weight, tiers, scale=1.0, strategy=strategy, mode="repulsive", seed=0) != weight).nonzero()
    assert changed.flatten().tolist() == torch.cat([tiers[end] for end in ends]).sort().values.tolist()


def test_random_changes_as_many_weights_as_both_ends_hold_but_anywhere():
    weight = weights()
    tiers = tier_indices(weight, 0.1)
    changed = (perturb(weight, tiers, scale=1.0, strategy="random", seed=0) != weight).nonzero().flatten()
    in_the_ends = torch.isin(changed, torch.cat(tiers)).sum().item()
    assert len(changed) == 200
    assert 5 < in_the_ends < 40  # 20 expected


def test_random_attraction_shrinks_the_larger_half_of_what_it_chose():
    weight = weights().abs()
    result = perturb(weight, tier_indices(weight, 0.1), scale=0.5, strategy="random", mode="attractive", seed=0)
    shrunk, grown = weight[result < weight], weight[result > weight]
    assert len(shrunk) == len(grown) == 100
    assert shrunk.min() >= grown.max()


@quick
@given(WEIGHTS, st.sampled_from(["noise", "attractive", "repulsive"]))
def test_scale_zero_changes_nothing(values: list[float], mode: str):
    weight = torch.tensor(values)
    assert torch.equal(perturb(weight, tier_indices(weight, 0.5), scale=0.0, mode=mode, seed=1), weight)


def test_the_given_tensor_is_never_modified():
    weight = weights().requires_grad_()
    before = weight.detach().clone()
    result = perturb(weight, tier_indices(weight, 0.1), scale=1.0, seed=0)
    assert torch.equal(weight, before)
    assert not result.requires_grad
    assert perturb(weight, Tiers(torch.empty(0).long(), torch.empty(0).long()), scale=1.0, seed=0) is not weight


def test_weights_that_are_not_contiguous_are_perturbed_like_their_copy():
    weight = weights().view(40, 50).T
    tiers = tier_indices(weight, 0.1)
    assert torch.equal(
        perturb(weight, tiers, scale=1.0, seed=0), perturb(weight.contiguous(), tiers, scale=1.0, seed=0)
    )
