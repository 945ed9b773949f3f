"""The words of every reason: short headlines, and sentences without a number that is none."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic.contract.schema import MIXTURES
from tests.support.measurements import Z, measurements, over_seeds
from tests.support.simulated_runs import simulated_run
from validation.analysis.effects import BOTTOM, DIRECTION, LOAD, SIZE
from validation.analysis.measurements import Effect, Measurements
from validation.verdict.claims import CLAIMS, Claim, Reason
from validation.verdict.experiment_claims import claims_of
from validation.verdict.words.reasons import MOST_WORDS

RUN = simulated_run(steps=12, perturbed=2, control=1)
SURE = over_seeds(bottom=0.4, size=0.4, direction=0.3)
NONE = over_seeds()
OVER_GROUPS = {Reason.SAME_IN_EVERY_GROUP, Reason.GROUPS_DIFFER, Reason.AS_WRITTEN}
OF_PEERS = {Reason.NO_PERTURBATION, Reason.PAIRS_NOT_COMPARED}  # see test_distinctness.py


def fading(share: float) -> Measurements:
    """Return effects of which a share is left at the end."""
    effects = {name: replace(one, x_U3=one.x_U3 * [1, 1, share]) for name, one in SURE.effects.items()}
    return replace(SURE, effects=effects)


def near(margins: float) -> Measurements:
    """Return effects at so many of their margins, of a wide spread."""
    effects = {
        name: replace(one, x_U3=np.stack([margins * one.margin + one.margin * Z] * 3, axis=1))
        for name, one in NONE.effects.items()
    }
    return replace(NONE, effects=effects)


def shares(mean: float) -> Effect:
    """Return the log of the routing share of perturbed experts, relative to that of control experts."""
    return Effect(LOAD, math.log(1.1), True, np.stack([mean + 0.02 * Z] * 3, axis=1))


def exchangeable(m: Measurements) -> Measurements:
    """Return effects as large as those of a tenth of all exchanges of roles."""
    return replace(m, effects={name: replace(one, exchanges=(1.0, 0.1)) for name, one in m.effects.items()})


FEW, MANY = np.array([0.20, 0.21, 0.22]), np.linspace(-0.5, 0.5, 41)
ONE_RUN = replace(  # three perturbed experts that agree, among many controls that do not
    SURE,
    single=True,
    runs=1,
    units=3,
    units_needed=3,
    effects={n: replace(e, x_U3=np.stack([FEW] * 3, 1), y_V3=np.stack([MANY] * 3, 1)) for n, e in SURE.effects.items()},
)
CLOSE = replace(NONE, effects={**near(2.15).effects, BOTTOM: near(1.95).effects[BOTTOM]})
SATURATED = Effect(DIRECTION, 0.9, False, np.stack([1 + 0.02 * Z] * 3, axis=1))
ALL, LEVELS = CLAIMS, CLAIMS[:2]
EXAMPLES = [
    (Reason.TOO_FEW_VALID_RUNS, ALL, replace(SURE, runs=9, without_verdict=3)),
    (Reason.TOO_FEW_VALID_RUNS, ALL, Measurements(0.05, {}, 0, 3, single=True, without_verdict=1)),
    (Reason.NO_REPLICAS, ALL, replace(SURE, copies="seed 1 is there twice")),
    (Reason.SHAM_RUNS_SHOW_AN_EFFECT, ALL, replace(SURE, sham_effects={BOTTOM: SURE.effects[BOTTOM]})),
    (Reason.NOTHING_PERTURBED, ALL, replace(SURE, sham=True)),
    (Reason.ONE_COMMON_GRADIENT, ALL, replace(SURE, common_gradients=6)),
    (Reason.NOTHING_TO_COMPARE, ALL, replace(SURE, control=None)),
    (Reason.TOO_FEW_PLANNED_ROWS, ALL, replace(SURE, planned_rows=False)),
    (Reason.BEFORE_FIRST_LOOK, ALL, replace(SURE, effects={}, bins=0)),
    (Reason.TOO_FEW_SEEDS, ALL, replace(SURE, units=5)),
    (Reason.TOO_FEW_EXPERTS, ALL, replace(SURE, single=True, units=2, units_needed=3)),
    (Reason.ABOVE_MARGIN, LEVELS, SURE),
    (Reason.SHARES_NOT_LOGGED, ("divergence",), replace(SURE, shares_missing=True)),
    (Reason.MEANS_OVER_LAYERS, ALL, replace(SURE, means_only=True)),
    (Reason.ROUTING_DIFFERS, ALL, replace(SURE, load=shares(-0.4))),
    (Reason.ROUTING_DIFFERS, ("awakening", "sustainment"), replace(SURE, shares_missing=True)),
    (Reason.ODD_EXPERT, LEVELS, exchangeable(SURE)),
    (Reason.ODD_EXPERT, LEVELS, ONE_RUN),
    (Reason.DIRECTION_NOT_MEASURED, ("divergence",), replace(NONE, effects={BOTTOM: NONE.effects[BOTTOM]})),
    (Reason.DIRECTION_NOT_MEASURED, ("divergence",), replace(NONE, effects={}, unclear=True)),
    (Reason.DIRECTION_SATURATED, ("divergence",), replace(NONE, control_direction=SATURATED)),
    (Reason.NOISE_NOT_CORRECTED, ("divergence",), replace(NONE, noisy=True)),
    (Reason.INSIDE_MARGIN, LEVELS, NONE),
    (Reason.BOTH_SIDES_OF_MARGIN, LEVELS, near(1.0)),
    (Reason.BOTH_SIDES_OF_MARGIN, ("awakening",), replace(NONE, effects={})),
    (Reason.DEPENDS_ON_INVALID_RUNS, ALL, replace(CLOSE, runs=7, without_verdict=1)),
    (Reason.NOT_FINISHED, ("sustainment",), replace(SURE, bins=4)),
    (Reason.COLLAPSES, ("sustainment",), fading(0.1)),
    (Reason.LASTS, ("sustainment",), fading(0.9)),
    (Reason.NOTHING_TO_SUSTAIN, ("sustainment",), NONE),
    (Reason.SHARE_UNDECIDED, ("sustainment",), fading(0.5)),
]


def assert_readable(claim: Claim) -> None:
    assert 3 <= len(claim.headline.split()) <= MOST_WORDS
    assert claim.headline[0].isupper()
    assert not claim.headline.endswith(".")
    for words in (claim.headline, claim.because):
        assert not re.search(r"\bnan|\binf\b|[{}]|None|-∞|  |-0\.00\d*\b(?!\d)|;\s*$", words), words
    assert len(claim.because.split()) >= 4
    assert not claim.because.endswith((".", ";", ","))


@pytest.mark.parametrize(
    ("reason", "names", "m"), EXAMPLES, ids=lambda value: str(value) if isinstance(value, Reason) else ""
)
def test_every_reason_has_a_headline_and_a_sentence_for_every_claim_that_can_have_it(reason, names, m):
    for claim in claims_of(m, [RUN], {}):
        assert (claim.reason == reason) is (claim.name in names)
        assert_readable(claim)


def test_there_is_an_example_of_every_reason():
    assert {reason for reason, _, _ in EXAMPLES} == {*Reason} - OVER_GROUPS - OF_PEERS


@given(measurements(), st.sampled_from((*MIXTURES, None)), st.sampled_from((None, 1.0, 1.5)))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_experiment_is_told_in_broken_words(m, mixture, gain):
    run = replace(RUN, facts={"mixture": mixture, "config.positive_control": gain})
    for claim in claims_of(m, [run], {}):
        assert_readable(claim)


def words(m: Measurements, name: str, **facts) -> str:
    run = replace(RUN, facts={"config.merge": "example", **facts})
    return {claim.name: claim.because for claim in claims_of(m, [run], {})}[name]


def test_a_sentence_names_the_numbers_the_comparison_and_the_units():
    assert words(SURE, "awakening") == (
        "relative to middle weights, bottom weights receive 1.49x [1.47, 1.52] the gradient of the control experts "
        "over 6 seeds; the whole interval lies beyond the threshold of 1.10x"
    )
    twins = words(replace(SURE, control="sham_run", twins=True), "awakening")
    assert "the gradient of the same experts in the sham runs over 6 seeds" in twins
    beside_shams = words(replace(SURE, twins=True), "awakening")
    assert "control experts over 6 seeds, beyond what the sham runs show" in beside_shams
    assert "the gradient of the clean expert" in words(replace(SURE, control="frozen_routing"), "awakening")
    assert words(fading(0.9), "sustainment").startswith("at the end, 90% [")
    assert "an effect of 1.10x is ruled out" in words(NONE, "awakening")
    assert "stays open" in words(near(1.0), "awakening")


def test_a_direction_says_on_which_side_of_the_control_it_lies():
    assert words(over_seeds(direction=0.3), "divergence").startswith("the direction difference is 0.3")
    assert re.search(
        r"is 0\.3\d\d above that of the control experts \[\+0\.\d+, \+0\.\d+\]",
        words(over_seeds(direction=0.3), "divergence"),
    )
    closer = replace(over_seeds(direction=-0.3), effects={DIRECTION: over_seeds(direction=-0.3).effects[DIRECTION]})
    assert re.search(r"is 0\.\d+ below that of the control experts \[-0\.\d+, -0\.\d+\]", words(closer, "divergence"))


def test_an_open_size_is_told_with_both_of_its_thresholds():
    open_size = replace(NONE, effects={SIZE: near(1.0).effects[SIZE], DIRECTION: NONE.effects[DIRECTION]})
    assert words(open_size, "divergence").endswith("whether it lies outside 0.91x to 1.10x stays open")


def test_a_size_below_the_controls_is_compared_to_the_lower_threshold():
    shrunk = over_seeds(size=-0.4)
    assert words(shrunk, "divergence").startswith("the gradients are 0.67x [")
    assert words(shrunk, "divergence").endswith("beyond the threshold of 0.91x")


@pytest.mark.parametrize(
    ("source", "corrected", "facts", "note"),
    [
        ("isolated", True, {}, "over 6 seeds; the whole"),
        ("isolated", False, {}, "over 6 seeds (not corrected for noise); the whole"),
        ("merged", True, {}, "over 6 seeds (by the gradients that the optimizer uses); the whole"),
        ("merged", False, {}, "over 6 seeds (by the gradients that the optimizer uses, not corrected for noise); the"),
        ("merged", True, {"mixture": "top_k"}, "over 6 seeds (by the gradients that the optimizer uses); the whole"),
        ("merged", False, {"mixture": "separate"}, "over 6 seeds (not corrected for noise); the whole"),
    ],
)
def test_merged_and_uncorrected_gradients_are_named(source, corrected, facts, note):
    m = replace(over_seeds(direction=0.3), source=source, corrected=corrected)
    assert note in words(m, "divergence", **facts)


def test_the_bottom_level_is_never_corrected_and_does_not_say_so():
    assert "noise" not in words(replace(SURE, source="isolated", corrected=False), "awakening")


def test_two_reasons_in_the_design_are_both_said():
    both = replace(SURE, common_gradients=6, control=None)
    assert words(both, "awakening").endswith("there is no control either")


def test_the_estimate_of_too_few_seeds_is_shown_all_the_same():
    few = replace(SURE, units=3, effects={n: replace(e, x_U3=e.x_U3[:3]) for n, e in SURE.effects.items()})
    assert words(few, "awakening").startswith(
        "3 seeds, and 6 are needed; relative to middle weights, bottom weights receive 1."
    )
    one = replace(SURE, single=True, units=1, units_needed=3)
    assert words(one, "awakening").startswith(
        "one run with 2 perturbed experts and 1 control expert; six seeds, or 3 of each, are needed"
    )


def test_the_worst_effect_of_sham_runs_is_named():
    shams = {BOTTOM: NONE.effects[BOTTOM], SIZE: replace(SURE.effects[SIZE], x_U3=-SURE.effects[SIZE].x_U3)}
    text = words(replace(SURE, sham_effects=shams), "awakening")
    assert text.startswith("in 6 sham runs, where nothing was perturbed, the size of the gradients is 0.67x [")


def test_a_mean_over_layers_on_opposite_sides_is_said_to_be_one():
    opposed = replace(NONE, effects={n: replace(e, opposed=(-0.5, 0.5)) for n, e in NONE.effects.items()})
    assert words(opposed, "awakening").endswith("a mean over layers that differ, from 0.61x in one to 1.65x in another")
    assert all("layers" not in claim.because for claim in claims_of(NONE, [RUN], {}))


def test_what_stays_open_is_told_and_not_an_effect_that_is_ruled_out():
    """The direction lies nearer to its margin, and is inside of it; the size may be beyond."""
    direction, size = (
        replace(NONE.effects[name], x_U3=np.stack([mean + sd * Z] * 3, axis=1))
        for name, mean, sd in ((DIRECTION, 0.001, 0.03), (SIZE, 0.09, 0.17))
    )
    m = replace(NONE, effects={SIZE: size, DIRECTION: direction})
    assert direction.inside(0.05)
    assert words(m, "divergence").startswith("the gradients are 1.09x")
