"""The cost of the isolated probe and of the comparison of pairs, for logging_overhead.py, which runs it.

A probe measures each expert alone, so it cannot cost less than a forward and a backward pass for each of them. The goal
is about what it costs beyond these passes. The comparison of pairs is an addition to the probe, and so is its goal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from prismatic.experts.discovery import find_routers
from prismatic.measure.isolated import isolated_dynamics
from prismatic.train.config import RunConfig
from prismatic.train.corpus import Corpus
from prismatic.train.model import ByteLM

FEW, MANY = 7, 64  # experts of the trainer's model, with its default options
PROBE_FREQ = 50
STEP, ALONE = "plain step", "a pass of each expert alone"
PROBE, WITH_PAIRS = "probe, without pairs", "probe, with pairs"
MOST_BEYOND, MOST_FOR_PAIRS = 1.4, 0.4  # passes of each expert alone; share of the probe

Times = dict[str, float]


def probe_ways(experts: int, device: str) -> dict[str, Callable[[], Any]]:
    """Return a training step, the passes that a probe needs, and the probe, all of one model and batch."""
    torch.manual_seed(0)
    config = RunConfig(num_experts=experts, device=device)
    model = ByteLM(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    length = config.sequence_length + 1
    batch = Corpus.load().batch(0, batch_size=config.batch_size, length=length, seed=0).to(device)
    routers = find_routers(model)

    def plain() -> None:
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()

    def each_alone() -> None:
        for expert in range(experts):
            for router in routers:
                router.forced = expert
            weights = [weight for router in routers for weight in router.experts[expert].parameters()]
            torch.autograd.grad(model.loss(batch), weights)
        for router in routers:
            router.forced = None

    plain()
    return {
        STEP: plain,
        ALONE: each_alone,
        PROBE: lambda: isolated_dynamics(model, model.loss, batch, compared=False),
        WITH_PAIRS: lambda: isolated_dynamics(model, model.loss, batch),
    }


def print_probe(experts: int, times: Times) -> None:
    """Print milliseconds, steps and the share of training of each way."""
    freq = f"of training, every {PROBE_FREQ}"
    print(f"\n{experts} experts, {'the isolated probe':<27} {'ms':>10} {'steps':>10} {freq:>24}")
    for way, seconds in times.items():
        steps = seconds / times[STEP]
        share = "" if way in (STEP, ALONE) else f"{steps / PROBE_FREQ:.1%}"
        print(f"  {way:<38} {1e3 * seconds:>10.1f} {steps:>10.2f} {share:>24}")
    print(f"  {'the pairs alone':<38} {1e3 * (times[WITH_PAIRS] - times[PROBE]):>10.1f}", end="")
    print(f" {(times[WITH_PAIRS] - times[PROBE]) / times[STEP]:>10.2f}")


def probe_goals(times: dict[int, Times]) -> list[tuple[str, float, float]]:
    """Return each goal with its figure and its limit, from the seconds of each way by the number of experts."""
    beyond = [
        (
            f"the isolated probe, in passes of each expert alone ({experts} experts)",
            own[PROBE] / own[ALONE],
            MOST_BEYOND,
        )
        for experts, own in times.items()
    ]
    many = times[MANY]
    pairs = (many[WITH_PAIRS] - many[PROBE]) / many[PROBE]
    return [*beyond, (f"the comparison of pairs, as a share of the probe ({MANY} experts)", pairs, MOST_FOR_PAIRS)]
