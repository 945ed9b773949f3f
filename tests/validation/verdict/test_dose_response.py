"""The dose-response over seeds and scales: which groups take part, and the numbers of the trend."""

import numpy as np
import pytest
from scipy import stats

from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import named, simulated_run, study
from tests.support.slow_effects import effect, over_time, slowly
from validation.analysis.run import Run
from validation.verdict.decide import judge_runs

EXPERTS = {"perturbed": 2, "control": 2}


def dosed(scales, slope: float, *, seeds: int = 3, make=simulated_run, **config) -> list[Run]:
    """Return a study over seeds at each scale, in which the bottom tier gains by the scale times a slope."""
    found = []
    for place, scale in enumerate(scales):
        made = {"bottom": slope * scale} if make is probed_run else {"awakening": np.exp(slope * scale)}
        for seed in range(seeds):
            facts = {"planned_steps": 600, "config.merge": "example"}
            run = make(seed=seed, noise_seed=100 * place + seed, facts=facts, **EXPERTS, **made)
            found.append(named(run, f"{config} {scale:g} {seed}", seed=seed, perturbation_scale=scale, **config))
    return found


def test_an_effect_that_grows_with_the_scale_is_a_dose_response():
    (dose, *_) = judge_runs(dosed((0.0, 0.5, 1.0, 2.0), 0.3), {}).doses
    assert (dose.claim, dose.scales, dose.seeds) == ("awakening", (0.0, 0.5, 1.0, 2.0), (0, 1, 2))
    assert dose.p < 0.001
    assert dose.low < dose.slope < dose.high
    assert dose.slope == pytest.approx(0.3, abs=0.05)
    assert dose.because.startswith("awakening rises with perturbation_scale (0, 0.5, 1, 2): Page's p = ")


def test_the_numbers_are_those_of_the_slow_effects():
    runs = dosed((0.0, 1.0, 2.0), 0.2, make=probed_run)
    awakening, divergence = judge_runs(runs, {}).doses
    for dose, name in ((awakening, "bottom"), (divergence, "direction")):
        values = [over_time(effect(slowly(run.isolated), name))[0] for run in runs]
        table = np.array(values).reshape(3, 3).T
        assert np.array(dose.values) == pytest.approx(table)
        assert dose.p == pytest.approx(stats.page_trend_test(table).pvalue)
        slopes = [stats.linregress((0.0, 1.0, 2.0), row).slope for row in table]
        expected = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
        assert (dose.slope, dose.low, dose.high) == pytest.approx((np.mean(slopes), expected.low, expected.high))
    assert (awakening.unit, divergence.unit) == ("log ratio", "1 - cosine")


def test_without_directions_the_sizes_of_the_tiers_are_averaged():
    runs = [*dosed((0.0,), 0), *dosed((1.0, 2.0), 0.3)]
    dose = judge_runs(runs, {}).doses[1]
    values = [
        np.mean([over_time(effect(slowly(r), f"{t}_size"))[0] for t in ("top", "bottom", "middle")]) for r in runs
    ]
    assert np.array(dose.values) == pytest.approx(np.array(values).reshape(3, 3).T)
    assert dose.unit == "log ratio"


@pytest.mark.parametrize(("scales", "seeds"), [((0.0, 1.0), 4), ((0.0, 0.5, 1.0), 1), ((0.0, 0.0005, 0.001), 3)])
def test_a_trend_needs_three_scales_two_seeds_and_a_perturbation(scales, seeds):
    assert judge_runs(dosed(scales, 0.3, seeds=seeds), {}).doses == ()


def test_scales_so_close_that_their_squares_vanish_are_no_doses():
    assert judge_runs(dosed((0.0, 1e-200, 2e-200), 0.3), {}).doses == ()


def test_only_seeds_that_have_every_scale_take_part():
    runs = [run for run in dosed((0.0, 1.0, 2.0), 0.3, seeds=4) if run.id != "{} 1 2"]
    assert judge_runs(runs, {}).doses[0].seeds == (0, 1, 3)
    invalid = judge_runs(dosed((0.0, 1.0, 2.0), 0.3, seeds=4), {"{} 1 2": "broken"})
    assert {dose.seeds for dose in invalid.doses} <= {(0, 1, 3)}


def test_no_dose_response_is_claimed_for_runs_that_differ_in_more_than_the_scale():
    runs = [run for scale in (1.0, 2.0, 3.0) for run in dosed((scale,), 0.3, width=scale)]
    assert judge_runs(runs, {}).doses == ()


def test_experiments_that_differ_in_more_have_a_dose_response_each():
    runs = dosed((0.0, 1.0, 2.0), 0.0, merge="batch") + dosed((0.0, 1.0, 2.0), 0.4, merge="example")
    doses = [dose for dose in judge_runs(runs, {}).doses if dose.claim == "awakening"]
    assert [(dose.options, dose.p < 0.01) for dose in doses] == [
        ({"merge": "batch"}, False),
        ({"merge": "example"}, True),
    ]
    assert doses[1].because.startswith("awakening, merge=example rises with perturbation_scale (0, 1, 2)")


def test_positive_controls_beside_them_leave_the_dose_response_as_it_is():
    runs = dosed((0.0, 0.5, 1.0), 0.5, positive_control=1.0)
    positive = dosed((0.5,), 2.0, positive_control=1.5)
    alone, beside = judge_runs(runs, {}), judge_runs([*runs, *positive], {})
    assert alone.doses == beside.doses != ()


def test_copies_under_many_seeds_show_no_trend():
    once = dosed((0.0, 1.0, 2.0), 0.3, seeds=1)
    copies = [named(run, f"{run.id} as {seed}", seed=seed) for run in once for seed in range(5)]
    assert judge_runs(copies, {}).doses == ()


def test_without_control_experts_the_clean_expert_shows_the_trend():
    runs = [
        named(run, f"{scale} {run.id}")
        for scale in (0.0, 1.0, 2.0)
        for run in study(3, scale=scale, awakening=1 + scale)
    ]
    assert judge_runs(runs, {}).doses[0].p < 0.01
