"""Batch means and skipped steps are those of the verdict."""

import numpy as np

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import simulated_run
from validation.frames.batches import verdict_batches


def test_batches_are_the_means_that_the_verdict_takes():
    run = simulated_run(steps=1000)
    known = verdict_batches(run, Thresholds())
    assert known.skipped == ((0.0, 100.0, "warm-up"),)
    own = known.means[(known.means["expert"] == 1) & (known.means["metric"] == "bottom_norm")]
    logs = np.log(run.experts[1]["bottom_norm"][100:]).reshape(20, 45)
    np.testing.assert_allclose(own["value"], np.exp(logs.mean(axis=1)))
    assert own[["step", "last"]].iloc[[0, -1]].to_numpy().tolist() == [[100, 144], [955, 999]]


def test_what_fills_no_batch_and_what_is_not_judged_yet_is_shaded_too():
    known = verdict_batches(simulated_run(steps=405, facts={"planned_steps": 2000}), Thresholds())
    assert [why for _, _, why in known.skipped] == ["warm-up", "not judged yet"]
    odd = verdict_batches(simulated_run(steps=155), Thresholds())
    assert [why for _, _, why in odd.skipped] == ["warm-up", "too few rows to fill a batch"]
