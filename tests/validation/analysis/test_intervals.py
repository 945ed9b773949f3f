"""Intervals over units, compared to SciPy and to their definition, and their coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from validation.analysis.intervals import (
    fieller,
    holm,
    p_beyond,
    paired,
    seeds_that_decide,
    student,
    welch,
)

DRAWS = np.random.default_rng(0).normal(0.2, 0.1, 8)
OTHERS = np.random.default_rng(1).normal(0.1, 0.3, 5)


def test_student_is_scipys_interval():
    expected = stats.ttest_1samp(DRAWS, 0).confidence_interval(0.95)
    found = student(DRAWS, 0.05)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mid, found.units) == (pytest.approx(DRAWS.mean()), 8)


def test_welch_is_scipys_interval():
    expected = stats.ttest_ind(DRAWS, OTHERS, equal_var=False).confidence_interval(0.95)
    found = welch(DRAWS, OTHERS, 0.05)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


LOSSES, SHAM_LOSSES = {0: 2.51, 1: 2.48, 2: 2.55, 3: 2.50}, {3: 2.49, 1: 2.47, 0: 2.52, 9: 0.0}


def test_paired_is_scipys_interval_over_the_common_seeds():
    values = [[losses[seed] for seed in (0, 1, 3)] for losses in (LOSSES, SHAM_LOSSES)]
    expected = stats.ttest_rel(*values).confidence_interval(0.95)
    found = paired(LOSSES, SHAM_LOSSES, 0.05)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mid, found.units) == (pytest.approx(np.subtract(*values).mean()), 3)


def test_in_a_pair_a_loss_that_is_not_finite_is_missing():
    assert paired(LOSSES | {0: math.nan}, SHAM_LOSSES, 0.05) == paired({1: 2.48, 3: 2.50}, SHAM_LOSSES, 0.05)
    assert paired(LOSSES | {0: math.inf}, SHAM_LOSSES, 0.05).units == 2


@pytest.mark.parametrize("losses", [{}, {0: 2.5}, {0: 2.5, 2: 2.4}, {0: 2.5, 1: math.nan}])
def test_fewer_than_two_pairs_have_no_interval(losses):
    assert paired(losses, SHAM_LOSSES, 0.05) is None


@pytest.mark.parametrize("units", [0, 1])
def test_a_single_unit_has_no_bounds(units):
    for found in (
        student(DRAWS[:units], 0.05),
        welch(DRAWS, OTHERS[:units], 0.05),
        fieller(*[DRAWS[:units]] * 2, 0.05),
    ):
        assert (found.low, found.high) == (-math.inf, math.inf)


def test_fieller_holds_every_ratio_that_a_paired_t_test_does_not_reject():
    """The definition: last - ratio * first has a mean that may be zero."""
    rng = np.random.default_rng(2)
    first, last = rng.normal(1.0, 0.2, 9), rng.normal(0.6, 0.2, 9)
    found = fieller(first, last, 0.05)
    ratios = np.linspace(0.2, 1.2, 20_001)
    kept = ratios[stats.ttest_1samp(last[:, None] - ratios * first[:, None], 0).pvalue > 0.05]
    assert (found.low, found.high) == pytest.approx((kept[0], kept[-1]), abs=1e-4)


def test_a_ratio_to_what_may_be_zero_has_no_bounds():
    first = np.array([0.1, -0.1, 0.05, -0.02, 0.03, 0.01])
    assert fieller(first, first + 1, 0.05).low == -math.inf


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
def test_p_is_the_alpha_at_which_the_interval_just_reaches_the_margin(two_sided, sign):
    p = p_beyond(sign * DRAWS, 0.1, two_sided=two_sided)
    if sign < 0 and not two_sided:
        assert p == 1.0
        return
    assert student(sign * DRAWS, p * 1.01).beyond(0.1, two_sided=two_sided)
    assert not student(sign * DRAWS, p * 0.99).beyond(0.1, two_sided=two_sided)


def test_holm_is_the_step_down_procedure():
    """Reject the smallest at alpha / G, the next at alpha / (G - 1), ... and stop at the first that stays."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        p = rng.uniform(0, 0.1, 5).tolist()
        rejected, alpha = set(), 0.05
        for place, number in enumerate(sorted(range(5), key=p.__getitem__)):
            if p[number] > alpha / (5 - place):
                break
            rejected.add(number)
        assert {number for number, adjusted in enumerate(holm(p)) if adjusted <= alpha} == rejected


def test_no_group_has_nothing_to_adjust():
    assert holm([]) == []


@pytest.mark.parametrize(("units", "spread"), [(6, 0.1), (12, 0.3)])
def test_the_interval_over_seeds_holds_the_truth_in_95_of_100(units, spread):
    rng = np.random.default_rng(4)
    found = [student(rng.normal(0.2, spread, units), 0.05) for _ in range(4000)]
    assert np.mean([one.low <= 0.2 <= one.high for one in found]) == pytest.approx(0.95, abs=0.012)


def test_as_many_seeds_as_said_decide_with_a_power_of_80_percent():
    """Simulate a true effect of 1.3x, with sd 0.14 over seeds, against the margin 1.10."""
    seeds = seeds_that_decide(math.log(1.3), 0.14, math.log(1.1), alpha=0.05)
    rng = np.random.default_rng(5)
    found = [student(rng.normal(math.log(1.3), 0.14, seeds), 0.05).low > math.log(1.1) for _ in range(4000)]
    assert seeds in (8, 9)
    assert 0.78 <= np.mean(found) <= 0.9


def test_no_number_of_seeds_decides_an_effect_at_the_margin():
    assert seeds_that_decide(0.1, 0.1, 0.1, alpha=0.05) is None
    assert seeds_that_decide(0.1001, 1.0, 0.1, alpha=0.05) is None
