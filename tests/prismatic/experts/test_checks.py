"""Models that are refused before training: sharded inside a router, or with experts of different shapes."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from prismatic import DynamicsLoggerCallback, Prismatic, RouterConfig
from prismatic.errors import ModelError
from tests.support.run_file import events, facts, rows, steps
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


class Fused(nn.Module):
    """Stacked experts that are called with the top-k index and weights, and hold the routing of the last call."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 20, 20))

    def forward(self, hidden, top_k_index, top_k_weights):
        return torch.einsum("nd,nkde,nk->ne", hidden, self.up[top_k_index], top_k_weights)


class WithSharesBeside(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts, self.gate = Fused(), nn.Linear(20, 4)
        self.routing_weights = torch.full((4,), 0.25)

    def forward(self, hidden):
        weights, index = self.gate(hidden).softmax(-1).topk(2)
        return self.experts(hidden, index, weights)


def test_fused_experts_beside_routing_weights_are_measured(tmp_path):
    model = WithSharesBeside()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    callback.attach(model, optimizer)
    model(torch.randn(8, 20)).square().mean().backward()
    optimizer.step()
    callback.detach()
    assert (steps(tmp_path / "x.db"), events(tmp_path / "x.db")) == ([0], [("experts_found", None)])


def test_whatever_fails_at_attach_leaves_the_file_free(tmp_path):
    model = Mixture()
    model.experts[1].weight.data[0, 0] = float("nan")
    model.experts[0].weight.data[0, 0] = float("nan")
    for _ in range(2):
        with pytest.raises(ModelError, match="NaN or infinite"):
            DynamicsLoggerCallback(tmp_path / "x.db").attach(model, torch.optim.SGD(model.parameters(), lr=0.1))


class SharesSinceForward(Mixture):
    def __init__(self):
        super().__init__()
        del self.routing_weights


@pytest.mark.filterwarnings("error")
def test_a_layer_that_tells_its_routing_only_since_its_forward_is_found_then(tmp_path):
    model = SharesSinceForward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    callback.attach(model, optimizer)
    for _ in range(2):
        model(torch.randn(2, 5, 20)).square().mean().backward()
        optimizer.step()
    callback.detach()
    assert (steps(tmp_path / "x.db"), events(tmp_path / "x.db")) == ([0, 1], [])
    assert facts(tmp_path / "x.db")["routers"] == 1
    assert len(rows(tmp_path / "x.db", "SELECT * FROM experts")) == 4


def test_a_layer_that_never_tells_its_routing_is_reported_at_the_first_step(tmp_path):
    model = SharesSinceForward()
    model.forward = lambda x: sum(expert(x) for expert in model.experts)
    optimizer = torch.optim.SGD(model.experts.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    callback.attach(model, optimizer)
    model(torch.randn(2, 5, 20)).square().mean().backward()
    with pytest.warns(RuntimeWarning, match="no layer of experts"):
        optimizer.step()
    callback.detach()
    assert (steps(tmp_path / "x.db"), events(tmp_path / "x.db")) == ([], [("no_router", None)])


def test_gradients_that_are_kept_elsewhere_are_measured(tmp_path):
    model = Mixture()
    model(torch.randn(2, 5, 20)).square().mean().backward()
    kept = {parameter: parameter.grad for parameter in model.parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    callback.on_train_begin(model)
    callback.on_before_optimizer_step(model, 0, gradient=kept.get)
    callback.on_train_end()
    assert (steps(tmp_path / "x.db"), events(tmp_path / "x.db")) == ([0], [])
    norm = torch.cat([kept[p].flatten() for p in model.experts[1].parameters()]).norm().item()
    (row,) = rows(tmp_path / "x.db", "SELECT norm FROM layers WHERE expert = 1")
    assert row["norm"] == pytest.approx(norm, rel=1e-6)


def test_experts_without_any_parameter_are_refused(tmp_path):
    model = Mixture()
    model.experts = nn.ModuleList([nn.Tanh(), nn.Tanh()])
    with pytest.raises(ModelError, match="have no parameters"):
        DynamicsLoggerCallback(tmp_path / "x.db").on_train_begin(model)
