"""Mixtures of transformers are found by themselves, and measured as their experts cut out by hand are."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from prismatic import DynamicsLoggerCallback
from prismatic.experts.discovery import describe, find_routers, nothing_found
from prismatic.experts.found import FoundExperts, Stored
from prismatic.experts.layouts import layer_of
from prismatic.experts.protocol import mixture_of, num_experts
from prismatic.measure.gradients import log_gradient_dynamics, measure
from prismatic.measure.isolated import isolated_dynamics
from prismatic.measure.metrics import routing_metrics
from tests.support.experts_by_hand import TIERS, cut_by_hand, slow_norms, spies_on
from tests.support.mixtures import MIXTURES, Mixture
from tests.support.run_file import events, steps


@pytest.fixture(scope="module", params=MIXTURES)
def trained(request: pytest.FixtureRequest) -> tuple[Mixture, nn.Module, list[FoundExperts]]:
    """A model after the backward passes of two micro-batches."""
    mixture = MIXTURES[request.param]
    model = mixture.build()
    layers = find_routers(model)
    for layer in layers:
        layer.watch()
    for batch in range(2):
        mixture.loss(model, seed=batch).backward()
    return mixture, model, layers


def test_every_layer_is_found_with_its_experts(trained):
    mixture, model, layers = trained
    assert [num_experts(layer) for layer in layers] == [mixture.experts] * mixture.layers
    assert f"of {mixture.experts} experts" in describe(model, layers)


def test_the_experts_hold_every_weight_once(trained):
    _, _, layers = trained
    for layer in layers:
        views = [view for e in range(len(layer)) for view in layer.views(e).values()]
        parameters = {id(view.parameter): view.parameter for view in views}
        assert sum(view.shape.numel() for view in views) == sum(p.numel() for p in parameters.values())
        assert len({view.key for view in views}) == len(views)
        for view in views:
            own = view.of(view.parameter.detach())
            assert own.untyped_storage().data_ptr() == view.parameter.untyped_storage().data_ptr()  # no copy


def test_tier_norms_are_those_of_experts_cut_out_by_hand(trained):
    _, _, layers = trained
    for layer, measured in zip(layers, measure(layers), strict=True):
        for expert, found in enumerate(measured):
            slow = slow_norms(cut_by_hand(layer, expert))
            for tier in TIERS:
                assert getattr(found, f"{tier}_norm") == pytest.approx(slow[tier], rel=1e-6, abs=1e-30)
            assert (found.missing_gradients > 0) == (not any(slow.values()))
            assert found.gradient_cosine is None  # peers are not compared to the first of them


def test_shares_are_those_that_the_layer_is_told_over_all_micro_batches(trained):
    mixture, model, layers = trained
    for layer in layers:
        layer.routing.take()
    spies = spies_on(layers)
    for batch in range(2):
        mixture.loss(model, seed=batch)
    with torch.no_grad():  # an evaluation in between is no training
        mixture.loss(model.eval(), seed=5)
        model.train()
    for measured, spy in zip(measure(layers), spies, strict=True):
        spy.handle.remove()
        weights, tokens = spy.take()
        assert [found.routing_weight for found in measured] == pytest.approx(weights, rel=1e-6)
        assert [found.token_share for found in measured] == pytest.approx(tokens, rel=1e-12)


@pytest.mark.parametrize("name", ["Mixtral", "Qwen2-MoE", "Qwen3-MoE", "OLMoE"])
def test_token_shares_are_those_of_the_librarys_own_balancing_loss(name: str):
    mixture = MIXTURES[name]
    model = mixture.build()
    layers = find_routers(model)
    for layer in layers:
        layer.watch()
    tokens = torch.randint(1, 60, (4, 12), generator=torch.Generator().manual_seed(1))
    output = model(input_ids=tokens, labels=tokens, output_router_logits=True)
    for logits, measured in zip(output.router_logits, measure(layers), strict=True):
        chosen = logits.softmax(-1).topk(2, dim=-1).indices  # as load_balancing_loss_func chooses
        share = torch.nn.functional.one_hot(chosen, 4).double().mean(0).sum(0) / 2
        assert [found.token_share for found in measured] == pytest.approx(share.tolist(), abs=1e-6)


def test_the_evenness_of_a_router_is_three_numbers():
    rows = [
        {"source": "merged", "layer": layer, "expert": e, "token_share": share}
        for layer, shares in enumerate(([0.25] * 4, [0.5, 0.5, 0.0, 0.0]))
        for e, share in enumerate(shares)
    ]
    assert routing_metrics(rows) == {"routing_entropy": 0.75, "routing_violation": 1.0, "unused_experts": 2.0}
    assert routing_metrics([{**row, "token_share": None} for row in rows]) == {}


# -- The isolated probe ------------------------------------------------------------------------------------------------


def batch() -> dict[str, Tensor]:
    tokens = torch.randint(1, 60, (4, 12), generator=torch.Generator().manual_seed(7))
    return {"input_ids": tokens, "labels": tokens}


def test_the_probe_measures_every_expert_alone_and_changes_nothing(trained):
    _, model, layers = trained
    for layer in layers:
        layer.routing.take()
    before = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    found = isolated_dynamics(model, lambda each: model(**each).loss, batch())
    assert torch.equal(state, torch.get_rng_state())
    for name, p in model.named_parameters():
        assert (p.grad is None) == (before[name] is None)
        assert p.grad is None or torch.equal(p.grad, before[name])
    for layer, experts in zip(layers, found.layers, strict=True):
        assert layer.routing.peek() is None
        assert layer.forced is None
        assert all(expert.norm > 0 and expert.half_product is not None for expert in experts)
        assert all(expert.routing_weight is None for expert in experts)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_direction_of_identical_copies_is_zero_on_the_same_input(name: str):
    """Their merged gradients differ, because the router sends them different tokens."""
    mixture = MIXTURES[name]
    model = mixture.build()
    layers = find_routers(model)
    with torch.no_grad():
        for layer in layers:
            for expert in range(1, len(layer)):
                for first, own in zip(layer.views(0).values(), layer.views(expert).values(), strict=True):
                    own.of(own.parameter).copy_(first.of(first.parameter))
    found = isolated_dynamics(model, lambda each: model(**each).loss, batch())
    for experts, pairs in zip(found.layers, found.pairs, strict=True):
        for pair in pairs:
            own = experts[pair.expert].half_product * experts[pair.other].half_product
            assert abs(1 - abs(pair.half_product) / math.sqrt(abs(own))) < 1e-4
            # JetMoE calls its attention experts in two parts, and never as one layer.
            assert (pair.output_distance or 0.0) < 1e-6
            assert pair.weight_distance == 0


# -- What is found -----------------------------------------------------------------------------------------------------

SHARED = "experts that see every token, without a router"
INSIDE = "a part of a layer that is found around it"
NOT_LAYERS = {
    "AriaSharedExpertsMLP": SHARED,
    "InklingSharedExperts": SHARED,
    "JetMoeParallelExperts": INSIDE,
    "Llama4TextExperts": INSIDE,
}


class Tiny:
    """A configuration that has whatever is asked for, and makes it small."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "_experts_impl")):
            raise AttributeError(name)
        if any(part in name for part in ("limit", "alpha", "eps", "dropout", "rate")):
            return 0.5
        known = {"ffn_act_fn": {"name": "silu"}, "dense_act_fn": "relu", "zero_expert_num": 0}
        if name in known or "bias" in name:
            return known.get(name, False)
        if "act" in name:
            return "silu"
        if name.endswith("_implementation"):
            return "eager"
        count = "expert" in name and ("num" in name or name.startswith("n_"))
        return 4 if count and "hidden" not in name else 8


def expert_classes() -> list[type[nn.Module]]:
    """Return every class of transformers whose name has "Experts" in it."""
    models = Path(transformers.__file__).parent / "models"
    found = []
    for file in sorted(models.rglob("modeling_*.py")):
        names = re.findall(r"^class (\w*Experts\w*)\(", file.read_text(), flags=re.MULTILINE)
        if names:
            place = ".".join(file.relative_to(models).with_suffix("").parts)
            module = importlib.import_module(f"transformers.models.{place}")
            found += [getattr(module, name) for name in names]
    return found


def test_every_class_of_experts_in_transformers_is_recognised_or_listed():
    missed, classes = {}, expert_classes()
    assert len(classes) >= 70
    for made in classes:
        needed = [p for p in [*inspect.signature(made.__init__).parameters.values()][1:] if p.default is p.empty]
        arguments = [Tiny() if "config" in p.name else 4 if "expert" in p.name else 8 for p in needed]
        module = made(*arguments)
        layer = layer_of(module, "experts")
        if layer is None:
            missed[made.__name__] = "not recognised"
        elif len(layer) != 4 or len({view.shape for view in layer.views(0).values()}) < 1:
            missed[made.__name__] = f"recognised as {len(layer)} experts"
    assert missed.keys() == NOT_LAYERS.keys()


def test_a_model_without_experts_is_told_what_was_looked_for_and_the_ways_on():
    model = nn.Sequential(nn.Linear(4, 4))
    assert find_routers(model) == []
    message = nothing_found(model)
    for words in ("Sequential has no layer of experts", "top-k index", "register_experts", "routing_weights"):
        assert words in message


def test_a_plain_measurement_needs_no_callback():
    mixture = MIXTURES["Mixtral"]
    model = mixture.build()
    assert log_gradient_dynamics(model, 0) is None
    mixture.loss(model).backward()
    dynamics = log_gradient_dynamics(model, 0)
    assert len(dynamics["layers"]) == 8
    assert dynamics["divergence_scores"]["expert_1_divergence"] is None


def test_a_mixture_is_logged_by_attaching_to_its_optimizer(tmp_path):
    mixture = MIXTURES["Mixtral"]
    model = mixture.build()
    optimizer = torch.optim.AdamW(model.parameters())
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)  # weights are due in the first step
    callback.attach(model, optimizer)
    mixture.loss(model).backward()
    optimizer.step()
    callback.detach()
    assert steps(tmp_path / "x.db") == [0]
    assert events(tmp_path / "x.db") == [("experts_found", None)]


def test_a_probe_of_a_model_that_nobody_logs_leaves_no_hook():
    model = MIXTURES["Mixtral"].build()
    (layer, _) = find_routers(model)
    isolated_dynamics(model, lambda each: model(**each).loss, batch())
    assert not layer.module._forward_pre_hooks
    layer.watch()
    isolated_dynamics(model, lambda each: model(**each).loss, batch())
    assert len(layer.module._forward_pre_hooks) == 1


def test_a_layer_of_ones_own_has_a_known_kind_of_mixture():
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(3, 2, 2))
    layer = FoundExperts(module, "own", "own", 3, [Stored("weight", module, "weight")], None)
    assert mixture_of([layer]) == "top_k"
