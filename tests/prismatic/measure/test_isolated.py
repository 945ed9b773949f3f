"""The isolated probe measures each expert alone and leaves training unchanged."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from prismatic import DynamicsLoggerCallback
from prismatic.experts.discovery import find_routers
from prismatic.experts.protocol import views_of
from prismatic.layer.config import RouterConfig
from prismatic.layer.router import Prismatic
from prismatic.measure import pairs, plan
from prismatic.measure.gradients import measure
from prismatic.measure.isolated import isolated_dynamics
from prismatic.train.corpus import Corpus
from tests.support.byte_models import gradients_alone, model_and_batch
from tests.support.run_file import events, rows


def trained(steps=8, probe=False, **options):
    """Return weights and gradients after some steps, with a probe in each step or in none."""
    model, _ = model_and_batch(**options)
    model.append_noise = nn.Dropout(0.1)  # draws random numbers in every forward pass
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        batch = Corpus.load().batch(step, batch_size=4, length=17, seed=0)
        loss = lambda tokens: model.append_noise(model.loss(tokens)[None]).sum()  # noqa: E731
        optimizer.zero_grad()
        loss(batch).backward()
        if probe:
            isolated_dynamics(model, loss, batch)
        optimizer.step()
    return [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("merge", ["batch", "example"])
def test_a_run_with_and_without_the_probe_ends_in_identical_weights_gradients_and_buffers(merge):
    with_probe, without = trained(probe=True, merge=merge), trained(probe=False, merge=merge)
    assert len(with_probe) == len(without)
    assert all(torch.equal(one, other) for one, other in zip(with_probe, without, strict=True))


def test_random_states_are_restored():
    model, batch = model_and_batch()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    def noisy(tokens):
        torch.rand(3), random.random(), np.random.rand(2)
        return model.loss(tokens)

    isolated_dynamics(model, noisy, batch)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1], before[2]) == (random.getstate(), np.random.get_state()[1].tolist())


@pytest.mark.parametrize("merge", ["batch", "example"])
def test_each_expert_is_measured_as_if_it_were_the_whole_layer(merge):
    model, batch = model_and_batch(merge=merge)
    measured = isolated_dynamics(model, model.loss, batch).layers
    for expert in range(3):
        for layer in model.decoder.locals:
            layer.router.forced = expert
        weights = list(model.decoder.locals[0].router.experts[expert].parameters())
        norm = torch.cat([g.flatten() for g in torch.autograd.grad(model.loss(batch), weights)]).norm()
        assert measured[0][expert].norm == pytest.approx(norm.item(), rel=1e-5)


def test_gradients_that_training_is_about_to_use_are_not_touched():
    model, batch = model_and_batch()
    model.loss(batch).backward()
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    isolated_dynamics(model, model.loss, batch)
    after = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_routers_route_again_after_a_probe_that_failed():
    model, batch = model_and_batch()
    with pytest.raises(ZeroDivisionError):
        isolated_dynamics(model, lambda _: 1 / 0, batch)
    assert [layer.router.forced for layer in model.decoder.locals] == [None, None]


def test_experts_that_are_equal_are_parallel_when_measured_alone():
    model, batch = model_and_batch(perturbation_scale=0.0)
    cosines = [
        expert.gradient_cosine for layer in isolated_dynamics(model, model.loss, batch).layers for expert in layer
    ]
    assert cosines == pytest.approx([1.0] * 6)


def test_a_perturbed_expert_has_another_direction_and_a_control_does_not():
    model, batch = model_and_batch(control_experts=1)
    _, perturbed, _, control = isolated_dynamics(model, model.loss, batch).layers[0]
    assert 1 - perturbed.gradient_cosine > 1e-3
    assert 1 - control.gradient_cosine < 1e-6


@pytest.mark.parametrize("merge", ["batch", "example"])
def test_products_are_between_the_even_and_the_odd_sequences_of_the_batch(merge):
    model, batch = model_and_batch(merge=merge)
    measured = isolated_dynamics(model, model.loss, batch).layers[1]
    clean = [gradients_alone(model, 0, half) for half in (batch[0::2], batch[1::2])]
    for expert in range(3):
        even, odd = (gradients_alone(model, expert, half) for half in (batch[0::2], batch[1::2]))
        assert measured[expert].half_product == pytest.approx((even @ odd).item(), rel=1e-5)
        assert measured[expert].norm == pytest.approx(((even + odd) / 2).norm().item(), rel=1e-5)
        crossed = (even @ clean[1] + odd @ clean[0]).item() / 2
        assert measured[expert].half_product_clean == (pytest.approx(crossed, rel=1e-5) if expert else None)


def test_tensors_are_looked_up_once_for_each_expert_and_not_for_each_pair(monkeypatch):
    looked_up = []
    for module in (plan, pairs):
        monkeypatch.setattr(module, "views_of", lambda router, e: looked_up.append(e) or views_of(router, e))
    model, batch = model_and_batch(num_experts=9)
    isolated_dynamics(model, model.loss, batch)
    layers = len(find_routers(model))
    assert len(looked_up) <= 2 * 9 * layers  # for the gradients and for the distances of weights


def test_of_an_odd_number_of_sequences_the_last_is_not_used():
    model, batch = model_and_batch()
    assert isolated_dynamics(model, model.loss, batch[:3]) == isolated_dynamics(model, model.loss, batch[:2])


def test_a_batch_of_one_has_no_halves():
    model, batch = model_and_batch()
    measured = isolated_dynamics(model, model.loss, batch[:1]).layers[0]
    assert {(own.half_product, own.half_product_clean) for own in measured} == {(None,) * 2}
    assert measured[1].norm == pytest.approx(gradients_alone(model, 1, batch[:1], layer=0).norm().item(), rel=1e-5)


@pytest.mark.parametrize("wrap", [lambda b: {"tokens": b, "count": torch.tensor(4), "name": "x"}, lambda b: [b, 4]])
def test_a_batch_may_be_a_mapping_or_a_sequence(wrap):
    model, batch = model_and_batch()

    def loss(wrapped):
        return model.loss(wrapped["tokens"] if isinstance(wrapped, dict) else wrapped[0])

    assert isolated_dynamics(model, loss, wrap(batch)) == isolated_dynamics(model, model.loss, batch)


def test_a_batch_that_cannot_be_halved_is_measured_whole():
    model, batch = model_and_batch()
    measured = isolated_dynamics(model, lambda _: model.loss(batch), "unknown").layers[1]
    assert measured[0].half_product is None
    assert measured[2].norm == pytest.approx(gradients_alone(model, 2, batch).norm().item(), rel=1e-5)


def test_layers_may_have_different_numbers_of_experts():
    torch.manual_seed(0)
    layers = [Prismatic(nn.Linear(4, 4), 4, RouterConfig(num_experts=experts)) for experts in (2, 4)]
    model = nn.Sequential(*layers)
    probed = isolated_dynamics(model, lambda x: model(x).square().mean(), torch.randn(4, 3, 4))
    assert [len(experts) for experts in probed.layers] == [2, 4]
    assert [len(pairs) for pairs in probed.pairs] == [1, 6]
    assert all(dynamics.half_product is not None for experts in probed.layers for dynamics in experts)


def test_a_frozen_expert_has_no_products():
    model, batch = model_and_batch()
    for layer in model.decoder.locals:
        layer.router.experts[2].requires_grad_(False)
    measured = isolated_dynamics(model, model.loss, batch).layers[0]
    assert measured[2].half_product is None
    assert measured[1].half_product > 0


def test_a_model_without_routers_has_nothing_to_probe():
    assert isolated_dynamics(nn.Linear(2, 2), lambda x: x.sum(), torch.ones(2))[:2] == ([], [])


def test_frozen_parameters_are_skipped():
    layer = Prismatic(nn.Linear(4, 4), 4, RouterConfig())
    layer.experts[1].bias.requires_grad_(False)
    probed = isolated_dynamics(nn.Sequential(layer), lambda x: layer(x).sum(), torch.randn(4, 3, 4)).layers
    assert probed[0][1].norm > 0
    assert probed[0][1].missing_gradients == 0


def test_merged_gradients_are_measured_as_before_a_probe():
    model, batch = model_and_batch()
    model.loss(batch).backward()
    routers = [layer.router for layer in model.decoder.locals]
    before = measure(routers)
    isolated_dynamics(model, model.loss, batch)
    assert measure(routers) == before


def test_experts_that_the_loss_does_not_reach_are_named_and_not_logged_as_zero(tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleList([Prismatic(nn.Linear(4, 4), 4), Prismatic(nn.Linear(4, 4), 4)])
    batch = torch.randn(4, 3, 4)

    def loss(x):
        return (model[0](x) + model[1](x).detach()).square().mean()

    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1, probe_freq=1)
    callback.on_train_begin(model)
    model[1](model[0](batch)).square().mean().backward()
    callback.on_before_optimizer_step(model, 0, probe=(loss, batch))
    callback.on_train_end()
    probed = rows(tmp_path / "x.db", "SELECT layer, norm FROM layers WHERE source = 'isolated'")
    assert {row["layer"] for row in probed} == {0}
    assert all(row["norm"] > 0 for row in probed)
    assert events(tmp_path / "x.db") == [("probe_unreached", 0)]


def test_reentrant_checkpointing_hides_no_expert_from_the_probe():
    torch.manual_seed(0)
    model = nn.Sequential(Prismatic(nn.Linear(4, 4), 4))
    batch = torch.randn(4, 3, 4, requires_grad=True)
    plain = isolated_dynamics(model, lambda x: model(x).square().mean(), batch)
    again = isolated_dynamics(model, lambda x: checkpoint(model, x, use_reentrant=True).square().mean(), batch)
    assert again.unreached == frozenset()
    assert [e.norm for e in again.layers[0]] == pytest.approx([e.norm for e in plain.layers[0]], rel=1e-6)
    assert all(p.grad is None for p in model.parameters())
