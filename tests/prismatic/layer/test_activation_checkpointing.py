"""Activation checkpointing of a Prismatic layer: refused inside an expert, right around the layer."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from prismatic import Prismatic, RouterConfig
from prismatic.errors import ModelError


def network(**options):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 8)) for _ in range(2)]
    return nn.Sequential(*(Prismatic(b, 8, RouterConfig(**options), layer=i) for i, b in enumerate(blocks)))


def batch(step):
    return torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(step))


class Recomputing(nn.Module):
    """A block that checkpoints its own inside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


def test_checkpointing_inside_an_expert_is_refused_with_the_remedy():
    layer = Prismatic(Recomputing(), 8)
    with pytest.raises(ModelError, match="checkpoint around the whole Prismatic router"):
        layer(batch(0).requires_grad_()).sum().backward()


def test_checkpointing_around_the_router_gives_the_gradients_without_it():
    plain, checkpointed = network(), network()
    plain(batch(0)).square().mean().backward()
    x = batch(0)
    for layer in checkpointed:
        x = checkpoint(layer, x, use_reentrant=False)
    x.square().mean().backward()
    pairs = zip(plain.parameters(), checkpointed.parameters(), strict=True)
    assert all(torch.allclose(one.grad, other.grad, atol=1e-7) for one, other in pairs)
