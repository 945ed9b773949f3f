"""The rules on simulated runs of known truth, and the effects that mislead readers of the chart: routing and scale."""

import numpy as np
import pytest

from tests.support.simulated_runs import simulated_run, with_norms
from validation.analysis.run import Run
from validation.analysis.series import bottom_gain, is_collinear
from validation.verdict.claims import (
    CLAIMS,
    CONFOUNDED,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SUPPORTED,
    combine_statuses,
)
from validation.verdict.decide import decide


def controlled(*runs, claim, run=0, invalid=()):
    """Return the status of a claim about a whole run in the controlled reading."""
    verdict = decide(runs, dict(invalid))
    return {c.name: c for c in verdict.controlled.claims if c.expert is None and c.run == runs[run].id}[claim].status


def as_written(run, claim):
    verdict = decide([run], {})
    return {c.name: c for c in verdict.as_written.claims if c.expert is None}[claim].status


def named(run, name, **config):
    facts = {f"config.{key}": value for key, value in config.items()}
    return Run(**{**vars(run), "id": name, "facts": facts})


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.3])
def test_routing_alone_is_never_called_awakening(ratio):
    run = simulated_run(routing_ratio=ratio)
    assert controlled(run, claim="awakening") in (REFUTED, CONFOUNDED)


def test_routing_alone_is_called_awakening_by_the_rules_as_written():
    assert as_written(simulated_run(routing_ratio=2.3), "awakening") == SUPPORTED


def test_a_confounded_awakening_names_the_bottom_ratio():
    verdict = decide([simulated_run(routing_ratio=2.3)], {})
    claim = next(c for c in verdict.controlled.claims if c.name == "awakening" and c.expert == 1)
    assert claim.status == CONFOUNDED
    assert "2.2" in claim.because or "2.3" in claim.because


@pytest.mark.parametrize("shares", [True, False])
def test_one_common_gradient_is_recognised_with_and_without_shares(shares):
    run = simulated_run(collinear=True, routing_ratio=2.3, shares=shares)
    assert is_collinear(run, 1)
    assert controlled(run, claim="awakening") == CONFOUNDED
    assert decide([run], {}).status == CONFOUNDED


def test_independent_gradients_are_not_called_one_common_gradient():
    assert not is_collinear(simulated_run(), 1)


def test_a_collinear_run_is_confounded_even_when_it_is_short():
    assert controlled(simulated_run(collinear=True, routing_ratio=2.3, steps=40), claim="awakening") == CONFOUNDED


def test_a_run_that_is_still_warming_up_names_no_number():
    run = simulated_run(collinear=True, routing_ratio=2.3, steps=4)
    young = Run(**{**vars(run), "facts": {"warmup_steps": 50}})
    assert not any("nan" in claim.because for claim in decide([young], {}).controlled.claims)


def test_an_awakening_of_one_and_a_half_is_supported():
    assert controlled(simulated_run(awakening=1.5, routing_ratio=0.4), claim="awakening") == SUPPORTED


def test_too_few_points_are_inconclusive_and_name_the_missing_number():
    verdict = decide([simulated_run(awakening=1.5, steps=100)], {})
    claim = next(c for c in verdict.controlled.claims if c.name == "awakening")
    assert claim.status == INCONCLUSIVE
    assert "90 usable logged steps after the warm-up; 10 more" in claim.because


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_the_scale_of_the_loss_does_not_move_the_controlled_reading(scale):
    base, scaled = (decide([simulated_run(routing_ratio=1.3, scale=s)], {}) for s in (1.0, scale))
    numbers = [[(c.status, c.estimate) for c in v.controlled.claims if c.name == "awakening"] for v in (base, scaled)]
    assert numbers[0][0][0] == numbers[1][0][0]
    assert numbers[0][0][1] == pytest.approx(numbers[1][0][1])


def test_the_scale_of_the_loss_flips_the_reading_as_written():
    assert as_written(simulated_run(routing_ratio=1.3, scale=0.01), "divergence") == REFUTED
    assert as_written(simulated_run(routing_ratio=1.3, scale=10.0), "divergence") == SUPPORTED


def test_divergence_beyond_the_control_is_supported_and_sustained():
    run = simulated_run(divergence=0.6, control=True)
    assert controlled(run, claim="divergence") == SUPPORTED
    assert controlled(run, claim="sustainment") == SUPPORTED


def test_divergence_without_a_control_is_inconclusive_and_names_a_control():
    verdict = decide([simulated_run(divergence=0.6, facts={"config.merge": "example"})], {})
    claim = next(c for c in verdict.controlled.claims if c.name == "divergence")
    assert claim.status == INCONCLUSIVE
    assert "control_experts: 2" in claim.because


def test_divergence_that_the_control_shows_too_is_not_supported():
    run = simulated_run(divergence=0.6, control=True)
    same = with_norms(run, 2, **{f"{t}_norm": run.experts[1][f"{t}_norm"] for t in ("top", "bottom", "middle")})
    assert controlled(same, claim="divergence") in (REFUTED, CONFOUNDED)


def test_a_matching_sham_run_is_a_control():
    treated = named(simulated_run(divergence=0.6, seed=1), "treated", perturbation_scale=1.0, seed=0, merge="batch")
    sham = named(simulated_run(seed=2), "sham", perturbation_scale=0.0, seed=0, merge="batch")
    assert controlled(treated, sham, claim="divergence") == SUPPORTED


def test_a_sham_run_of_another_model_is_not_a_control():
    treated = named(simulated_run(divergence=0.6, seed=1), "treated", perturbation_scale=1.0, hidden_size=96)
    sham = named(simulated_run(seed=2), "sham", perturbation_scale=0.0, hidden_size=32)
    assert controlled(treated, sham, claim="divergence") == INCONCLUSIVE


def test_nothing_is_ever_supported_for_a_run_in_which_nothing_was_perturbed():
    sham = named(simulated_run(divergence=0.6, control=True), "sham", perturbation_scale=0.0)
    assert controlled(sham, claim="divergence") == INCONCLUSIVE


def test_a_collapse_is_not_sustainment():
    decay = 1.2 * 0.5 ** (np.arange(600) / 150)  # half-life: a quarter of the run
    run = simulated_run(divergence=decay, control=True, sd=0.03)
    assert controlled(run, claim="sustainment") == REFUTED


def test_a_falling_loss_alone_is_a_collapse_only_as_written():
    run = simulated_run(divergence=0.6, control=True)
    assert as_written(run, "sustainment") == REFUTED
    assert controlled(run, claim="sustainment") == SUPPORTED


def test_opposite_differences_of_two_tiers_do_not_cancel_in_sustainment():
    run = simulated_run(control=True)
    expert = run.experts[1]
    turned = with_norms(run, 1, top_norm=expert["top_norm"] * 2, bottom_norm=expert["bottom_norm"] / 2)
    assert controlled(turned, claim="sustainment") == SUPPORTED


def test_invalid_data_is_invalid_in_both_readings_with_its_reason():
    run = simulated_run()
    verdict = decide([run], {(run.id, None): "all gradient norms are zero"})
    assert {claim.status for claim in (*verdict.controlled.claims, *verdict.as_written.claims)} == {INVALID}
    assert "all gradient norms are zero" in verdict.controlled.because


def test_no_run_at_all_is_invalid():
    assert decide([], {}).status == INVALID


def test_a_few_missing_rows_do_not_move_the_verdict():
    run = simulated_run(awakening=1.5)
    holed = run.experts[1]["bottom_norm"].copy()
    holed[np.random.default_rng(0).choice(600, 60, replace=False)] = np.nan
    assert controlled(with_norms(run, 1, bottom_norm=holed), claim="awakening") == SUPPORTED


def test_zero_norms_are_dropped_and_not_taken_for_small_gradients():
    run = simulated_run(awakening=1.5)
    holed = run.experts[1]["bottom_norm"].copy()
    holed[::20] = 0.0
    assert controlled(with_norms(run, 1, bottom_norm=holed), claim="awakening") == SUPPORTED


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([SUPPORTED, SUPPORTED], SUPPORTED),
        ([SUPPORTED, INCONCLUSIVE], INCONCLUSIVE),
        ([SUPPORTED, REFUTED], REFUTED),
        ([REFUTED, CONFOUNDED], CONFOUNDED),
        ([SUPPORTED, INVALID], INCONCLUSIVE),
        ([INVALID, INVALID], INVALID),
        ([], INVALID),
    ],
)
def test_several_statuses_combine_to_one(statuses, expected):
    assert combine_statuses(statuses) == expected


def test_fewer_than_three_runs_decide_nothing_across_runs():
    runs = [named(simulated_run(awakening=1.5, seed=s), f"run{s}", seed=s) for s in range(2)]
    verdict = decide(runs, {})
    across = next(c for c in verdict.controlled.claims if c.run is None and c.name == "awakening")
    assert across.status == INCONCLUSIVE
    assert "1 more seed" in across.because


def test_three_seeds_that_agree_support_a_claim_across_runs():
    runs = [named(simulated_run(awakening=1.5, seed=s), f"run{s}", seed=s) for s in range(3)]
    across = [c for c in decide(runs, {}).controlled.claims if c.run is None]
    assert [c.name for c in across] == list(CLAIMS)
    assert across[0].status == SUPPORTED


def test_copies_of_one_run_are_not_replicates():
    runs = [named(simulated_run(awakening=1.5, seed=0), f"run{s}", seed=0) for s in range(3)]
    across = next(c for c in decide(runs, {}).controlled.claims if c.run is None and c.name == "awakening")
    assert across.status == INCONCLUSIVE
    assert "more than once" in across.because


def test_files_without_options_are_not_averaged():
    runs = [named(simulated_run(awakening=1.5, seed=s), f"run{s}") for s in range(3)]
    verdict = decide(runs, {})
    across = next(c for c in verdict.controlled.claims if c.run is None and c.name == "awakening")
    assert len(verdict.groups) == 3
    assert across.estimate is None
    assert "not averaged" in across.because


def test_an_invalid_run_is_named_and_not_dropped():
    runs = [named(simulated_run(awakening=1.5, seed=s), f"run{s}", seed=s) for s in range(4)]
    verdict = decide(runs, {("run3", None): "broken"})
    across = next(c for c in verdict.controlled.claims if c.run is None and c.name == "awakening")
    assert across.status == INCONCLUSIVE
    assert "1 of 4 runs carry no verdict" in across.because


@pytest.mark.parametrize("scale", [0.0, "0.0", 0.001])
def test_no_claim_about_a_sham_run_is_supported_however_its_scale_is_written(scale):
    sham = named(simulated_run(awakening=1.5, divergence=0.5, control=True), "sham", perturbation_scale=scale)
    assert SUPPORTED not in {claim.status for claim in decide([sham], {}).controlled.claims}


def test_parallel_gradients_with_wrong_shares_are_not_divergence():
    run = simulated_run(collinear=True, control=True)
    wrong = with_norms(run, 1, routing_weight=run.experts[1]["routing_weight"] / 2)
    assert controlled(wrong, claim="divergence") in (REFUTED, CONFOUNDED)


@pytest.mark.parametrize("seed", range(8))
def test_the_interval_of_the_kept_share_agrees_with_the_status(seed):
    run = simulated_run(divergence=np.linspace(0.9, 0.5, 600), control=True, sd=0.15, seed=seed)
    _, diverged, claim = [c for c in decide([run], {}).controlled.claims if c.expert == 1]
    kept = claim.low is not None and claim.low > claim.threshold
    assert (claim.status == SUPPORTED) == (kept and diverged.status == SUPPORTED)


def test_runs_of_different_options_are_not_averaged():
    runs = [named(simulated_run(awakening=1.5, seed=s), f"run{s}", seed=s, sparsity=0.1 * (s + 1)) for s in range(3)]
    verdict = decide(runs, {})
    across = next(c for c in verdict.controlled.claims if c.run is None and c.name == "awakening")
    assert across.estimate is None
    assert "sparsity=0.2: supported" in across.because
    assert [group.runs for group in verdict.groups] == [("run0",), ("run1",), ("run2",)]


def test_bottom_weights_with_a_tenth_of_the_gradient_are_dormant():
    run = simulated_run()
    weak = with_norms(run, 0, bottom_norm=run.experts[0]["bottom_norm"] / 10)
    assert decide([weak], {}).premises[0].status == "dormant"


def test_bottom_weights_with_their_share_of_the_gradient_are_not_dormant():
    assert decide([simulated_run()], {}).premises[0].status == "not_dormant"


def test_any_factor_common_to_all_tiers_cancels_in_the_difference_of_differences():
    run = simulated_run()
    expert, clean = run.experts[1], run.experts[0]
    scaled = with_norms(run, 1, **{f"{t}_norm": expert[f"{t}_norm"] * 7 for t in ("top", "bottom", "middle")})
    assert bottom_gain(scaled.experts[1], clean) == pytest.approx(bottom_gain(expert, clean))
