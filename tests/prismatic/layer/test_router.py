"""The Prismatic layer compared to a merge written by hand, one expert and one sequence at a time."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismatic.errors import ModelError
from prismatic.layer.config import RouterConfig
from prismatic.layer.router import Prismatic
from prismatic.train.model import Block

SIZE = 8


def router(seed: int = 0, **options) -> Prismatic:
    torch.manual_seed(seed)
    return Prismatic(Block(SIZE, num_heads=2), SIZE, RouterConfig(**{"sparsity": 0.4} | options))


def batch(sequences: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(sequences, 6, SIZE, generator=torch.Generator().manual_seed(seed))


def merged_by_hand(layer: Prismatic, shares: list[float], x: Tensor) -> Tensor:
    """Return the output of a block in which each weight is the weighted sum of the experts' weights."""
    block = copy.deepcopy(layer.experts[0])
    with torch.no_grad():
        for name, weight in block.named_parameters():
            weight.copy_(sum(p * expert.get_parameter(name) for p, expert in zip(shares, layer.experts, strict=True)))
    return block(x)


def shares_by_hand(layer: Prismatic, sequence: Tensor) -> list[float]:
    routed_by = sequence[0] if layer.config.router_input == "first" else sequence.mean(0)
    return F.softmax(layer.gate.weight @ layer.norm(routed_by) + layer.gate.bias, dim=0).tolist()


def backward(layer: Prismatic, seed: int = 2) -> dict[str, Tensor]:
    """Return all gradients after one backward pass of a loss that weights each output differently."""
    layer.zero_grad()
    output = layer(batch())
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))).sum().backward()
    return {name: weight.grad.clone() for name, weight in layer.experts.named_parameters()}


def flat_gradient(layer: Prismatic, expert: int) -> Tensor:
    return torch.cat([weight.grad.flatten().double() for weight in layer.experts[expert].parameters()])


@pytest.mark.parametrize("router_input", ["mean", "first"])
def test_batch_merge_is_one_block_with_the_mean_shares(router_input: str):
    layer, x = router(router_input=router_input), batch()
    per_sequence = [shares_by_hand(layer, sequence) for sequence in x]
    means = [sum(column) / len(x) for column in zip(*per_sequence, strict=True)]
    torch.testing.assert_close(layer(x), merged_by_hand(layer, means, x), atol=1e-5, rtol=1e-5)
    assert layer.routing_weights.tolist() == pytest.approx(means, abs=1e-6)


@pytest.mark.parametrize("router_input", ["mean", "first"])
def test_example_merge_is_a_separate_block_for_each_sequence(router_input: str):
    layer, x = router(merge="example", router_input=router_input), batch()
    output = layer(x)
    for i in range(len(x)):
        alone = merged_by_hand(layer, shares_by_hand(layer, x[i]), x[i : i + 1])
        torch.testing.assert_close(output[i : i + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merge", ["batch", "example"])
def test_gradients_are_those_of_a_merge_without_vmap(merge: str):
    layer = router(merge=merge)
    fast = backward(layer)
    layer.zero_grad()
    weights = torch.randn(batch().shape, generator=torch.Generator().manual_seed(2))
    shares = layer.route(batch())
    for i, x in enumerate(batch()):
        p = shares.mean(0) if merge == "batch" else shares[i]
        parts = {n: sum(p[e] * w.get_parameter(n) for e, w in enumerate(layer.experts)) for n in layer.parameter_names}
        (torch.func.functional_call(layer.experts[0], parts, x[None]) * weights[i]).sum().backward(retain_graph=True)
    for name, weight in layer.experts.named_parameters():
        torch.testing.assert_close(fast[name], weight.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("routing", ["trained", "frozen"])
def test_routing_weights_sum_to_one(routing: str):
    p_BE = router(routing=routing, num_experts=4).route(100 * batch())
    assert p_BE.shape == (5, 4)
    torch.testing.assert_close(p_BE.sum(1), torch.ones(5))
    assert bool((p_BE >= 0).all())


def test_frozen_routing_is_uniform_and_never_trained():
    layer = router(routing="frozen", num_experts=4)
    backward(layer)
    assert layer.route(batch()).unique().tolist() == [0.25]
    unused = [*layer.gate.parameters(), *layer.norm.parameters()]
    assert all(weight.grad is None and not weight.requires_grad for weight in unused)


def test_trained_routing_gets_a_gradient():
    layer = router()
    backward(layer)
    assert layer.gate.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("router_input", "sees_the_future"), [("first", False), ("mean", True)])
def test_only_routing_on_the_first_position_is_causal(router_input: str, sees_the_future: bool):
    layer, x = router(merge="example", router_input=router_input), batch()
    changed = x.clone()
    changed[:, -1] += 3
    assert torch.equal(layer(x)[:, :-1], layer(changed)[:, :-1]) is not sees_the_future


def test_batch_merge_lets_sequences_see_each_other_and_example_merge_does_not():
    x = batch()
    changed = torch.cat([x[:1], x[1:] + torch.arange(SIZE)])
    outputs = [router(merge=merge)(data)[0] for merge in ("batch", "example") for data in (x, changed)]
    assert not torch.allclose(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[2], outputs[3], atol=1e-6, rtol=1e-6)


def test_expert_0_is_the_given_block_with_its_own_weights():
    torch.manual_seed(0)
    block = Block(SIZE, num_heads=2)
    before = copy.deepcopy(block.state_dict())
    layer = Prismatic(block, SIZE)
    assert layer.experts[0] is block
    assert all(torch.equal(before[name], value) for name, value in block.state_dict().items())


def test_every_expert_differs_from_the_clean_one_only_in_the_shared_index_sets():
    layer = router(num_experts=3)
    for name in layer.parameter_names:
        clean, *others = (expert.get_parameter(name).flatten() for expert in layer.experts)
        ends = set(torch.cat(layer.tiers[name]).tolist())
        assert all(set((other != clean).nonzero().flatten().tolist()) <= ends for other in others)
        assert not ends or not torch.equal(others[0], others[1])


def test_roles_stand_in_order_and_controls_come_last():
    layer = router(num_experts=3, control_experts=2, perturbation_scale=0.5)
    assert layer.roles == ["clean", "perturbed", "perturbed", "control", "control"]
    assert [layer.scale_of(expert) for expert in range(5)] == [0.0, 0.5, 0.5, 0.001, 0.001]
    assert layer.route(batch()).shape == (5, 5)


@pytest.mark.parametrize("mode", ["noise", "attractive", "repulsive"])
def test_a_control_expert_changes_by_at_most_a_thousandth(mode: str):
    layer = router(control_experts=1, perturbation_mode=mode)
    clean, control = (nn.utils.parameters_to_vector(layer.experts[i].parameters()) for i in (0, 3))
    assert int((clean != control).sum()) > 0
    assert bool(((control - clean).abs() <= 0.001 * clean.abs() * 1.001 + 1e-7 * clean.abs()).all())


def test_a_control_expert_gets_noise_whatever_the_others_get():
    names = [f"3.{name}" for name in router().parameter_names]
    one, other = (router(control_experts=1, perturbation_mode=mode).experts for mode in ("noise", "attractive"))
    assert all(torch.equal(one.get_parameter(name), other.get_parameter(name)) for name in names)


def test_changed_is_the_share_of_each_tier_that_differs():
    layer = router(perturbation_strategy="top_only")
    assert layer.changed_EK[0].tolist() == [0, 0, 0]
    assert layer.changed_EK[1].tolist() == pytest.approx([1, 0, 0], abs=0.02)
    assert router(perturbation_scale=0.0).changed_EK.abs().sum() == 0


def test_tier_sizes_add_up_to_the_block():
    layer = router()
    sizes = layer.tiers.sizes(sum(p.numel() for p in layer.experts[0].parameters()))
    ranked = [weight.numel() for name, weight in layer.experts[0].named_parameters() if "norm" not in name]
    assert sizes["top"] == sizes["bottom"] == sum(round(count * 0.2) for count in ranked)
    assert sum(sizes.values()) == sum(weight.numel() for weight in layer.experts[0].parameters())


def test_hashes_are_equal_only_for_equal_tiers():
    assert router(seed=0).tiers.hashes() == router(seed=0, perturbation_scale=0.1, num_experts=2).tiers.hashes()
    assert set(router(seed=0).tiers.hashes().values()).isdisjoint(router(seed=1).tiers.hashes().values())


def test_a_deep_copy_has_the_same_tiers_and_outputs():
    layer = router()
    copied = copy.deepcopy(layer)
    assert copied.tiers.hashes() == layer.tiers.hashes()
    assert torch.equal(copied(batch()), layer(batch()))


def test_a_state_dict_restores_tiers_and_outputs(tmp_path):
    layer, other = router(seed=0), router(seed=1)
    torch.save(layer.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert other.tiers.hashes() == layer.tiers.hashes()
    assert torch.equal(other.changed_EK, layer.changed_EK)
    assert torch.equal(other(batch()), layer(batch()))


@pytest.mark.parametrize("merge", ["batch", "example"])
@pytest.mark.parametrize("copied", [False, True], ids=["made", "copied"])
def test_positive_control_multiplies_bottom_gradients_of_perturbed_experts_and_nothing_else(merge: str, copied: bool):
    plain, gained = (router(merge=merge, control_experts=1, positive_control=gain) for gain in (1.0, 1.5))
    gained = copy.deepcopy(gained) if copied else gained
    expected, found = backward(plain), backward(gained)
    for expert, name in ((expert, name) for expert in (1, 2) for name in plain.parameter_names):
        expected[f"{expert}.{name}"].view(-1)[plain.tiers[name].bottom] *= 1.5
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert torch.equal(plain(batch()), gained(batch()))


def test_experts_are_made_again_after_the_weights_are_initialised_again():
    layer = router()
    for weight in layer.experts[0].parameters():
        nn.init.normal_(weight)
    layer.reset_experts()
    fresh = Prismatic(copy.deepcopy(layer.experts[0]), SIZE, layer.config)
    assert layer.tiers.hashes() == fresh.tiers.hashes()
    assert torch.equal(layer.changed_EK, fresh.changed_EK)
    assert all(map(torch.equal, layer.experts.parameters(), fresh.experts.parameters()))


def test_layers_have_different_noise():
    torch.manual_seed(0)
    block = Block(SIZE, num_heads=2)
    experts = [Prismatic(copy.deepcopy(block), SIZE, layer=layer).experts[1].feedforward_in.weight for layer in (0, 1)]
    assert not torch.equal(*experts)


def test_a_block_without_parameters_is_refused():
    with pytest.raises(ModelError, match="GELU has no parameters"):
        Prismatic(nn.GELU(), SIZE)


def test_a_block_with_nan_weights_is_refused():
    block = nn.Linear(SIZE, SIZE)
    nn.init.constant_(block.weight, float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        Prismatic(block, SIZE)


@pytest.mark.parametrize("control", [0, 1])
def test_gradients_of_a_batch_merge_are_collinear_with_the_shares_as_lengths(control: int):
    layer = router(control_experts=control)
    backward(layer)
    clean = flat_gradient(layer, 0)
    for expert in range(1, len(layer.roles)):
        gradient = flat_gradient(layer, expert)
        assert F.cosine_similarity(gradient, clean, dim=0).item() == pytest.approx(1, abs=1e-6)
        share_ratio = (layer.routing_weights[expert] / layer.routing_weights[0]).item()
        assert (gradient.norm() / clean.norm()).item() == pytest.approx(share_ratio, rel=1e-5)


def test_gradients_of_an_example_merge_are_not_collinear():
    layer = router(merge="example")
    backward(layer)
    assert F.cosine_similarity(flat_gradient(layer, 1), flat_gradient(layer, 0), dim=0).item() < 1 - 1e-4


def test_the_shares_are_the_mean_over_the_batches_that_a_step_accumulates():
    layer, shares = router(), []
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for seed in range(3):
        x = torch.randn(4, 5, SIZE, generator=torch.Generator().manual_seed(seed))
        shares.append(layer.route(x).detach().mean(0))
        layer(x).square().mean().backward()
    torch.testing.assert_close(layer.routing_weights, torch.stack(shares).mean(0))
    optimizer.step()
    layer(x)
    torch.testing.assert_close(layer.routing_weights, layer.route(x).detach().mean(0))


def test_an_evaluation_between_backward_and_step_does_not_change_the_shares():
    layer = router()
    backward(layer)
    before = layer.routing_weights.clone()
    with torch.no_grad():
        layer(10 * batch())
    assert torch.equal(layer.routing_weights, before)


def test_a_router_returns_dynamics_only_after_backward():
    layer = router()
    assert layer.log_gradient_dynamics() is None
    backward(layer)
    dynamics = layer.log_gradient_dynamics()
    assert dynamics["expert_gradients"]["expert_0"]["clean_norm"] == pytest.approx(
        flat_gradient(layer, 0).norm().item()
    )


def test_bfloat16_weights_are_routed_and_merged():
    layer = router(merge="example").bfloat16()
    output = layer(batch().bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), router(merge="example")(batch()), atol=0.1, rtol=0.1)
