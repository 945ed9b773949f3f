"""Mixtures of many experts, trained and logged by the callback: each expert of the file has its own gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from prismatic import DynamicsLoggerCallback, Prismatic, RouterConfig
from prismatic.experts.discovery import find_routers
from prismatic.measure.gradients import measure
from validation.analysis.load import load_runs
from validation.files.read_files import read_files
from validation.judgement.judge import judge


def batch(step: int) -> torch.Tensor:
    return torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(step))


@pytest.mark.long
@pytest.mark.parametrize("experts", [33, 256])
def test_many_experts_are_trained_logged_read_and_judged(tmp_path: Path, experts: int):
    torch.manual_seed(0)
    config = RouterConfig(num_experts=experts, merge="example")
    model = nn.Sequential(*(Prismatic(nn.Linear(6, 6), 6, config, layer=layer) for layer in range(2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    callback = DynamicsLoggerCallback(tmp_path / "dynamics.db", log_freq=1, probe_freq=8)
    step = iter(range(100))
    callback.attach(
        model, optimizer, planned_steps=8, probe=lambda: (lambda x: model(x).square().mean(), batch(next(step)))
    )
    for number in range(8):
        optimizer.zero_grad()
        model(batch(number)).square().mean().backward()
        if number == 7:
            last = measure(find_routers(model))
        optimizer.step()
    callback.detach()
    (file,), rejected = read_files([tmp_path / "dynamics.db"])
    assert (rejected, file.num_experts, len(file.layers), file.damage) == ([], experts, 0, ())
    (run,) = load_runs([file])
    for layer, number in ((0, 0), (1, 5), (1, experts - 1)):
        assert run.layers[layer][number]["norm"][-1] == pytest.approx(last[layer][number].norm, rel=1e-6)
    means = [last[layer][5].norm for layer in range(2)]
    assert run.experts[5]["norm"][-1] == pytest.approx(sum(means) / 2, rel=1e-6)
    assert run.isolated is not None
    assert [*run.isolated.layers[0]] == list(range(experts))
    assert run.isolated.pairs
    judgement = judge([file])
    assert [finding.evidence for finding in judgement.findings if finding.severity == "error"] == []
