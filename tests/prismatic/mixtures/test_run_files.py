"""Runs of perturbed and upcycled models, as the judging side reads them: replicates, sham twins, and what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prismatic
from prismatic import DynamicsLoggerCallback
from prismatic.contract.thresholds import Thresholds
from validation import judge, read_sources
from validation.analysis.cohort import Cohort, measure_run
from validation.verdict.groups import SHAM, TREATED


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(6, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8))
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inward(x)
        return self.out(x + self.mlp(x))


def trained(path: Path, method: str, seed: int, *, scale: float | None = None, **options: Any) -> Path:
    """Train a mixture for a few steps, and return its run file."""
    torch.manual_seed(9)  # every seed starts from the same dense model
    mixture = prismatic.upcycle(Dense(), num_experts=4, method=method, seed=seed, **options)
    if scale is not None:
        prismatic.perturb(mixture, scale=scale, seed=seed, control_experts=1)
    optimizer = torch.optim.SGD(mixture.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(path, log_freq=1)
    callback.attach(mixture, optimizer, planned_steps=4, learning_rate=0.1)
    for _ in range(4):
        x = torch.randn(16, 6)
        F.cross_entropy(mixture(x), torch.randint(0, 5, (16,))).backward()
        optimizer.step()
        optimizer.zero_grad()
    callback.detach()
    return path


@pytest.mark.parametrize("method", ["noise", "drop"])
def test_the_run_of_copies_with_the_same_seed_is_the_twin_and_seeds_are_replicates(method, tmp_path):
    for seed in range(3):
        trained(tmp_path / f"{method}{seed}.db", method, seed, control_experts=1)
        trained(tmp_path / f"copy{seed}.db", "copy", seed, control_experts=1)
    trained(tmp_path / "other.db", "copy", 0, control_experts=1, top_k=1)
    judgement = judge(*read_sources([tmp_path]))
    groups = {group.role: group for group in judgement.verdict.groups if len(group.runs) == 3}
    assert set(groups) == {TREATED, SHAM}
    by_id = {run.id: run for run in judgement.runs}
    cohort = Cohort([measure_run(run, Thresholds()) for run in judgement.runs])
    for run in (by_id[name] for name in groups[TREATED].runs):
        twin = cohort.twin_of(run)
        assert twin is not None
        assert (twin.run.seed, twin.run.config["upcycle_method"]) == (run.seed, "copy")
        assert twin.run.config["top_k"] == 2


def test_the_twin_of_perturbed_copies_is_the_run_of_scale_zero(tmp_path):
    for scale in (1.0, 0.0):
        trained(tmp_path / f"{scale}.db", "copy", 5, scale=scale)
    judgement = judge(*read_sources([tmp_path]))
    treated, sham = sorted(judgement.runs, key=lambda run: run.is_sham)
    assert (treated.is_sham, sham.is_sham) == (False, True)
    twin = Cohort([measure_run(run, Thresholds()) for run in judgement.runs]).twin_of(treated)
    assert twin is not None
    assert twin.run is sham


def test_without_a_clean_expert_the_run_is_of_peers(tmp_path):
    run = judge(*read_sources([trained(tmp_path / "peers.db", "drop", 0, keep_clean=False)])).runs[0]
    assert run.peers
    assert not run.is_sham
    assert run.config["upcycle_clean"] is False
