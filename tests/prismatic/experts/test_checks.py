"""Models that are refused before training: sharded inside a router, or with experts of different shapes."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from prismatic import DynamicsLoggerCallback, Prismatic, RouterConfig
from prismatic.errors import ModelError
from tests.support.small_layers import Mixture


def network(**options):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 8)) for _ in range(2)]
    return nn.Sequential(*(Prismatic(b, 8, RouterConfig(**options), layer=i) for i, b in enumerate(blocks)))


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_sharding_inside_a_router_is_refused_with_the_remedy(tmp_path, process_group):
    model = network()
    fully_shard(model[1].experts[0])
    with pytest.raises(ModelError, match=r"fully_shard was applied to FSDPSequential .* apply it to the router"):
        DynamicsLoggerCallback(tmp_path / "x.db").attach(model, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("inner", [True, False], ids=["router", "whole model"])
def test_sharding_of_the_router_or_around_it_is_not_refused(tmp_path, process_group, inner):
    model = network()
    fully_shard(model[1] if inner else model)
    callback = DynamicsLoggerCallback(tmp_path / "x.db")
    callback.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    callback.detach()


def test_a_model_that_is_refused_leaves_the_file_free(tmp_path):
    model = Mixture()
    model.experts[2] = nn.Linear(20, 10)
    for _ in range(2):
        with pytest.raises(ModelError, match="other weights"):
            DynamicsLoggerCallback(tmp_path / "x.db").attach(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_experts_of_different_shapes_are_refused_before_training(tmp_path):
    model = Mixture()
    model.experts[2] = nn.Linear(20, 10)
    with pytest.raises(ModelError, match="expert 2 has other weights than expert 0"):
        DynamicsLoggerCallback(tmp_path / "x.db").attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
