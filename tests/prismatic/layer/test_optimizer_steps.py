"""Optimizer steps are counted by one torch hook, which is there only while a layer that was trained lives."""

import gc

import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

from prismatic import Prismatic
from prismatic.layer.optimizer_steps import OptimizerSteps


def hooks() -> int:
    return len(torch_optimizer._global_optimizer_post_hooks)


def step(layer: nn.Module) -> None:
    torch.optim.SGD(layer.parameters(), lr=0.1).step()


def test_a_layer_registers_its_hook_when_it_is_trained_and_not_when_it_is_made():
    gc.collect()
    before = hooks()
    layers = [Prismatic(nn.Linear(4, 4), 4), Prismatic(nn.Linear(4, 4), 4)]
    with torch.no_grad():
        layers[0](torch.randn(2, 3, 4))
    assert hooks() == before
    for layer in layers:
        layer(torch.randn(2, 3, 4)).sum().backward()
    assert hooks() <= before + 1
    layers[0].log_gradient_dynamics()
    assert not layers[0].stepped_since_forward
    step(layers[1])
    assert layers[0].stepped_since_forward


def test_the_hook_goes_with_the_last_layer():
    gc.collect()
    before, steps = hooks(), OptimizerSteps()
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    for layer in (*layers, *layers):
        steps.watch(layer)
    del layer
    assert hooks() == before + 1
    step(layers.pop())
    gc.collect()
    assert (hooks(), steps.count) == (before + 1, 1)
    step(layers.pop())
    gc.collect()
    assert (hooks(), steps.count) == (before, 2)
    step(nn.Linear(2, 2))
    assert steps.count == 2
