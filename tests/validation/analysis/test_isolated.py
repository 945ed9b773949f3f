"""Isolated gradients of real trainings: which rows the probe leaves, and what the verdict makes of them."""

from dataclasses import replace

import numpy as np
import pytest

from prismatic.train.config import RunConfig
from prismatic.train.train import train
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import simulated_run, study, write
from tests.support.slow_effects import effect, slowly
from validation.analysis.effects import effect_K
from validation.analysis.load import load_runs
from validation.files.read_files import read_files
from validation.files.sources import read_sources
from validation.judgement.judge import judge
from validation.verdict.claims import CONFOUNDED, SUPPORTED, Reason
from validation.verdict.decide import judge_runs

TINY = {"hidden_size": 16, "num_heads": 2, "sequence_length": 16, "batch_size": 4}


def hiding(run):
    """Return the run with merged gradients that are parallel: only the isolated ones show what experts do."""
    merged = simulated_run(collinear=True, routing_ratio=2.3, perturbed=3, control=3, steps=600, seed=run.seed)
    return replace(run, steps=merged.steps, experts=merged.experts, layers=())


def test_a_divergence_that_merging_hides_is_found_in_isolated_gradients():
    runs = [hiding(run) for run in study(6, probed_run, direction=0.3)]
    claim = judge_runs(runs, {}).headlines["divergence"]
    assert (claim.status, claim.source, claim.unit) == (SUPPORTED, "isolated", "1 - cosine")
    assert "merged" not in claim.because
    claim = judge_runs([replace(run, isolated=None) for run in runs], {}).headlines["divergence"]
    assert (claim.status, claim.source, claim.reason) == (CONFOUNDED, "merged", Reason.ONE_COMMON_GRADIENT)


def test_a_run_with_a_probe_holds_isolated_rows_that_are_read_back(tmp_path):
    config = RunConfig(**TINY, num_layers=2, steps=61, probe_freq=10, control_experts=1)
    files, _ = read_files([train(config, runs=tmp_path, progress=False).db_path])
    judged = judge(files)
    (run,) = judged.runs
    assert run.isolated.steps.tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert np.nanmax(run.experts[1]["direction"]) < 1e-6
    assert run.isolated.experts[1]["direction"].min() > 1e-4
    assert run.isolated.experts[3]["direction"][0] < 1e-6
    for expert in run.isolated.experts.values():
        assert np.isfinite(expert["half_product"]).all()
        assert np.isfinite(expert["half_product_clean"]).all() == (expert.index > 0)


def test_the_levels_of_a_real_training_are_those_of_the_slow_implementation(tmp_path):
    config = RunConfig(**TINY, num_layers=2, steps=61, log_freq=2, probe_freq=4, control_experts=2, merge="example")
    (each,) = judge(read_files([train(config, runs=tmp_path, progress=False).db_path])[0]).measured
    for source in ("merged", "isolated"):
        run, levels = each.run if source == "merged" else each.run.isolated, each.levels(source)
        assert set(levels.of) == {"bottom", "size", "direction"}
        for name in levels.of:
            expected = [np.nan if value is None else value for value in effect(slowly(run), name)]
            assert effect_K(levels, name) == pytest.approx(expected, nan_ok=True, rel=1e-6, abs=1e-9)
    assert each.isolated.reliability_ELK is not None


def test_a_simulated_run_is_the_same_from_a_file(tmp_path):
    run = study(1, probed_run, bottom=0.3)[0]
    (read,) = load_runs(read_sources([write(run, tmp_path / "dynamics.db")])[0])
    before, after = (judge_runs([one], {}).headlines for one in (run, read))
    for name, claim in before.items():
        assert (after[name].status, after[name].reason, after[name].source) == (
            claim.status,
            claim.reason,
            claim.source,
        )
        assert after[name].estimate == pytest.approx(claim.estimate)


@pytest.mark.parametrize("frequency", [0, 7])
def test_weights_are_compared_at_the_chosen_frequency(tmp_path, frequency):
    config = RunConfig(**{**TINY, "batch_size": 2}, num_layers=1, steps=15, log_freq=1, weight_freq=frequency)
    files, _ = read_files([train(config, runs=tmp_path, progress=False).db_path])
    rows = [row for row in files[0].layers.to_pylist() if row["expert"] == 1]
    assert [row["step"] for row in rows if row["weight_distance"] is not None] == ([0, 7, 14] if frequency else [])
    assert all(0 < row["weight_distance"] < 1 and row["weight_cosine"] > 0.9 for row in rows if row["weight_distance"])
