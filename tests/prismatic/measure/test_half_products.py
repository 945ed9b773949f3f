"""Half-batch products of real trainings show a direction that the plain cosine loses in the noise of the batch."""

import numpy as np
import pytest
import torch
from torch import nn

from prismatic import Prismatic, RouterConfig
from prismatic.measure.isolated import isolated_dynamics

ROTATION, PARAMETERS, SEQUENCES = 0.2, 1600, 8
STEPS, WINDOW = 300, 50


class Quadratic(nn.Module):
    """A model whose only weights are a layer's experts: each sequence pulls them to a goal of its own.

    The goals scatter around one common goal, so that the gradient shrinks as training converges and its noise stays.
    """

    def __init__(self, start_EP: torch.Tensor):
        super().__init__()
        config = RouterConfig(num_experts=2, perturbation_scale=0.5, routing="frozen")
        self.layer = Prismatic(nn.Linear(PARAMETERS, 1, bias=False), PARAMETERS, config)
        with torch.no_grad():
            for expert, start_P in zip(self.layer.experts, start_EP, strict=True):
                expert.weight.copy_(start_P[None])

    def loss(self, goal_BP: torch.Tensor) -> torch.Tensor:
        """Return the mean over sequences of half the squared distance to the goal of each."""
        weight_P = self.layer(torch.eye(PARAMETERS)[None])[0, :, 0]
        return ((weight_P - goal_BP) ** 2).sum(-1).mean() / 2


def measured_training(decay: float, noise: float) -> dict[str, np.ndarray]:
    """Train both experts alone towards the goal, with a probe in every step; return products and norms by step.

    Gradient descent shrinks each expert's distance by the same factor, so their directions stay what they were.
    """
    rng = torch.Generator().manual_seed(0)
    start_EP = torch.zeros(2, PARAMETERS)
    start_EP[0, 0], start_EP[1, :2] = 1.0, torch.tensor([1 - ROTATION, (1 - (1 - ROTATION) ** 2) ** 0.5])
    model = Quadratic(start_EP)
    optimizer = torch.optim.SGD([expert.weight for expert in model.layer.experts], lr=1 - decay)
    rows = []
    for _ in range(STEPS):
        goal_BP = noise * torch.randn(SEQUENCES, PARAMETERS, generator=rng)
        clean, perturbed = isolated_dynamics(model, model.loss, goal_BP).layers[0]
        crossed = perturbed.half_product_clean
        rows.append((clean.half_product, perturbed.half_product, crossed, clean.norm, perturbed.gradient_cosine))
        optimizer.zero_grad()
        for expert in model.layer.experts:  # towards the common goal, which is 0
            expert.weight.grad = expert.weight.detach().clone()
        optimizer.step()
    return dict(zip(("clean", "own", "crossed", "norm", "cosine"), np.array(rows).T, strict=True))


@pytest.mark.long
def test_a_constant_rotation_stays_while_reliability_falls():
    seen = measured_training(decay=0.9977, noise=0.0767)
    ends = (slice(0, WINDOW), slice(STEPS - WINDOW, STEPS))
    reliability = [seen["clean"][end].mean() / (seen["norm"][end] ** 2).mean() for end in ends]
    np.testing.assert_allclose(reliability, (0.45, 0.18), atol=0.03)

    def direction(rows: slice) -> float:
        return 1 - seen["crossed"][rows].mean() / np.sqrt(seen["own"][rows].mean() * seen["clean"][rows].mean())

    assert abs(direction(slice(None)) - ROTATION) < 0.01
    assert abs(direction(ends[1]) - direction(ends[0])) < 0.03
    plain = [1 - seen["cosine"][end].mean() for end in ends]
    assert min(plain) < ROTATION - 0.05 or max(plain) > ROTATION + 0.05
