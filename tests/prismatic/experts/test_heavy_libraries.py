"""Mixtures of libraries that are too heavy for every run: `make clients` installs them beside .venv and runs this."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prismatic.experts.discovery import find_routers
from prismatic.measure.gradients import measure
from prismatic.measure.isolated import isolated_dynamics
from tests.prismatic.experts.test_mixtures import slow_norms

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),  # these libraries warn of what they miss on a CPU
]


def torchtitan() -> nn.Module:
    """Return the mixture of torchtitan, which imports triton also on a CPU."""
    pytest.importorskip("triton")
    moe = pytest.importorskip("torchtitan.models.common.moe")
    from torchtitan.models.common.linear import Linear
    from torchtitan.models.common.token_dispatcher import LocalTokenDispatcher

    config = moe.MoE.Config(
        num_experts=4,
        routed_experts=moe.RoutedExperts.Config(
            inner_experts=moe.GroupedExperts.Config(dim=16, hidden_dim=24, num_experts=4),
            token_dispatcher=LocalTokenDispatcher.Config(num_experts=4, top_k=2),
        ),
        router=moe.TokenChoiceTopKRouter.Config(
            num_experts=4, gate=Linear.Config(in_features=16, out_features=4), top_k=2
        ),
    )
    return config.build()


class First(nn.Module):
    """A layer whose first output is the one to train."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def deepspeed() -> nn.Module:
    """Return the mixture of DeepSpeed in a group of one process."""
    library = pytest.importorskip("deepspeed")
    from deepspeed.moe.layer import MoE

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29713")
    library.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    expert = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
    layer = MoE(16, expert, num_experts=4, k=2, min_capacity=0, top2_2nd_expert_sampling=False)
    layer.set_deepspeed_parallelism()
    return First(layer)


LIBRARIES = {"torchtitan": torchtitan, "DeepSpeed": deepspeed}


@pytest.fixture(params=LIBRARIES)
def trained(request: pytest.FixtureRequest) -> Any:
    """A mixture after a backward pass, and its layer."""
    torch.manual_seed(0)
    model = LIBRARIES[request.param]().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    (layer,) = find_routers(model)
    layer.watch()
    loss(model, batch()).backward()
    yield model, layer
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def batch() -> Tensor:
    return torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(1))


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - 1).square().mean()


def test_the_mixture_is_found_and_measured_as_experts_cut_out_by_hand(trained):
    _, layer = trained
    assert len(layer) == 4
    (measured,) = measure([layer])
    for expert, found in enumerate(measured):
        if layer.layout == "dispatched":
            matrices = [(p.detach(), p.grad) for p in layer.module.experts.deepspeed_experts[expert].parameters()]
        else:
            matrices = [(p.detach()[expert], p.grad[expert]) for p in layer.module.inner_experts.parameters()]
        for tier, norm in slow_norms(matrices).items():
            assert getattr(found, f"{tier}_norm") == pytest.approx(norm, rel=1e-6)


def test_token_shares_are_those_that_the_library_counts(trained):
    model, layer = trained
    (measured,) = measure([layer])
    shares = [found.token_share for found in measured]
    assert sum(found.routing_weight for found in measured) == pytest.approx(1)
    if layer.layout == "dispatched":
        kept = layer.module.gate(batch().view(-1, 16), None, True, False)[3]
        counts = torch.bincount(kept[kept >= 0], minlength=4)
    else:
        counts = model.tokens_per_expert_E
    assert shares == pytest.approx((counts / counts.sum()).tolist(), abs=1e-6)


def test_the_direction_of_identical_copies_is_zero_on_the_same_input(trained):
    model, layer = trained
    with torch.no_grad():
        for expert in range(1, 4):
            for first, own in zip(layer.views(0).values(), layer.views(expert).values(), strict=True):
                own.of(own.parameter).copy_(first.of(first.parameter))
    found = isolated_dynamics(model, lambda each: loss(model, each), batch())
    ((*experts,),), ((*pairs,),) = found.layers, found.pairs
    for pair in pairs:
        own = experts[pair.expert].half_product * experts[pair.other].half_product
        assert abs(1 - abs(pair.half_product) / math.sqrt(abs(own))) < 1e-4
        assert pair.output_distance < 1e-6
