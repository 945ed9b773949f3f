"""Measured gradients compared to boolean masks and to the aggregation of the original documentation."""

from __future__ import annotations

import math
from statistics import mean

import pytest
import torch
from torch import Tensor, nn

from prismatic.contract import schema
from prismatic.contract.schema import PACKED_ABOVE
from prismatic.experts.discovery import find_routers
from prismatic.layer.config import RouterConfig
from prismatic.layer.router import Prismatic
from prismatic.measure.gradients import log_gradient_dynamics, measure
from prismatic.measure.metrics import ExpertArrays, aggregate
from prismatic.train.config import RunConfig
from prismatic.train.model import ByteLM

TINY = {"hidden_size": 16, "num_heads": 2, "sequence_length": 16}


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 6))


def router(seed: int = 0, **options) -> Prismatic:
    torch.manual_seed(seed)
    return Prismatic(perceptron(), 6, RouterConfig(**{"sparsity": 0.3} | options))


def with_gradients(seed: int = 0, **options) -> Prismatic:
    layer = router(seed, **options)
    for weight in layer.experts.parameters():
        weight.grad = torch.randn(weight.shape) * torch.rand(())
    return layer


def trained_once(seed: int = 0, **options) -> ByteLM:
    torch.manual_seed(seed)
    model = ByteLM(RunConfig(**TINY, **options))
    model.loss(torch.randint(0, 256, (4, 17))).backward()
    return model


def masked_norms(layer: Prismatic, expert: int) -> dict[str, float]:
    """Return tier norms by a mask per tensor and Python floats: the slow second implementation."""
    squares = dict.fromkeys(schema.TIERS, 0.0)
    for name, weight in layer.experts[expert].named_parameters():
        if weight.grad is None:
            continue
        top, bottom = ({*ends.tolist()} for ends in layer.tiers[name])
        for i, value in enumerate(weight.grad.to_dense().flatten().tolist()):
            squares["top" if i in top else "bottom" if i in bottom else "middle"] += value * value
    return {f"{tier}_norm": math.sqrt(square) for tier, square in squares.items()}


def assert_norms_are_right(layer: Prismatic) -> None:
    for expert, found in enumerate(measure([layer])[0]):
        expected = masked_norms(layer, expert)
        assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=1e-12)
        assert found.norm == pytest.approx(math.hypot(*expected.values()), rel=1e-12)


def test_norms_are_those_of_boolean_masks():
    assert_norms_are_right(with_gradients(control_experts=1))


def test_norms_of_bfloat16_gradients_are_summed_in_double_precision():
    layer = router().bfloat16()
    for weight in layer.experts.parameters():
        weight.grad = torch.randn(weight.shape).bfloat16()
    assert_norms_are_right(layer)


def test_norms_of_tiny_gradients_do_not_vanish():
    layer = with_gradients()
    for weight in layer.experts.parameters():
        weight.grad *= 1e-30  # squares of these are zero in float32
    assert_norms_are_right(layer)
    assert measure([layer])[0][0].bottom_norm > 0


def test_sparse_gradients_count_like_dense_ones():
    layer = with_gradients()
    weight = layer.experts[1].get_parameter("0.weight")
    twice = torch.tensor([[3, 3, 0], [1, 1, 2]])  # an uncoalesced entry counts once, with its sum
    weight.grad = torch.sparse_coo_tensor(twice, torch.tensor([1.0, 2.0, 5.0]), weight.shape, check_invariants=True)
    assert_norms_are_right(layer)


@pytest.mark.parametrize("without", [0, 1])
def test_parameters_without_gradient_are_counted_and_left_out(without: int):
    layer = with_gradients()
    layer.experts[without].get_parameter("0.weight").grad = None
    assert_norms_are_right(layer)
    assert [expert.missing_gradients for expert in measure([layer])[0]] == [int(i == without) for i in range(3)]


def test_one_infinite_entry_leaves_the_other_tiers_as_they_were():
    layer = with_gradients()
    before = measure([layer])[0][1]
    grad = layer.experts[1].get_parameter("0.weight").grad
    grad.view(-1)[layer.tiers["0.weight"].top[0]] = math.inf
    after = measure([layer])[0][1]
    assert (after.top_norm, after.norm, after.nonfinite, after.gradient_cosine) == (math.inf, math.inf, 1, None)
    assert (after.bottom_norm, after.middle_norm) == (before.bottom_norm, before.middle_norm)


def test_nan_entries_are_counted_and_spoil_only_their_own_tier():
    layer = with_gradients()
    layer.experts[0].get_parameter("2.weight").grad.view(-1)[layer.tiers["2.weight"].bottom] = math.nan
    clean, other, _ = measure([layer])[0]
    assert clean.nonfinite == len(layer.tiers["2.weight"].bottom)
    assert math.isnan(clean.bottom_norm)
    assert math.isfinite(clean.top_norm)
    assert (other.nonfinite, other.gradient_cosine) == (0, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_gradient_is_too_broken_to_be_measured(bad: float):
    model = trained_once()
    for weight in model.parameters():
        weight.grad.view(-1)[0] = bad
    dynamics = log_gradient_dynamics(model, 3)
    assert dynamics["nonfinite"] == sum(len(list(layer.experts.parameters())) for layer in find_routers(model))
    assert dynamics["expert_gradients"]["expert_0"]["bottom_to_middle"] is None


def test_the_cosine_is_that_of_the_flat_gradients():
    layer = with_gradients()
    flat = [torch.cat([weight.grad.flatten().double() for weight in e.parameters()]) for e in layer.experts]
    expected = [torch.cosine_similarity(gradient, flat[0], dim=0).item() for gradient in flat]
    assert [expert.gradient_cosine for expert in measure([layer])[0]] == pytest.approx(expected, rel=1e-12)


def test_bottom_to_middle_is_the_mean_log_ratio_over_ranked_tensors():
    layer = with_gradients()
    expected = mean(_log_ratio(layer, name, weight) for name, weight in layer.experts[2].named_parameters())
    assert measure([layer])[0][2].bottom_to_middle == pytest.approx(expected, rel=1e-12)


def _log_ratio(layer: Prismatic, name: str, weight: Tensor) -> float:
    middle = torch.ones(weight.numel(), dtype=torch.bool)
    middle[torch.cat(layer.tiers[name])] = False
    grad_P = weight.grad.flatten().double()
    return math.log(grad_P[layer.tiers[name].bottom].norm() / grad_P[middle].norm())


def test_tensors_without_tiers_have_no_bottom_to_middle():
    layer = Prismatic(nn.LayerNorm(6), 6)
    for weight in layer.experts.parameters():
        weight.grad = torch.ones_like(weight)
    assert [expert.bottom_to_middle for expert in measure([layer])[0]] == [None, None, None]


def test_the_routing_weight_is_the_share_of_the_last_batch():
    model = trained_once()
    for layer, experts in zip(find_routers(model), measure(find_routers(model)), strict=True):
        assert [expert.routing_weight for expert in experts] == layer.routing_weights.tolist()


def test_routers_are_found_under_decoder_locals_in_their_order():
    model = trained_once(num_layers=3)
    assert find_routers(model) == [layer.router for layer in model.decoder.locals]


def test_routers_are_found_wherever_a_model_keeps_them():
    first, second = router(0), router(1)
    model = nn.ModuleDict({"stem": nn.Sequential(nn.Linear(2, 2), first), "deep": nn.ModuleDict({"er": second})})
    assert find_routers(model) == [first, second]
    assert find_routers(first) == [first]


def test_a_model_without_routers_has_no_dynamics():
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    assert log_gradient_dynamics(model, 0) is None


def test_there_are_no_dynamics_before_backward_or_after_zero_grad():
    model = ByteLM(RunConfig(**TINY))
    assert log_gradient_dynamics(model, 0) is None
    model.loss(torch.randint(0, 256, (2, 17))).backward()
    assert log_gradient_dynamics(model, 0) is not None
    model.zero_grad()
    assert log_gradient_dynamics(model, 0) is None


@pytest.mark.parametrize("options", [{}, {"num_experts": 2}, {"num_experts": 4, "control_experts": 2}])
def test_keys_are_the_columns_of_the_wide_table(options: dict):
    dynamics = log_gradient_dynamics(trained_once(**options), 7)
    names = {f"{expert}_{metric}" for expert, values in dynamics["expert_gradients"].items() for metric in values}
    names |= set(dynamics["divergence_scores"]) | {"step", "nonfinite", "missing_gradients"}
    experts = sum(options.get(name, default) for name, default in (("num_experts", 3), ("control_experts", 0)))
    elsewhere = {"loss", "learning_rate", "wall_time", "nan_values"}
    assert names == {column.name for column in schema.dynamics_columns(experts)} - elsewhere
    assert set(dynamics) - {"step", "nonfinite", "missing_gradients"} == {
        "expert_gradients",
        "divergence_scores",
        "layers",
    }


def test_layer_rows_have_the_columns_of_the_layers_table():
    rows = log_gradient_dynamics(trained_once(num_layers=3), 7)["layers"]
    assert [(row["layer"], row["expert"]) for row in rows] == [(layer, e) for layer in range(3) for e in range(3)]
    columns = [column.name for column in schema.LAYERS_COLUMNS if column.name != "step"]
    assert all(sorted(row) == sorted(columns) and row["source"] == "merged" for row in rows)


def documented(model: nn.Module) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """The helper of the original documentation: a simple mean over the dynamics of each router in decoder.locals."""
    found = [layer.router.log_gradient_dynamics() for layer in model.decoder.locals]
    experts = {key for dynamics in found for key in dynamics["expert_gradients"]}
    gradients = {key: means([dynamics["expert_gradients"].get(key, {}) for dynamics in found]) for key in experts}
    return gradients, means([dynamics["divergence_scores"] for dynamics in found])


def means(tables: list[dict[str, float]]) -> dict[str, float]:
    names = {name for table in tables for name in table}
    return {name: mean(table[name] for table in tables if name in table) for name in names}


def known(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def assert_as_documented(model: nn.Module) -> None:
    seen, (gradients, scores) = log_gradient_dynamics(model, 0), documented(model)
    assert set(seen["expert_gradients"]) == set(gradients)
    for key, values in gradients.items():
        assert known(seen["expert_gradients"][key]) == pytest.approx(values, rel=1e-9)
    assert known(seen["divergence_scores"]) == pytest.approx(scores, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("merge", ["batch", "example"])
@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_the_aggregate_is_the_documented_simple_mean_over_layers(merge: str, num_layers: int):
    assert_as_documented(trained_once(num_layers=num_layers, merge=merge))


@pytest.mark.parametrize("dead_layers", [(0,), (1,), (0, 1)])
def test_the_documented_helper_adds_up_layers_whose_expert_got_no_share(dead_layers: tuple[int, ...]):
    model = trained_once()
    for layer in dead_layers:
        for weight in find_routers(model)[layer].experts[1].parameters():
            weight.grad.zero_()  # the gradient of an expert whose share underflows to zero
    assert_as_documented(model)


def test_the_documented_norms_are_means_of_masked_norms():
    model = trained_once(num_layers=3)
    seen = log_gradient_dynamics(model, 0)["expert_gradients"]
    for expert in range(3):
        norms = [masked_norms(layer, expert) for layer in find_routers(model)]
        expected = {name: mean(layer[name] for layer in norms) for name in norms[0]}
        assert {name: seen[f"expert_{expert}"][name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_layers_may_differ_in_their_number_of_experts():
    layers = [with_gradients(0, num_experts=2), with_gradients(1, num_experts=4)]
    dynamics = aggregate(measure(layers))
    assert list(dynamics["expert_gradients"]) == ["expert_0", "expert_1", "expert_2", "expert_3"]
    alone = masked_norms(layers[1], 3)["top_norm"]
    both = mean(masked_norms(layer, 1)["top_norm"] for layer in layers)
    assert dynamics["expert_gradients"]["expert_3"]["top_norm"] == pytest.approx(alone)
    assert dynamics["expert_gradients"]["expert_1"]["top_norm"] == pytest.approx(both)


def test_routing_alone_shows_divergence_but_no_relative_divergence_and_no_direction():
    scores = log_gradient_dynamics(trained_once(perturbation_scale=0.0), 0)["divergence_scores"]
    assert scores["expert_1_divergence"] > 1e-4
    assert scores["expert_1_relative_divergence"] < 1e-4
    assert abs(scores["expert_1_direction"]) < 1e-9


def test_measuring_changes_no_gradient():
    model = trained_once()
    before = [weight.grad.clone() for weight in model.parameters()]
    log_gradient_dynamics(model, 0)
    assert all(map(torch.equal, before, (weight.grad for weight in model.parameters())))


def test_a_large_layer_is_measured_as_arrays_with_the_numbers_of_its_experts():
    layer = with_gradients(0, num_experts=PACKED_ABOVE + 1)
    (measured,) = measure([layer])
    assert isinstance(measured, ExpertArrays)
    for expert in (0, 1, PACKED_ABOVE):
        assert measured[expert].top_norm == pytest.approx(masked_norms(layer, expert)["top_norm"])
    rows = log_gradient_dynamics(nn.Sequential(layer), 0)
    assert rows["layers"][5]["bottom_norm"] == pytest.approx(measured[5].bottom_norm, rel=1e-6)
    assert rows["roles"][:2] == ["clean", "perturbed"]
