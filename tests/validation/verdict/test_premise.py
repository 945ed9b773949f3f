"""The premise: dormant, not dormant or mixed over the thirds of a run, and Student's interval over seeds."""

import math

import numpy as np
import pytest
from scipy import stats

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import named, simulated_run, study, with_norms
from validation.analysis.bins import BINS
from validation.analysis.cohort import MeasuredRun, measure_run
from validation.verdict.decide import judge_runs
from validation.verdict.premise import Premise, judge_premise

LOW, HIGH = math.log(0.1), math.log(2.0)


def premise(*dormancies: list[float]) -> Premise:
    """Return the premise of runs whose bottom weights have this log of a middle weight's gradient, by bin."""
    runs = [
        MeasuredRun(named(simulated_run(steps=5), f"{number}"), None, None, False, np.array(by_bin))
        for number, by_bin in enumerate(dormancies)
    ]
    return judge_premise(runs, Thresholds())


@pytest.mark.parametrize(
    ("by_bin", "status"),
    [
        ([LOW] * 6, "dormant"),
        ([HIGH] * 6, "not_dormant"),
        ([LOW] * 4 + [HIGH] * 2, "mixed"),
        ([LOW, LOW - 1, LOW, LOW, LOW + 2.4, LOW], "dormant"),
        ([LOW, math.nan, LOW, LOW, math.nan, LOW], "dormant"),
        ([LOW, LOW, LOW, LOW, math.nan, math.nan], "undecided"),
        ([math.nan] * 6, "undecided"),
    ],
)
def test_a_run_is_dormant_if_each_third_of_it_is(by_bin, status):
    found = premise(by_bin)
    assert found.status == status
    assert found.run == "0"
    assert "nan" not in found.because
    assert (found.estimate is None) is (status == "undecided")


def test_the_estimate_is_the_geometric_mean_over_bins():
    found = premise([LOW] * 4 + [HIGH] * 2)
    assert found.estimate == pytest.approx(math.exp((4 * LOW + 2 * HIGH) / 6))
    assert (found.low, found.high) == (None, None)
    assert "[" not in found.because


def test_over_seeds_the_premise_has_students_interval():
    values = [LOW, LOW + 0.2, LOW - 0.3, LOW + 0.1]
    found = premise(*([value] * 6 for value in values))
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert (found.run, found.status) == (None, "dormant")
    assert found.because.startswith(f"bottom weights of the clean expert receive {math.exp(LOW):.2f}x [")
    assert "over 4 seeds a middle weight's gradient: they are dormant" in found.because


def test_a_run_without_any_value_leaves_the_others():
    found = premise([LOW] * 6, [math.nan] * 6, [LOW + 0.1] * 6)
    assert found.status == "dormant"
    assert "over 2 seeds" in found.because


def test_bottom_weights_with_a_tenth_of_the_gradient_are_dormant():
    run = simulated_run(facts={"config.log_freq": 1})
    assert judge_runs([run], {}).premises[0].status == "not_dormant"
    weak = with_norms(run, 0, bottom_norm=run.experts[0]["bottom_norm"] / 10)
    assert judge_runs([weak], {}).premises[0].status == "dormant"


def test_runs_without_a_verdict_have_no_premise():
    runs = study(3)
    verdict = judge_runs(runs, {"1": "broken"})
    assert [one.run for one in verdict.premises] == ["0", "2"]
    assert "over 2 seeds" in verdict.groups[0].premise.because
    assert judge_runs(runs[:1], {"0": "broken"}).groups[0].premise is None


def test_the_threshold_is_that_of_the_verdict():
    run = measure_run(simulated_run(), Thresholds())
    assert judge_premise([run], Thresholds(dormant_ratio=0.99)).status == "dormant"
    assert len(run.dormancy_K) == BINS
