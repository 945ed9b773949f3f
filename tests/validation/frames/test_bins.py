"""Bins and skipped steps are those of the verdict."""

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import simulated_run, with_norms
from validation.analysis.effects import levels_of
from validation.frames.bins import BIN_METRICS, verdict_bins


def bins_of(run):
    return verdict_bins(run, levels_of(run, Thresholds()), metrics=BIN_METRICS, experts=[0, 1])


def test_means_of_norms_are_geometric_and_those_of_other_metrics_are_not():
    run = simulated_run(steps=1000)
    known = bins_of(run)
    assert known.skipped == ((0.0, 100.0, "warm-up"),)
    for metric, mean in (("bottom_norm", lambda x: np.exp(np.log(x).mean())), ("divergence", np.mean)):
        own = known.means[(known.means["expert"] == 1) & (known.means["metric"] == metric)]
        assert own["value"].tolist() == pytest.approx(
            [mean(run.experts[1][metric][100 + 150 * k : 250 + 150 * k]) for k in range(6)]
        )
        assert own["step"].tolist() == [100, 250, 400, 550, 700, 850]
        assert own["last"].tolist() == [250, 400, 550, 700, 850, 1000]


@pytest.mark.parametrize(("steps", "bins"), [(100, 0), (450, 0), (1200, 2), (2000, 6)])
def test_steps_after_the_last_look_are_not_judged_yet(steps, bins):
    known = bins_of(simulated_run(steps=steps, facts={"planned_steps": 2000}))
    why = [text for _, _, text in known.skipped]
    assert why == ["warm-up", *(["not judged yet"] if 200 < steps < 2000 else [])]
    assert len(known.means[(known.means["expert"] == 1) & (known.means["metric"] == "norm")]) == bins
    assert all(first < last < steps for first, last, _ in known.skipped)


def test_a_bin_of_too_few_rows_is_skipped():
    run = simulated_run(steps=1000)
    hole = run.experts[1]["bottom_norm"].copy()
    hole[260:330] = np.nan
    known = bins_of(with_norms(run, 1, bottom_norm=hole))
    assert known.skipped[1:] == ((250.0, 400.0, "too few rows"),)
    assert 250.0 not in known.means["step"].tolist()
