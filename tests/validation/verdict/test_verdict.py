"""The verdict on simulated runs of known truth: routing, scale of the loss, number of seeds, looks, damaged runs."""

from dataclasses import replace

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import ar1, named, simulated_run, study, with_norms
from validation.analysis.cohort import measure_run
from validation.analysis.run import Run
from validation.analysis.series import bottom_gain, is_collinear
from validation.verdict.as_written import as_written
from validation.verdict.claims import (
    CLAIMS,
    CONFOUNDED,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SUPPORTED,
    Claim,
    Reason,
    overall,
)
from validation.verdict.decide import Verdict, decide, judge_runs
from validation.verdict.words.headline import ALL_SUPPORTED

EXPERTS = {"perturbed": 3, "control": 3}


def claims(runs: list[Run] | Run, invalid: dict[str, str] | None = None) -> dict[str, Claim]:
    """Return the claims over all runs by name."""
    return judge_runs(runs if isinstance(runs, list) else [runs], invalid or {}).headlines


def statuses(runs: list[Run] | Run) -> list[str]:
    return [claim.status for claim in claims(runs).values()]


@pytest.mark.parametrize(("ratio", "awakening"), [(0.3, CONFOUNDED), (1.0, REFUTED), (2.3, CONFOUNDED)])
def test_routing_alone_is_never_called_awakening_or_divergence(ratio, awakening):
    found = statuses(study(6, **EXPERTS, routing_ratio=ratio))
    assert found == [awakening, CONFOUNDED, INCONCLUSIVE]


@pytest.mark.parametrize("merge", ["example", None])
def test_without_routing_shares_a_size_may_be_the_routers(merge):
    """Merged parameters, and files that do not name their mixture: routing alone must not look like divergence."""
    runs = study(6, **EXPERTS, routing_ratio=2.3, shares=False, facts={"config.merge": merge} if merge else {})
    found = claims(runs)
    assert (found["divergence"].status, found["divergence"].reason) == (CONFOUNDED, Reason.SHARES_NOT_LOGGED)
    assert found["awakening"].status == REFUTED
    apart = [replace(run, facts={**run.facts, "mixture": "separate"}) for run in runs]
    assert claims(apart)["divergence"].status == SUPPORTED  # nothing is routed there, so a size is the expert's own


@pytest.mark.parametrize("shares", [True, False])
def test_one_common_gradient_is_recognised_with_and_without_shares(shares):
    run = simulated_run(collinear=True, routing_ratio=2.3, shares=shares)
    assert is_collinear(run, 1)
    assert statuses(run) == [CONFOUNDED] * 3
    assert statuses(study(6, **EXPERTS, collinear=True, routing_ratio=2.3, shares=shares)) == [CONFOUNDED] * 3


def test_independent_gradients_are_not_called_one_common_gradient():
    assert not is_collinear(simulated_run(), 1)


@pytest.mark.parametrize("steps", [4, 40])
def test_a_collinear_run_is_confounded_even_when_it_is_short(steps):
    found = claims(simulated_run(collinear=True, routing_ratio=2.3, steps=steps, facts={"warmup_steps": 50}))
    assert {claim.status for claim in found.values()} == {CONFOUNDED}
    assert not any("nan" in claim.because for claim in found.values())


def test_a_true_effect_supports_all_three_claims_over_seeds_and_in_one_run():
    for make, effect in (
        (simulated_run, {"awakening": 1.5, "divergence": 0.6}),
        (probed_run, {"bottom": 0.4, "direction": 0.3}),
    ):
        alone = "Awakening and divergence in this run, and it lasts"
        for count, units, headline in ((6, 6, ALL_SUPPORTED), (1, 3, alone)):
            verdict = judge_runs(study(count, make, **EXPERTS, **effect), {})
            assert {claim.status for claim in verdict.controlled.claims if claim.run is None} == {SUPPORTED}
            assert {claim.units for claim in verdict.headlines.values()} == {units}
            assert (verdict.status, verdict.headline) == (SUPPORTED, headline)


def test_no_effect_is_refuted_where_directions_are_measured():
    assert statuses(study(6, probed_run, **EXPERTS)) == [REFUTED, REFUTED, INCONCLUSIVE]
    assert statuses(study(6, probed_run, twins=True, **EXPERTS)) == [REFUTED, REFUTED, INCONCLUSIVE]


def test_seeds_too_few_alone_decide_together():
    runs = study(6, perturbed=1, control=1, awakening=1.5, divergence=0.6)
    verdict = judge_runs(runs, {})
    alone = [claim for claim in verdict.controlled.claims if claim.run]
    assert {(claim.status, claim.reason) for claim in alone} == {(INCONCLUSIVE, Reason.TOO_FEW_EXPERTS)}
    assert statuses(runs) == [SUPPORTED] * 3
    assert claims(runs[:5])["awakening"].reason == Reason.TOO_FEW_SEEDS


@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(
    "made",
    [
        {"make": simulated_run, "awakening": 1.5, "divergence": 0.5},
        {"make": simulated_run},
        {"make": probed_run, "twins": True},
        {"make": probed_run, "size": 0.08, "direction": 0.04, "spread": 0.1},
        {"make": probed_run, "reliability": None, "bottom": np.linspace(0.6, 0, 120)},
        {"make": simulated_run, "collinear": True},
    ],
    ids=["gain", "null", "twins", "near the margins", "fading", "one common gradient"],
)
def test_the_scale_of_the_loss_moves_nothing(factor, made):
    for seeds in (1, 6):
        base, scaled = (judge_runs(study(seeds, **{**EXPERTS, **made, "loss_scale": s}), {}) for s in (1.0, factor))
        for before, after in zip(base.controlled.claims, scaled.controlled.claims, strict=True):
            assert (before.status, before.reason, before.because) == (after.status, after.reason, after.because)
            assert before.estimate == (None if after.estimate is None else pytest.approx(after.estimate))


def test_runs_of_one_group_may_have_losses_of_different_scales():
    made = {**EXPERTS, "bottom": 0.4, "size": 0.3, "direction": 0.2}
    same = study(6, probed_run, **made)
    mixed = [study(1, probed_run, first_seed=seed, loss_scale=10.0**seed, **made)[0] for seed in range(6)]
    numbers = [[(c.status, pytest.approx(c.estimate)) for c in claims(runs).values()] for runs in (same, mixed)]
    assert numbers[0] == numbers[1]


@pytest.mark.long
@pytest.mark.parametrize("effect", [{"bottom": np.log(1.2)}, {"direction": 0.12}, {"size": -np.log(1.2)}])
def test_a_true_effect_is_supported_at_least_as_often_with_more_seeds(effect):
    """Thirty studies of each size; experts differ by draw nearly as much as by the effect."""
    name = "awakening" if "bottom" in effect else "divergence"
    supported = dict.fromkeys((6, 10, 20), 0)
    for number in range(30):
        made = {"steps": 60, "layers": 1, "perturbed": 1, "control": 1, "spread": 0.07, "probe": False, **effect}
        runs = study(20, probed_run, first_seed=1000 * number, **made)
        measured, written = (
            [measure_run(run, Thresholds()) for run in runs],
            [as_written(run, Thresholds()) for run in runs],
        )
        for seeds in supported:
            verdict = decide(measured[:seeds], written[:seeds], {}, Thresholds())
            supported[seeds] += verdict.headlines[name].status == SUPPORTED
    assert supported[6] <= supported[10] <= supported[20]
    assert supported[6] < supported[20] > 15


def test_null_runs_are_seldom_supported_however_their_experts_differ():
    """Sixty studies of six seeds in which experts differ by draw alone, in each way of comparing them."""
    wrong = 0
    for number in range(20):
        for made in ({"control": 1, "perturbed": 1}, {"control": 0, "perturbed": 2, "twins": True}, EXPERTS):
            first = 1000 * number
            wrong += SUPPORTED in statuses(
                study(6, probed_run, first_seed=first, steps=60, layers=1, spread=0.15, **made)
            )
    assert wrong <= 3


def test_the_sham_run_of_each_seed_takes_away_what_the_seed_does_by_itself():
    widths = []
    for number in range(12):
        runs = study(6, first_seed=100 * number, control=1, spread=0.3, twins=True, steps=120)
        alone, paired = claims([run for run in runs if not run.is_sham])["awakening"], claims(runs)["awakening"]
        widths.append([np.log(claim.high / claim.low) for claim in (alone, paired)])
    assert np.divide(*np.mean(widths, axis=0)[::-1]) < 0.75
    assert (alone.twins, paired.twins) == (False, True)


def test_a_sham_run_of_another_model_is_not_a_control():
    treated = study(6, control=0, divergence=0.6)
    shams = [run for run in study(6, control=0, twins=True) if run.is_sham]
    assert claims([*treated, *shams])["divergence"].status == SUPPORTED
    other = [named(run, run.id, hidden_size=96) for run in shams]
    assert claims([*treated, *other])["divergence"].reason == Reason.NOTHING_TO_COMPARE


def test_a_collapse_is_not_sustainment():
    decay = 1.2 * 0.5 ** (np.arange(600) / 150)  # half-life: a quarter of the run
    assert statuses(study(6, **EXPERTS, divergence=decay))[1:] == [SUPPORTED, REFUTED]
    halving = 0.4 * 0.5 ** (np.arange(120) / 30)
    assert claims(study(10, probed_run, **EXPERTS, direction=halving))["sustainment"].reason == Reason.COLLAPSES


def test_noise_that_grows_is_not_a_collapse():
    """A constant rotation whose reliability falls as training converges."""
    runs = study(10, probed_run, **EXPERTS, direction=0.2, reliability=np.linspace(0.46, 0.18, 120))
    found = claims(runs)
    assert found["divergence"].estimate == pytest.approx(0.2, abs=0.03)
    assert found["sustainment"].status == SUPPORTED


def test_invalid_data_is_invalid_in_both_readings_with_its_reason():
    run = simulated_run()
    verdict = judge_runs([run], {run.id: "all gradient norms are zero"})
    assert {claim.status for claim in (*verdict.controlled.claims, *verdict.as_written.claims)} == {INVALID}
    assert "all gradient norms are zero" in verdict.controlled.because


def test_no_run_at_all_is_invalid():
    verdict = judge_runs([], {})
    assert (verdict.status, verdict.as_written.status, verdict.groups) == (INVALID, INVALID, ())
    assert verdict.headline == "No run could be judged"


@pytest.mark.parametrize("invalid", [1, 2])
def test_an_invalid_run_is_named_and_at_most_a_fifth_may_be(invalid):
    runs = study(7, **EXPERTS, awakening=1.5)
    found = claims(runs, {f"{number}": "broken" for number in range(invalid)})["awakening"]
    assert found.status == (SUPPORTED if invalid == 1 else INVALID)
    assert found.units == 7 - invalid


def test_a_few_missing_rows_do_not_move_the_verdict():
    runs = study(6, **EXPERTS, awakening=1.5)
    for value in (np.nan, 0.0):
        holed = runs[0].experts[1]["bottom_norm"].copy()
        holed[np.random.default_rng(0).choice(600, 40, replace=False)] = value
        spoiled = claims([with_norms(runs[0], 1, bottom_norm=holed), *runs[1:]])["awakening"]
        assert spoiled.status == SUPPORTED
        assert spoiled.estimate == pytest.approx(claims(runs)["awakening"].estimate, rel=0.01)


def test_copies_of_one_run_are_not_replicates():
    runs = study(2, **EXPERTS, awakening=1.5)
    once = [named(runs[0], f"copy {s}", seed=s) for s in range(6)]
    assert claims(once)["awakening"].reason == Reason.NO_REPLICAS
    assert claims([*runs, named(runs[0], "again")])["awakening"].because.startswith("seed 0 is there twice")


def test_files_without_options_are_not_averaged():
    runs = [replace(run, facts={}) for run in study(3, awakening=1.5)]
    verdict = judge_runs(runs, {})
    assert [group.runs for group in verdict.groups] == [("0",), ("1",), ("2",)]
    assert verdict.headlines["awakening"].estimate is None


@pytest.mark.parametrize("scale", [0.0, "0.0", 0.001])
def test_no_claim_about_a_sham_run_is_supported_however_its_scale_is_written(scale):
    runs = [named(run, run.id, perturbation_scale=scale) for run in study(6, **EXPERTS, awakening=1.5, divergence=0.5)]
    for some in (runs, runs[:1]):
        assert SUPPORTED not in {claim.status for claim in judge_runs(some, {}).controlled.claims}


def looks(runs: list[Run], steps: range) -> set[str]:
    """Return every status of awakening that someone sees who looks again and again."""
    found = set()
    for step in steps:
        so_far = [
            replace(
                run,
                steps=run.steps[:step],
                experts={
                    e: replace(one, columns={n: c[:step] for n, c in one.columns.items()})
                    for e, one in run.experts.items()
                },
            )
            for run in runs
        ]
        found.add(claims(so_far)["awakening"].status)
    return found


def test_watching_runs_grow_seldom_shows_support():
    """Sixteen studies at the margin, watched ten times; a t-test at every look would be wrong in every other."""
    wrong = 0
    for number in range(16):
        made = {"control": 1, "awakening": 1.1, "spread": 0.1, "steps": 320, "rho": 0.0}
        runs = study(6, first_seed=100 * number, facts={"planned_steps": 321}, **made)
        wrong += SUPPORTED in looks(runs, range(20, 320, 30))
    assert wrong <= 2


def test_before_the_end_the_headline_is_provisional():
    runs = [replace(run, facts={**run.facts, "planned_steps": 700}) for run in study(6, **EXPERTS, awakening=1.5)]
    verdict = judge_runs(runs, {})
    assert {claim.bins for claim in verdict.headlines.values()} == {4}
    assert "provisional: the training is not finished; 4 of its 6 parts are judged so far" in verdict.headline
    assert verdict.headlines["sustainment"].reason == Reason.NOT_FINISHED


def test_claims_are_of_each_run_and_then_over_all_runs():
    runs = study(3, **EXPERTS)
    controlled = judge_runs(runs, {}).controlled
    assert [(claim.run, claim.name) for claim in controlled.claims] == [
        (run, name) for run in ("0", "1", "2", None) for name in CLAIMS
    ]
    assert [claim.name for claim in controlled.of("1")] == [*CLAIMS]
    assert controlled.whole("1") == {claim.name: claim for claim in controlled.of("1")}
    assert controlled.of("unknown") == []


def test_a_single_run_has_the_claims_of_its_group_over_all_runs():
    verdict = judge_runs([simulated_run(**EXPERTS, awakening=1.5)], {})
    assert len(verdict.groups) == 1
    for own, over_all in zip(verdict.controlled.of("simulated"), verdict.controlled.of(None), strict=True):
        assert replace(own, run=None) == over_all
    assert [claim.status for claim in verdict.groups[0].claims] == [
        claim.status for claim in verdict.controlled.of(None)
    ]


def test_the_headline_is_that_of_the_claim_that_decides():
    verdict: Verdict = judge_runs(study(6, probed_run, **EXPERTS, bottom=0.4), {})
    decisive = next(claim for claim in verdict.headlines.values() if claim.status == verdict.status)
    assert verdict.controlled.headline == "Awakening, but no divergence over 6 seeds, and it lasts"
    assert verdict.controlled.because.startswith(f"{decisive.name}: {decisive.because}; the hypothesis needs all three")
    assert verdict.status == overall([claim.status for claim in verdict.headlines.values()]) == REFUTED


def test_thresholds_that_differ_stand_in_the_headline():
    runs = study(6, **EXPERTS, awakening=1.08)
    assert (
        "judged with awakening_ratio 1.05 instead of 1.10"
        in judge_runs(runs, {}, Thresholds(awakening_ratio=1.05)).headline
    )


def test_any_factor_common_to_all_tiers_cancels_in_the_difference_of_differences():
    run = simulated_run()
    expert, clean = run.experts[1], run.experts[0]
    scaled = with_norms(run, 1, **{f"{t}_norm": expert[f"{t}_norm"] * 7 for t in ("top", "bottom", "middle")})
    assert bottom_gain(scaled.experts[1], clean) == pytest.approx(bottom_gain(expert, clean))


def test_noise_of_rows_is_not_taken_for_a_difference_between_runs():
    """Slow noise of single runs, which misleads intervals over steps, is what the spread over seeds measures."""
    rng = np.random.default_rng(0)
    wrong = 0
    for number in range(40):
        runs = study(6, first_seed=100 * number, control=1, spread=0.0, steps=200)
        for run in runs:
            drift = np.exp(ar1(rng, 200, rho=0.99, sd=0.3))
            run.experts[1].columns["bottom_norm"][:] = run.experts[1]["bottom_norm"] * drift
        wrong += claims(runs)["awakening"].status == SUPPORTED
    assert wrong <= 2
