"""The verdict prefers isolated gradients where the probe measured enough of them."""

from dataclasses import replace

import numpy as np
import pytest

from prismatic.train.config import RunConfig
from prismatic.train.train import train
from tests.support.simulated_runs import simulated_run, with_norms
from validation.files.read_files import read_files
from validation.judgement.judge import judge
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, SUPPORTED
from validation.verdict.decide import decide


def probed(direction, *, control=0.02, floor=0.05, steps=600):
    """Return a run whose merged gradients are parallel and whose isolated gradients differ in direction."""
    merged = simulated_run(collinear=True, routing_ratio=2.3, control=True, steps=600)
    alone = simulated_run(control=True, steps=steps, seed=1)
    rng = np.random.default_rng(0)
    for expert, mean in ((1, direction), (2, control)):
        alone = with_norms(alone, expert, direction=mean + 0.01 * rng.normal(size=steps), routing_weight=np.ones(steps))
    alone = with_norms(alone, 0, noise_direction=np.full(steps, floor), direction=np.zeros(steps))
    return replace(merged, isolated=replace(alone, source="isolated"))


def divergence(run):
    claims = decide([run], {}).controlled.claims
    return next(claim for claim in claims if claim.name == "divergence" and claim.expert == 1)


def test_a_divergence_that_merging_hides_is_found_in_isolated_gradients():
    claim = divergence(probed(0.4))
    assert (claim.status, claim.source, claim.unit) == (SUPPORTED, "isolated", "1 - cosine")
    assert claim.because.startswith("by isolated gradients")


def test_a_direction_below_the_noise_of_the_batch_is_not_a_difference():
    claim = divergence(probed(0.15, floor=0.2))
    assert claim.status == INCONCLUSIVE
    assert "noise" in claim.because


def test_too_few_isolated_rows_leave_the_merged_reading():
    claim = divergence(probed(0.4, steps=60))
    assert (claim.status, claim.source) == (CONFOUNDED, "merged")


def test_a_run_with_a_probe_holds_isolated_rows_that_are_read_back(tmp_path):
    config = RunConfig(
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        sequence_length=16,
        batch_size=4,
        steps=21,
        probe_freq=10,
        control_experts=1,
    )
    files, _ = read_files([train(config, runs=tmp_path, progress=False).db_path])
    (run,) = judge(files).runs
    assert run.isolated.steps.tolist() == [0, 10, 20]
    assert np.nanmax(run.experts[1]["direction"]) < 1e-6
    assert run.isolated.experts[1]["direction"].min() > 1e-4
    assert run.isolated.experts[3]["direction"][0] < 1e-6
    assert np.isfinite(run.isolated.experts[0]["noise_direction"]).all()


@pytest.mark.parametrize("frequency", [0, 7])
def test_weights_are_compared_at_the_chosen_frequency(tmp_path, frequency):
    config = RunConfig(
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        sequence_length=16,
        batch_size=2,
        steps=15,
        log_freq=1,
        weight_freq=frequency,
    )
    files, _ = read_files([train(config, runs=tmp_path, progress=False).db_path])
    rows = [row for row in files[0].layers.to_pylist() if row["expert"] == 1]
    assert [row["step"] for row in rows if row["weight_distance"] is not None] == ([0, 7, 14] if frequency else [])
    assert all(0 < row["weight_distance"] < 1 and row["weight_cosine"] > 0.9 for row in rows if row["weight_distance"])
