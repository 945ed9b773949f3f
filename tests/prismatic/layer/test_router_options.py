"""Options of the router: expert dropout, load balancing, and tiers of the experts' current weights."""

import math

import pytest
import torch
from torch import nn

from prismatic.experts.tiers import tier_indices
from prismatic.layer.router import load_balancing_loss, load_imbalance
from prismatic.measure.gradients import measure
from tests.support.small_layers import inputs, layer, with_gradients


def test_dropped_experts_have_no_share_and_the_others_share_the_whole():
    p_BE = layer(expert_dropout=0.5).train().route(inputs().repeat(50, 1, 1))
    assert torch.allclose(p_BE.sum(-1), torch.ones(300))
    assert 0.3 < (p_BE == 0).float().mean() < 0.6


def test_no_sequence_is_left_without_an_expert():
    p_BE = layer(expert_dropout=0.99).train().route(inputs().repeat(50, 1, 1))
    assert torch.allclose(p_BE.sum(-1), torch.ones(300))


def test_nothing_is_dropped_when_not_training():
    made = layer(expert_dropout=0.9).eval()
    assert (made.route(inputs()) > 0).all()


@pytest.mark.parametrize(("shares", "expected"), [([[0.9, 0.1], [0.1, 0.9]], 1.0), ([[1.0, 0.0], [1.0, 0.0]], 2.0)])
def test_the_imbalance_is_one_for_a_balanced_router_and_the_number_of_experts_for_a_collapsed_one(shares, expected):
    assert load_imbalance(torch.tensor(shares)).item() == pytest.approx(expected)


def test_the_load_balancing_loss_pulls_the_router_towards_balance():
    made = layer(load_balancing=1.0)
    with torch.no_grad():
        made.gate.bias.copy_(torch.tensor([5.0, 0.0, 0.0]))
    optimizer = torch.optim.SGD(made.gate.parameters(), lr=2.0)
    shares = []
    for _ in range(60):
        optimizer.zero_grad()
        made(inputs())
        shares.append(made.routing_weights[0].item())
        load_balancing_loss(nn.Sequential(made)).backward()
        optimizer.step()
    assert shares[0] > 0.9 > 0.7 > shares[-1]


def test_without_the_option_there_is_no_balancing_loss():
    made = layer()
    made(inputs())
    assert load_balancing_loss(made) == 0.0


def test_current_tiers_are_those_of_each_experts_own_weights():
    made = with_gradients(tier_basis="current")
    for expert, measured in zip(made.experts, measure([made])[0], strict=True):
        squares = 0.0
        for weight in expert.parameters():
            squares += weight.grad.flatten()[tier_indices(weight, 0.1).bottom].double().square().sum().item()
        assert measured.bottom_norm == pytest.approx(math.sqrt(squares), rel=1e-6)


def test_current_and_base_tiers_agree_on_the_whole_and_on_the_direction():
    current, base = (measure([with_gradients(tier_basis=basis)])[0] for basis in ("current", "base"))
    assert [e.norm for e in current] == pytest.approx([e.norm for e in base], rel=1e-9)
    assert [e.gradient_cosine for e in current] == pytest.approx([e.gradient_cosine for e in base], rel=1e-9)
    assert [e.bottom_norm for e in current[1:]] != [e.bottom_norm for e in base[1:]]
