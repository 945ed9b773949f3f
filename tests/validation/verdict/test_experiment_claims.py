"""Claims about an experiment: the numbers that are shown are those that decide, on every side of every margin."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.support.measurements import MARGINS, measurements, over_seeds
from tests.support.simulated_runs import simulated_run
from validation.analysis.effects import BOTTOM, DIRECTION, SIZE, TWO_SIDED
from validation.analysis.intervals import seeds_that_decide
from validation.analysis.measurements import Effect, Measurements
from validation.verdict.claims import CLAIMS, INCONCLUSIVE, REFUTED, SUPPORTED, Claim, Component, Reason
from validation.verdict.experiment_claims import claims_of, p_of, values_of

RUNS = [simulated_run(steps=12)]
EXTENSIVE = settings(derandomize=True, deadline=None, max_examples=200)


def claims(m: Measurements) -> dict[str, Claim]:
    return {claim.name: claim for claim in claims_of(m, RUNS, {})}


def shown_margins(name: str) -> tuple[float, float]:
    """Return the two margins of an effect in the unit in which people read it."""
    margin = MARGINS[name]
    if name == DIRECTION:
        return -math.inf, margin
    return math.exp(-margin) if name in TWO_SIDED else 0.0, math.exp(margin)


def ends(part: Claim | Component) -> tuple[float, float]:
    return (-math.inf if part.low is None else part.low), (math.inf if part.high is None else part.high)


@EXTENSIVE
@given(measurements())
def test_an_interval_agrees_with_its_status(m):
    for claim in claims(m).values():
        low, high = ends(claim)
        if claim.name == "sustainment":
            if claim.status == SUPPORTED:
                assert low > claim.threshold
            if claim.status == REFUTED:
                assert high < claim.threshold
            continue
        if claim.status == SUPPORTED:
            assert low > claim.threshold if claim.threshold >= 1 or claim.unit != "ratio" else high < claim.threshold
        for part in claim.components:
            low, high = ends(part)
            below, above = shown_margins(part.name)
            if claim.status == REFUTED:
                assert high < above
                assert low > below or part.name not in TWO_SIDED
            if claim.status == INCONCLUSIVE and claim.reason == Reason.BOTH_SIDES_OF_MARGIN:
                assert not low > above
                assert not (high < below and part.name in TWO_SIDED)


@EXTENSIVE
@given(measurements())
def test_the_numbers_of_a_claim_are_those_of_the_component_that_lies_farthest_out(m):
    for claim in claims(m).values():
        if not claim.components:
            assert (claim.estimate, claim.low, claim.high) == (None, None, None)
            continue
        numbers = (claim.estimate, claim.low, claim.high, claim.unit, claim.threshold)
        assert numbers in [(p.estimate, p.low, p.high, p.unit, p.threshold) for p in claim.components]
        assert all(math.isfinite(number) for number in (claim.low, claim.high) if number is not None)


@EXTENSIVE
@given(measurements())
def test_more_seeds_are_asked_for_than_there_are(m):
    for claim in claims(m).values():
        if claim.seeds_needed is not None:
            assert claim.reason in (Reason.BOTH_SIDES_OF_MARGIN, Reason.TOO_FEW_SEEDS)
            assert claim.seeds_needed >= m.units_needed
            assert claim.seeds_needed > m.units or claim.reason == Reason.TOO_FEW_SEEDS


@pytest.mark.parametrize(
    ("means", "unit", "estimate", "threshold"),
    [
        ({SIZE: 0.4}, "ratio", math.exp(0.4), 1.1),
        ({SIZE: -0.4}, "ratio", math.exp(-0.4), 1 / 1.1),
        ({DIRECTION: 0.2}, "1 - cosine", 0.2, 0.05),
        ({SIZE: 0.4, DIRECTION: 0.2}, "ratio", math.exp(0.4), 1.1),
        ({SIZE: 0.2, DIRECTION: 0.3}, "1 - cosine", 0.3, 0.05),
        ({SIZE: -0.08}, "ratio", math.exp(-0.08), 1 / 1.1),
    ],
)
def test_of_size_and_direction_the_one_farther_out_in_margins_is_shown(means, unit, estimate, threshold):
    claim = claims(over_seeds(**means))["divergence"]
    assert (claim.unit, claim.threshold) == (unit, pytest.approx(threshold))
    assert claim.estimate == pytest.approx(estimate)
    assert [part.name for part in claim.components] == [SIZE, DIRECTION]


@pytest.mark.parametrize(("mean", "alpha"), [(0.4, 0.025), (0.08, 0.025), (0.0, 0.05)])
def test_intervals_are_at_a_shared_alpha_unless_they_refute(mean, alpha):
    m = over_seeds(**{SIZE: mean})
    claim = claims(m)["divergence"]
    size = claim.components[0]
    expected = stats.ttest_1samp(m.effects[SIZE].x_U3[:, 0], 0).confidence_interval(1 - alpha)
    assert (size.low, size.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def with_kept(m: Measurements, **kept: float) -> Measurements:
    """Return the experiment with these shares of its effects left at the end."""
    effects = {**m.effects}
    for name, share in kept.items():
        effects[name] = replace(effects[name], x_U3=effects[name].x_U3 * [1, 1, share])
    return replace(m, effects=effects)


@pytest.mark.parametrize(
    ("kept", "status", "estimate", "components"),
    [
        ({}, SUPPORTED, 1.0, [BOTTOM, SIZE, DIRECTION]),
        ({SIZE: 0.8}, SUPPORTED, 0.8, [BOTTOM, SIZE, DIRECTION]),
        ({SIZE: 0.3, DIRECTION: 0.2}, REFUTED, 0.2, [BOTTOM, SIZE, DIRECTION]),
    ],
)
def test_of_the_shares_the_smallest_is_shown(kept, status, estimate, components):
    claim = claims(with_kept(over_seeds(bottom=0.4, size=0.4, direction=0.4), **kept))["sustainment"]
    assert (claim.status, claim.unit, claim.threshold) == (status, "kept", 0.5)
    assert claim.estimate == pytest.approx(estimate)
    assert [part.name for part in claim.components] == components


def test_a_collapse_shows_no_effect_that_noise_may_have_shrunk():
    m = with_kept(over_seeds(bottom=0.4, direction=0.4), bottom=0.4, direction=0.1)
    claim = claims(replace(m, noisy=True))["sustainment"]
    assert claim.reason == Reason.COLLAPSES
    assert [part.name for part in claim.components] == [BOTTOM]
    assert claim.estimate == pytest.approx(0.4)


def test_as_many_seeds_as_said_decide_with_a_power_of_80_percent():
    """Repeat the experiment with the seeds that the claim asks for, with effects of the same mean and spread."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=6)
    x = 0.14 + 0.1 * (x - x.mean()) / x.std(ddof=1)
    m = replace(over_seeds(), effects={BOTTOM: Effect(BOTTOM, MARGINS[BOTTOM], False, np.stack([x] * 3, axis=1))})
    claim = claims(m)["awakening"]
    assert claim.reason == Reason.BOTH_SIDES_OF_MARGIN
    again = []
    for _ in range(2000):
        drawn = np.stack([rng.normal(0.14, 0.1, claim.seeds_needed)] * 3, axis=1)
        effect = Effect(BOTTOM, MARGINS[BOTTOM], False, drawn)
        again.append(effect.beyond(0.05))
    assert 0.77 <= np.mean(again) <= 0.87


def test_one_effect_beyond_its_margin_is_enough_to_plan_for():
    """Size needs more seeds than direction does; both are tested at a shared alpha."""
    z = np.array([-1.2, -0.6, -0.1, 0.1, 0.6, 1.2]) / np.std([-1.2, -0.6, -0.1, 0.1, 0.6, 1.2], ddof=1)
    spread = {SIZE: (0.2, 0.3), DIRECTION: (0.15, 0.1)}
    effects = {
        name: Effect(name, MARGINS[name], name in TWO_SIDED, np.stack([mean + sd * z] * 3, axis=1))
        for name, (mean, sd) in spread.items()
    }
    claim = claims(replace(over_seeds(), effects=effects))["divergence"]
    needed = {name: seeds_that_decide(mean, sd, MARGINS[name], alpha=0.025) for name, (mean, sd) in spread.items()}
    assert claim.seeds_needed == needed[DIRECTION] < needed[SIZE]


def test_claims_of_several_runs_name_no_run_and_those_of_one_do():
    m = over_seeds()
    assert {claim.run for claim in claims_of(m, RUNS, {})} == {"simulated"}
    two = claims_of(m, [RUNS[0], replace(RUNS[0], id="b")], {})
    assert {claim.run for claim in two} == {None}
    assert {(claim.units, claim.replicate) for claim in two} == {(6, "seed")}
    assert {claim.replicate for claim in claims_of(replace(m, single=True), RUNS, {})} == {"expert"}


def test_the_problem_of_the_first_invalid_run_is_the_reason():
    m = replace(over_seeds(), effects={}, runs=2, without_verdict=2, units=0, valid=())
    runs = [RUNS[0], replace(RUNS[0], id="b")]
    for claim in claims_of(m, runs, {"b": "zero norms (zero_norms)"}):
        assert claim.because.endswith("2 of 2 runs carry no verdict: zero norms (zero_norms)")


def test_values_are_those_that_the_interval_is_made_of():
    m = over_seeds(bottom=0.3)
    found = values_of(m)
    assert found["awakening"] == {
        run: {BOTTOM: value} for run, value in zip(m.valid, m.effects[BOTTOM].x_U3[:, 0], strict=True)
    }
    assert set(found["divergence"]["a"]) == {SIZE, DIRECTION}
    assert values_of(replace(m, effects={})) == {"awakening": {}, "divergence": {}}


@given(measurements())
@settings(derandomize=True, deadline=None)
def test_p_is_the_alpha_at_which_a_claim_is_supported_over_seeds(m):
    for name, p in p_of(m).items():
        assert 0 <= p <= 1
        if not m.single:
            effects = [e for n, e in m.effects.items() if (n == BOTTOM) == (name == "awakening")]
            for alpha in (p * 0.99, min(1.0, p * 1.01)):
                if 1e-12 < alpha < 0.9:
                    assert any(e.beyond(alpha / len(effects)) for e in effects) is (alpha > p)


@given(st.sampled_from(CLAIMS), measurements())
@settings(derandomize=True, deadline=None)
def test_the_order_of_seeds_changes_nothing(name, m):
    if m.single:
        return
    turned = {n: replace(e, x_U3=e.x_U3[::-1]) for n, e in m.effects.items()}
    before, after = claims(m)[name], claims(replace(m, effects=turned))[name]
    assert (before.status, before.reason) == (after.status, after.reason)
