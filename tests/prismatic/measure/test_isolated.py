"""The isolated probe measures each expert alone and leaves training unchanged."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from prismatic.layer.config import RouterConfig
from prismatic.layer.router import Prismatic
from prismatic.measure.gradients import measure
from prismatic.measure.isolated import isolated_dynamics
from prismatic.train.config import RunConfig
from prismatic.train.corpus import Corpus
from prismatic.train.model import ByteLM

TINY = {"hidden_size": 16, "num_heads": 2, "sequence_length": 16, "batch_size": 4}


def model_and_batch(**options):
    config = RunConfig(**TINY, **options)
    torch.manual_seed(0)
    model = ByteLM(config)
    return model, Corpus.load().batch(0, batch_size=4, length=17, seed=0)


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
    measured = isolated_dynamics(model, model.loss, batch)
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
    cosines = [expert.gradient_cosine for layer in isolated_dynamics(model, model.loss, batch) for expert in layer]
    assert cosines == pytest.approx([1.0] * 6)


def test_a_perturbed_expert_has_another_direction_and_a_control_does_not():
    model, batch = model_and_batch(control_experts=1)
    _, perturbed, _, control = isolated_dynamics(model, model.loss, batch)[0]
    assert 1 - perturbed.gradient_cosine > 1e-3
    assert 1 - control.gradient_cosine < 1e-6


def test_the_noise_floor_is_between_the_halves_of_the_batch():
    model, batch = model_and_batch()
    layers = isolated_dynamics(model, model.loss, batch)
    for layer in model.decoder.locals:
        layer.router.forced = 0
    weights = list(model.decoder.locals[1].router.experts[0].parameters())
    halves = [
        torch.cat([g.flatten() for g in torch.autograd.grad(model.loss(half), weights)]) for half in batch.chunk(2)
    ]
    assert layers[1][0].noise_direction == pytest.approx(1 - torch.cosine_similarity(*halves, dim=0).item(), abs=1e-5)
    assert layers[1][1].noise_direction is None


def test_a_batch_of_one_has_no_noise_floor():
    model, batch = model_and_batch()
    assert isolated_dynamics(model, model.loss, batch[:1])[0][0].noise_direction is None


@pytest.mark.parametrize("wrap", [lambda b: {"tokens": b, "count": torch.tensor(4), "name": "x"}, lambda b: [b, 4]])
def test_a_batch_may_be_a_mapping_or_a_sequence(wrap):
    model, batch = model_and_batch()

    def loss(wrapped):
        return model.loss(wrapped["tokens"] if isinstance(wrapped, dict) else wrapped[0])

    assert isolated_dynamics(model, loss, wrap(batch)) == isolated_dynamics(model, model.loss, batch)


def test_a_batch_that_cannot_be_halved_has_no_noise_floor():
    model, batch = model_and_batch()
    assert isolated_dynamics(model, lambda _: model.loss(batch), "unknown")[0][0].noise_direction is None


def test_a_model_without_routers_has_nothing_to_probe():
    assert isolated_dynamics(nn.Linear(2, 2), lambda x: x.sum(), torch.ones(2)) == []


def test_frozen_parameters_are_skipped():
    layer = Prismatic(nn.Linear(4, 4), 4, RouterConfig())
    layer.experts[1].bias.requires_grad_(False)
    probed = isolated_dynamics(nn.Sequential(layer), lambda x: layer(x).sum(), torch.randn(4, 3, 4))
    assert probed[0][1].norm > 0
    assert probed[0][1].missing_gradients == 0


def test_merged_gradients_are_measured_as_before_a_probe():
    model, batch = model_and_batch()
    model.loss(batch).backward()
    routers = [layer.router for layer in model.decoder.locals]
    before = measure(routers)
    isolated_dynamics(model, model.loss, batch)
    assert measure(routers) == before
