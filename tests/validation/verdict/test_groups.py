"""Groups of runs: averaged over seeds only, paired with sham runs, ordered by dose."""

import numpy as np
import pytest
from scipy import stats

from tests.support.simulated_runs import simulated_run, with_norms
from validation.analysis.run import Run
from validation.analysis.statistics import dose_response, more_runs
from validation.verdict.claims import INCONCLUSIVE, REFUTED, SUPPORTED
from validation.verdict.decide import decide


def member(name, *, seed, scale=1.0, **options):
    """Return a simulated run with the options that made it; further arguments are options of the run."""
    simulated = {
        key: options.pop(key) for key in ("awakening", "divergence", "control", "rho", "sd", "steps") if key in options
    }
    run = simulated_run(seed=seed + 1000 * int(100 * scale), **simulated)
    facts = {"config.seed": seed, "config.perturbation_scale": scale}
    facts |= {f"config.{key}": value for key, value in options.items()}
    return Run(**{**vars(run), "id": name, "facts": facts})


def over_all(verdict, claim):
    return next(c for c in verdict.controlled.claims if c.run is None and c.name == claim)


def test_runs_are_grouped_by_everything_but_the_seed():
    runs = [member(f"s{s}-{n}", seed=s, num_layers=n) for n in (2, 4) for s in range(3)]
    groups = decide(runs, {}).groups
    assert [group.name for group in groups] == ["num_layers=2", "num_layers=4"]
    assert groups[0].runs == ("s0-2", "s1-2", "s2-2")


def test_seeds_too_noisy_alone_decide_together():
    runs = [member(f"run{s}", seed=s, awakening=1.5, rho=0.95, sd=0.3, steps=500) for s in range(8)]
    verdict = decide(runs, {})
    alone = [c.status for c in verdict.controlled.claims if c.name == "awakening" and c.run and c.expert is None]
    assert INCONCLUSIVE in alone
    assert over_all(verdict, "awakening").status == SUPPORTED
    assert over_all(verdict, "awakening").points == 8


def test_the_interval_over_seeds_is_students_on_the_runs_own_estimates():
    runs = [member(f"run{s}", seed=s, awakening=1.5) for s in range(4)]
    verdict = decide(runs, {})
    logs = [np.log(c.estimate) for c in verdict.controlled.claims if c.name == "awakening" and c.expert == 1]
    low, high = np.exp(stats.t.interval(0.95, 3, loc=np.mean(logs), scale=stats.sem(logs)))
    assert (over_all(verdict, "awakening").low, over_all(verdict, "awakening").high) == pytest.approx((low, high))


def test_too_few_seeds_name_how_many_more_would_decide():
    values = np.array([0.05, 0.25, 0.15])
    more = more_runs(values, 0.095)
    half = [stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) for n in (3 + more - 1, 3 + more)]
    assert half[1] < values.mean() - 0.095 <= half[0]


def test_a_shift_of_the_sham_run_with_the_same_seed_is_subtracted():
    draws = [1.0, 1.35, 0.8, 1.6]  # what each seed's draw does, perturbed or not
    treated = [member(f"t{s}", seed=s, awakening=draw) for s, draw in enumerate(draws)]
    shams = [member(f"s{s}", seed=s, scale=0.0, awakening=draw) for s, draw in enumerate(draws)]
    paired, alone = decide([*treated, *shams], {}), decide(treated, {})
    claim = over_all(paired, "awakening")
    assert claim.estimate == pytest.approx(1.0, abs=0.06)
    assert claim.high - claim.low < 0.5 * (over_all(alone, "awakening").high - over_all(alone, "awakening").low)
    assert claim.status != SUPPORTED


def test_runs_are_paired_with_their_shams_only_if_each_has_one():
    treated = [member(f"t{s}", seed=s, awakening=1.5) for s in range(4)]
    alone = over_all(decide(treated, {}), "awakening")
    partly = decide([*treated, member("s0", seed=0, scale=0.0, awakening=1.4)], {})
    assert over_all(partly, "awakening").estimate == pytest.approx(alone.estimate)


def test_runs_that_were_measured_in_different_ways_are_not_averaged():
    runs = [member(f"r{s}", seed=s, divergence=0.6, control=True, merge="example") for s in range(3)]
    sure = np.full(600, 0.5)
    runs[2] = with_norms(with_norms(runs[2], 1, direction=sure), 2, direction=sure / 5)
    claim = over_all(decide(runs, {}), "divergence")
    assert claim.status == INCONCLUSIVE
    assert "different ways" in claim.because


def test_the_threshold_rises_with_the_spread_of_sham_runs():
    draws = [1.0, 1.5, 0.7, 1.3]
    shams = [member(f"s{s}", seed=s, scale=0.0, awakening=draw) for s, draw in enumerate(draws)]
    verdict = decide([member("treated", seed=9, awakening=1.5), *shams], {})
    claim = next(c for c in verdict.controlled.claims if c.run == "treated" and c.name == "awakening")
    assert claim.threshold > 2
    assert claim.status != SUPPORTED
    assert "the spread between sham runs" in claim.because


def test_sham_runs_beside_others_are_only_controls():
    runs = [member("treated", seed=0, awakening=1.5), member("sham", seed=0, scale=0.0)]
    verdict = decide(runs, {})
    assert [group.role for group in verdict.groups] == ["treated", "sham"]
    assert over_all(verdict, "awakening").status == SUPPORTED


def test_sham_runs_alone_are_never_supported():
    runs = [member(f"s{s}", seed=s, scale=0.0, awakening=1.5) for s in range(5)]
    assert over_all(decide(runs, {}), "awakening").status == INCONCLUSIVE


def test_an_effect_that_grows_with_the_scale_is_a_dose_response():
    doses = {0.0: 1.0, 0.5: 1.2, 1.0: 1.4, 2.0: 1.9}
    cells = [(scale, effect, seed) for scale, effect in doses.items() for seed in range(3)]
    runs = [member(f"{scale}-{seed}", seed=seed, scale=scale, awakening=effect) for scale, effect, seed in cells]
    (dose, *_) = decide(runs, {}).doses
    assert (dose.claim, dose.scales, dose.seeds) == ("awakening", (0.0, 0.5, 1.0, 2.0), (0, 1, 2))
    assert dose.p < 0.001
    assert dose.low > 0
    assert "rises with perturbation_scale" in dose.because


def test_no_dose_response_is_claimed_for_runs_that_differ_in_more_than_the_scale():
    runs = [member(f"{k}-{s}", seed=s, scale=k, num_layers=int(k)) for k in (1.0, 2.0, 3.0) for s in (0, 1)]
    assert decide(runs, {}).doses == ()


def test_pages_test_and_the_slopes_agree_with_the_library_and_with_loops():
    rng = np.random.default_rng(0)
    table, doses = rng.normal(size=(5, 4)) + np.arange(4), np.array([0.0, 0.5, 1.0, 2.0])
    found = dose_response(table, doses)
    assert found.p == pytest.approx(stats.page_trend_test(table).pvalue)
    assert found.slope.mid == pytest.approx(np.mean([stats.linregress(doses, row).slope for row in table]))


@pytest.mark.parametrize("shape", [(1, 4), (3, 2)])
def test_a_trend_needs_two_seeds_and_three_doses(shape):
    with pytest.raises(ValueError, match="two seeds and three doses"):
        dose_response(np.zeros(shape), np.arange(shape[1]))


def divergent(run, gains, seed):
    """Return the run with more experts of both roles, each one draw: its gradient scaled by its own factor."""
    experts = dict(run.experts)
    for number, (role, gain) in enumerate(gains, start=1):
        noisy = simulated_run(seed=seed + number).experts[1]
        norms = {f"{t}_norm": noisy[f"{t}_norm"] * gain for t in ("top", "bottom", "middle")}
        experts[number] = type(noisy)(number, role, {**noisy.columns, **norms})
    return Run(**{**vars(run), "experts": experts})


def test_one_draw_is_not_taken_for_an_effect():
    # Experts differ from draw to draw by more than the perturbed one differs from the control.
    gains = [("perturbed", 1.5), ("perturbed", 0.9), ("control", 1.0), ("control", 0.7)]
    verdict = decide([divergent(simulated_run(), gains, seed=50)], {})
    assert SUPPORTED not in {c.status for c in verdict.controlled.claims if c.name == "divergence"}


def test_an_effect_far_beyond_the_spread_of_draws_is_found():
    gains = [("perturbed", 3.0), ("perturbed", 3.1), ("control", 1.0), ("control", 1.02), ("control", 0.98)]
    verdict = decide([divergent(simulated_run(), gains, seed=50)], {})
    assert {c.status for c in verdict.controlled.claims if c.name == "divergence"} == {SUPPORTED}


def test_experts_with_other_layers_are_skipped_in_the_spread_between_draws():
    gains = [("perturbed", 1.5), ("perturbed", 0.9), ("control", 1.0), ("control", 0.7)]
    run = divergent(simulated_run(), gains, seed=50)
    layers = [run.experts, {number: e for number, e in run.experts.items() if number != 2}]
    damaged = Run(**{**vars(run), "layers": layers})
    assert {c.status for c in decide([damaged], {}).controlled.claims if c.name == "divergence"} == {INCONCLUSIVE}


def test_a_collapsing_divergence_is_refuted_over_seeds_as_in_each():
    fall = 1.2 * 2 ** (-np.linspace(0, 1, 600) / 0.2)
    runs = [member(f"r{s}", seed=s, divergence=fall, control=True) for s in range(4)]
    assert over_all(decide(runs, {}), "sustainment").status == REFUTED


def test_zero_norms_in_one_run_leave_the_others_pooled_as_they_are():
    runs = [member(f"r{s}", seed=s, awakening=1.5) for s in range(4)]
    runs[3] = with_norms(runs[3], 1, bottom_norm=np.zeros(600))
    assert over_all(decide(runs, {("r3", None): "zero norms"}), "awakening").status == INCONCLUSIVE


def directional(run, towards, noise):
    """Return the run by isolated gradients: the perturbed expert's direction and the clean expert's noise floor."""
    rng = np.random.default_rng(run.seed)
    with_direction = with_norms(run, 1, direction=towards + 0.01 * rng.normal(size=len(run.steps)))
    return with_norms(with_direction, 0, noise_direction=np.full(len(run.steps), noise))


@pytest.mark.parametrize(("noise", "status"), [(0.02, SUPPORTED), (0.3, INCONCLUSIVE)])
def test_a_direction_below_the_noise_floor_is_not_supported_over_seeds_either(noise, status):
    runs = [
        directional(member(f"r{s}", seed=s, merge="example", routing="frozen"), 0.15 + 0.01 * s, noise)
        for s in range(4)
    ]
    verdict = decide(runs, {})
    assert over_all(verdict, "divergence").status == status
    assert over_all(verdict, "sustainment").status == status


def test_experiments_that_differ_in_more_have_a_dose_response_each():
    runs = [
        member(f"{merge}-{scale}-{seed}", seed=seed, scale=scale, awakening=1 + slope * scale, merge=merge)
        for merge, slope in (("batch", 0.0), ("example", 0.5))
        for scale in (0.0, 1.0, 2.0)
        for seed in range(3)
    ]
    doses = [dose for dose in decide(runs, {}).doses if dose.claim == "awakening"]
    assert [(dose.options, dose.p < 0.01) for dose in doses] == [
        ({"merge": "batch"}, False),
        ({"merge": "example"}, True),
    ]
    assert doses[1].because.startswith("awakening, merge=example rises with perturbation_scale (0, 1, 2)")


def test_positive_controls_beside_them_leave_the_dose_response_as_it_is():
    runs = [
        member(f"{k}-{s}", seed=s, scale=k, awakening=1 + k, positive_control=1.0)
        for k in (0.0, 0.5, 1.0)
        for s in (0, 1)
    ]
    positive = [member(f"positive-{s}", seed=s, scale=0.5, awakening=3.0, positive_control=1.5) for s in (0, 1)]
    alone, beside = decide(runs, {}), decide([*runs, *positive], {})
    assert alone.doses == beside.doses != ()
    assert [group.name for group in beside.groups][1:] == [
        "perturbation_scale=0.5",
        "perturbation_scale=1.0",
        "perturbation_scale=0.5, positive_control=1.5",
    ]
