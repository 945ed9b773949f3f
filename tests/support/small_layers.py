"""Small layers of experts for tests: a Prismatic layer with gradients, and a custom mixture."""

import torch
from torch import Tensor, nn

from prismatic import Prismatic, RouterConfig


def layer(**options) -> Prismatic:
    torch.manual_seed(0)
    return Prismatic(nn.Sequential(nn.Linear(8, 40), nn.Tanh(), nn.Linear(40, 8)), 8, RouterConfig(**options))


def inputs() -> Tensor:
    return torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(1))


def with_gradients(**options) -> Prismatic:
    """Return a layer that merges per example, after one backward pass."""
    made = layer(merge="example", **options)
    made(inputs()).square().mean().backward()
    return made


class Mixture(nn.Module):
    """A custom mixture of experts, with `experts` and `routing_weights` only."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(20, 20) for _ in range(4)])
        self.gate = nn.Linear(20, 4)
        self.routing_weights = torch.full((4,), 0.25)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(-1)
        self.routing_weights = shares.detach().mean((0, 1))
        return sum(shares[..., i, None] * expert(x) for i, expert in enumerate(self.experts))
