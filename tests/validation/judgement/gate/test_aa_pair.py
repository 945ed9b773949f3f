"""The A/A pair: which runs it is made of, and that it is the same comparison as that of a claim."""

import math

import pytest
from scipy import stats

from tests.support.simulated_runs import named, simulated_run, study
from tests.validation.judgement.gate.conftest import judged, sham_runs
from validation.analysis.run import Run
from validation.judgement.gate.aa_pair import AAPair, aa_pair


def pair_of(runs: list[Run], claim: str = "awakening") -> AAPair:
    judgement = judged(runs, claim)
    return aa_pair(judgement.verdict.deciding[0], claim, judgement.cohort, judgement.verdict.thresholds)


def test_sham_runs_are_compared_inside(made):
    found = pair_of(made(6, awakening=1.5))
    assert (found.kind, found.result, found.seeds) == ("sham_runs", "clear", 6)
    assert set(found.runs) == {f"sham {seed}" for seed in range(6)}
    sham_group = judged(made(6, awakening=1.5)).verdict.groups[-1]
    values = [parts["bottom"] for parts in sham_group.values["awakening"].values()]
    interval = stats.ttest_1samp(values, 0).confidence_interval(1 - 0.05 / len(found.effects))
    bottom = next(effect for effect in found.effects if effect.name == "bottom")
    assert (bottom.low, bottom.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))


def test_two_sham_runs_of_each_seed_are_compared_with_each_other(made):
    runs = made(6, awakening=1.5)
    found = pair_of(runs + sham_runs(6, scale=0.001))
    assert (found.kind, found.result, found.seeds, len(found.runs)) == ("sham_twins", "clear", 6, 12)
    assert pair_of(runs + sham_runs(6, scale=0.001, awakening=1.5)).result == "fails"
    assert pair_of(runs + sham_runs(5, scale=0.001)).kind == "sham_runs"


def test_the_halves_of_the_seeds_are_compared_where_nothing_is_a_sham(made):
    runs = made(8, twins=False, awakening=1.5, spread=0.05)
    found = pair_of(runs)
    assert (found.kind, found.result, found.seeds) == ("seed_halves", "clear", 8)
    values = [parts["bottom"] for parts in judged(runs).verdict.groups[0].values["awakening"].values()]
    interval = stats.ttest_ind(values[::2], values[1::2], equal_var=False).confidence_interval(0.95)
    (bottom,) = found.effects
    assert (bottom.low, bottom.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))


def test_halves_that_differ_fail():
    runs = study(8, steps=60, control=1)
    changed = [
        named(simulated_run(seed=run.seed, steps=60, control=1, awakening=2.0, facts=run.facts), run.id)
        if n % 2
        else run
        for n, run in enumerate(runs)
    ]
    found = pair_of(changed)
    assert (found.kind, found.result) == ("seed_halves", "fails")
    assert "bottom" in found.because


def test_too_few_seeds_are_no_pair(made):
    runs = made(6, awakening=1.5)
    found = pair_of([*runs[:6], *runs[6:9]])
    assert (found.kind, found.result, found.seeds) == ("sham_runs", "too_few_seeds", 3)
    alone = pair_of(runs[:1])
    assert (alone.kind, alone.result) == ("seed_halves", "too_few_seeds")


def test_without_control_experts_sham_runs_have_nothing_to_compare(made):
    runs = study(6, twins=True, steps=60, awakening=1.5)
    assert pair_of(runs).kind == "seed_halves"
