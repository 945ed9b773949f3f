"""Experts that are pruned, grown or replaced while they are measured, or are complex: an error, never a number."""

import pytest
import torch
from torch import nn

from prismatic import DynamicsLoggerCallback, log_gradient_dynamics
from prismatic.errors import ModelError
from tests.prismatic.experts.test_checks import WithSharesBeside
from tests.support.run_file import events, rows, steps
from tests.support.small_layers import Mixture, with_gradients


def with_random_gradients(model):
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def replace(expert, rows):
    expert.weight, expert.bias = nn.Parameter(torch.randn(rows, 20)), nn.Parameter(torch.randn(rows))


def resize(expert, rows):
    expert.weight.data, expert.bias.data = torch.randn(rows, 20), torch.randn(rows)


@pytest.mark.parametrize("sizes", [(16, 64), (64, 16)])
def test_experts_of_different_shapes_are_an_error_by_hand(sizes):
    model = Mixture()
    model.experts = nn.ModuleList(nn.Linear(20, size) for size in sizes)
    with pytest.raises(ModelError, match=r"gradients of weight have the shape .* Only experts of the same shapes"):
        log_gradient_dynamics(with_random_gradients(model), 0)


def test_an_expert_with_other_tensors_is_an_error_by_hand():
    model = with_random_gradients(Mixture())
    model.experts[2] = nn.Linear(20, 20, bias=False)
    with pytest.raises(ModelError, match=r"expert 2 has other tensors than expert 0.*bias"):
        log_gradient_dynamics(model, 0)


@pytest.mark.parametrize("change", [replace, resize])
@pytest.mark.parametrize("size", [4, 400])
def test_experts_that_all_change_their_size_have_no_tiers_any_more(change, size):
    model = with_random_gradients(Mixture())
    assert log_gradient_dynamics(model, 0)["layers"]
    for expert in model.experts:
        change(expert, size)
    message = f"weight has {20 * size} weights, and its tiers were made of 400. Tiers are fixed at the start"
    for _ in range(2):
        with pytest.raises(ModelError, match=message):
            log_gradient_dynamics(with_random_gradients(model), 1)


@pytest.mark.parametrize("size", [5, 40])
@pytest.mark.parametrize("in_place", [True, False])
def test_experts_in_one_tensor_have_no_tiers_of_another_size_either(size, in_place):
    model = with_random_gradients(WithSharesBeside())
    assert log_gradient_dynamics(model, 0)["layers"]
    if in_place:
        model.experts.up.data = torch.randn(4, size, 20)
    else:
        model.experts.up = nn.Parameter(torch.randn(4, size, 20))
    with pytest.raises(ModelError, match=f"up has {20 * size} weights, and its tiers were made of 400"):
        log_gradient_dynamics(with_random_gradients(model), 1)


def test_experts_may_be_replaced_by_others_of_their_size():
    model = with_random_gradients(WithSharesBeside())
    log_gradient_dynamics(model, 0)
    model.experts.up = nn.Parameter(torch.randn(4, 400))
    norms = [row["norm"] for row in log_gradient_dynamics(with_random_gradients(model), 1)["layers"]]
    assert norms == pytest.approx(model.experts.up.grad.norm(dim=1).tolist())


def test_sparse_gradients_of_another_size_are_an_error():
    model = Mixture()
    model.experts = nn.ModuleList(nn.Embedding(8, 4, sparse=True) for _ in range(2))
    log_gradient_dynamics(with_random_gradients(model), 0)
    for expert in model.experts:
        expert.weight.data, expert.weight.grad = torch.randn(16, 4), None
        expert(torch.arange(16)).sum().backward()
    with pytest.raises(ModelError, match="weight has 64 weights, and its tiers were made of 32"):
        log_gradient_dynamics(model, 1)


@pytest.mark.parametrize("options", [{}, {"tier_basis": "current"}], ids=["base", "current"])
def test_a_prismatic_layer_refuses_another_size_as_well(options):
    model = with_gradients(**options)
    assert log_gradient_dynamics(model, 0)["layers"]
    for expert in model.experts:
        expert[0].weight.data = torch.randn(4, 8)
        expert[0].weight.grad = torch.randn(4, 8)
    with pytest.raises(ModelError, match=r"0\.weight has 32 weights, and its tiers were made of 320"):
        log_gradient_dynamics(model, 1)


def test_a_gradient_of_the_same_strides_in_another_shape_is_read_no_further_than_it_goes():
    model = Mixture()
    for expert in model.experts:
        expert.weight, expert.bias = nn.Parameter(torch.randn(2, 96)), None
        expert.weight.grad = torch.randn(96).expand(2, 96)
    log_gradient_dynamics(model, 0)
    for expert in model.experts:
        expert.weight.data = torch.randn(3, 64)
        row, _ = torch.cat([torch.ones(64), torch.full((32,), 1e3)]).split([64, 32])
        expert.weight.grad = row.expand(3, 64)
    for row in log_gradient_dynamics(model, 1)["layers"]:
        assert row["norm"] == pytest.approx(192**0.5)


@pytest.mark.parametrize("change", [replace, resize])
@pytest.mark.parametrize("pruned", [slice(1, 2), slice(None)], ids=["one", "all"])
def test_a_training_goes_on_when_experts_are_pruned_and_the_run_file_tells_it(tmp_path, change, pruned):
    torch.manual_seed(0)
    model = Mixture()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    callback.attach(model, optimizer)
    for _ in range(2):
        with_random_gradients(model)
        optimizer.step()
    for expert in model.experts[pruned]:
        change(expert, 5)
    with_random_gradients(model)
    with pytest.warns(RuntimeWarning, match=r"ModelError.*training goes on"):
        optimizer.step()
    callback.detach()
    assert steps(tmp_path / "x.db") == [0, 1]
    assert events(tmp_path / "x.db") == [("measurement_failed", 2)]
    assert {row["step"] for row in rows(tmp_path / "x.db", "SELECT step FROM layers")} == {0, 1}


def complex_mixture():
    model = Mixture()
    for expert in model.experts:
        expert.weight = nn.Parameter(torch.randn(20, 20, dtype=torch.complex64))
    return with_random_gradients(model)


def test_complex_gradients_are_an_error_by_hand():
    with pytest.raises(ModelError, match=r"gradients of weight are complex numbers.*view_as_complex"):
        log_gradient_dynamics(complex_mixture(), 0)


def test_complex_experts_are_refused_before_training(tmp_path):
    model = complex_mixture()
    with pytest.raises(ModelError, match="weight of the experts of Mixture holds complex numbers"):
        DynamicsLoggerCallback(tmp_path / "x.db").attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
