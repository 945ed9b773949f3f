"""Intervals over units, compared to SciPy and to their definition, and their coverage."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from validation.analysis.intervals import (
    Interval,
    exchanged,
    fieller,
    holm,
    p_beyond,
    pooled,
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


@pytest.mark.parametrize("units", [0, 1])
def test_a_single_unit_has_no_bounds(units):
    for found in (
        student(DRAWS[:units], 0.05),
        welch(DRAWS, OTHERS[:units], 0.05),
        fieller(np.stack([DRAWS[:units]] * 2, axis=1), 0.05),
        fieller(np.stack([DRAWS] * 2, axis=1), 0.05, np.stack([DRAWS[:units]] * 2, axis=1)),
    ):
        assert (found.low, found.high) == (-math.inf, math.inf)


def test_fieller_holds_every_ratio_that_a_paired_t_test_does_not_reject():
    """The definition: last - ratio * first has a mean that may be zero."""
    rng = np.random.default_rng(2)
    first, last = rng.normal(1.0, 0.2, 9), rng.normal(0.6, 0.2, 9)
    found = fieller(np.stack([first, last], axis=1), 0.05)
    ratios = np.linspace(0.2, 1.2, 20_001)
    kept = ratios[stats.ttest_1samp(last[:, None] - ratios * first[:, None], 0).pvalue > 0.05]
    assert (found.low, found.high) == pytest.approx((kept[0], kept[-1]), abs=1e-4)


def test_fieller_of_two_groups_holds_every_ratio_that_their_means_do_not_reject():
    """The definition with the variances of both groups, and the degrees of freedom of the smaller one."""
    rng = np.random.default_rng(2)
    one, other = rng.normal((1.5, 0.9), 0.2, (4, 2)), rng.normal((0.3, 0.2), 0.1, (3, 2))
    found = fieller(one, 0.05, other)
    ratios = np.linspace(-0.5, 2, 20_001)
    left = [group[:, 1:] - ratios * group[:, :1] for group in (one, other)]
    error = np.sqrt(sum(group.var(axis=0, ddof=1) / len(group) for group in left))
    t = (left[0].mean(axis=0) - left[1].mean(axis=0)) / error
    kept = ratios[np.abs(t) < stats.t.ppf(0.975, 2)]
    assert (found.low, found.high) == pytest.approx((kept[0], kept[-1]), abs=2e-4)
    assert found.units == 7


def test_a_ratio_to_what_may_be_zero_has_no_bounds():
    first = np.array([0.1, -0.1, 0.05, -0.02, 0.03, 0.01])
    assert fieller(np.stack([first, first + 1], axis=1), 0.05).low == -math.inf


def test_the_interval_of_a_share_holds_the_truth_in_95_of_100():
    """Effects of 0.4 that end at 0.2, whose beginnings and ends go together in each seed."""
    rng = np.random.default_rng(6)
    found = []
    for _ in range(3000):
        first = rng.normal(0.4, 0.08, 8)
        found.append(fieller(np.stack([first, 0.5 * first + rng.normal(0, 0.04, 8)], axis=1), 0.05))
    assert np.mean([one.low <= 0.5 <= one.high for one in found]) == pytest.approx(0.95, abs=0.012)


NUMBERS = st.floats(-1e50, 1e50) | st.floats(-1e-50, 1e-50) | st.just(0.0)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6).map(lambda rows: np.array(rows, dtype=float).reshape(-1, 2))


@settings(derandomize=True, deadline=None, max_examples=400)
@given(PAIRS, PAIRS, st.floats(1e-4, 0.1), st.floats(1e-3, 1))
def test_numbers_of_any_size_neither_raise_nor_warn(x_U2, y_V2, alpha, margin):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [
            student(x_U2[:, 0], alpha),
            welch(x_U2[:, 0], y_V2[:, 0], alpha),
            fieller(x_U2, alpha),
            fieller(x_U2, alpha, y_V2),
        ]
        p = p_beyond(x_U2[:, 0], margin, two_sided=True)
    assert 0 <= p <= 1
    for one in found[:2]:
        assert not one.units or math.isnan(one.mid) or one.low <= one.mid <= one.high


@settings(derandomize=True, deadline=None)
@given(st.floats(-2, 2), st.floats(0, 2), st.floats(0.01, 1), st.booleans())
def test_an_interval_is_never_both_beyond_its_margin_and_inside(mid, half, margin, two_sided):
    one = Interval(mid, mid - half, mid + half, 6)
    assert not (one.beyond(margin, two_sided=two_sided) and one.inside(margin, two_sided=two_sided))


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


# -- Exchanged roles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("treated", "controls", "seeds"), [(1, 1, 6), (1, 3, 3), (2, 2, 4)])
def test_few_exchanges_of_roles_are_all_looked_at(treated, controls, seeds):
    """A second implementation walks through every assignment of the roles in every run."""
    rng = np.random.default_rng(treated)
    level_SE = rng.normal(size=(seeds, treated + controls))

    def effect(places) -> float:
        return np.mean(
            [
                np.mean([level for e, level in enumerate(run) if e in chosen])
                - np.mean([level for e, level in enumerate(run) if e not in chosen])
                for run, chosen in zip(level_SE, places, strict=True)
            ]
        )

    each_run = [*itertools.combinations(range(treated + controls), treated)]
    every = [effect(places) for places in itertools.product(each_run, repeat=seeds)]
    found = effect([range(treated)] * seeds)
    low, high = exchanged(level_SE, [treated] * seeds)
    assert low == pytest.approx(np.mean([one <= found + 1e-12 for one in every]))
    assert high == pytest.approx(np.mean([one >= found - 1e-12 for one in every]))


def test_many_exchanges_are_drawn_and_the_same_ones_each_time():
    rng = np.random.default_rng(0)
    level_SE = [rng.normal(size=experts) for experts in (70, 6, 8, 8, 9, 40)]
    found = exchanged(level_SE, [30, 3, 4, 4, 1, 20])
    assert found == exchanged(level_SE, [30, 3, 4, 4, 1, 20])
    assert all(0 < tail < 1 for tail in found)
    assert sum(found) >= 1
    shifted = [np.where(np.arange(len(level)) < 3, level + 50, level) for level in level_SE]
    assert exchanged(shifted, [3] * 6)[1] < 0.001  # no exchange reaches an effect that the role makes


def test_equal_levels_are_exchanged_without_a_difference():
    assert exchanged(np.ones((6, 4)), [2] * 6) == (1.0, 1.0)
    assert exchanged(np.full((6, 4), 1e30) * [[1, 1, 0, 0]], [2] * 6)[1] == pytest.approx(6.0**-6, abs=1e-3)


def test_the_interval_with_one_variance_is_that_of_scipy():
    rng = np.random.default_rng(3)
    x, y = rng.normal(1, 2, 4), rng.normal(0, 1, 9)
    expected = stats.ttest_ind(x, y).confidence_interval(0.9)
    found = pooled(x, y, 0.1)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert not pooled(x[:1], y, 0.1).bounded
