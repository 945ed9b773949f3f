"""Ticks at round factors, and labels that do not overlap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.charts.ticks import factor_ticks, log_ticks, spread_labels


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.98, 1.18, [1, 1.05, 1.1, 1.15]),
        (0.9, 1.12, [0.9, 0.95, 1, 1.05, 1.1]),
        (0.48, 2.07, [0.5, 1, 1.5, 2]),
        (0.3, 3.4, [0.5, 1, 2]),
        (1e-6, 30, [1e-6, 1e-4, 1e-2, 1]),
    ],
)
def test_ticks_are_round_factor_ticks(low, high, ticks):
    assert factor_ticks(low, high) == pytest.approx(ticks)


@given(st.floats(1e-9, 1e9), st.floats(1.001, 1e9))
def test_ticks_lie_on_the_axis_and_are_few(low, fold):
    ticks = factor_ticks(low, low * fold)
    assert 1 <= len(ticks) <= 7
    assert all(low * (1 - 1e-6) <= tick <= low * fold * (1 + 1e-6) for tick in ticks)
    assert (1.0 in ticks) or not low <= 1 <= low * fold


@given(st.floats(1e-30, 1e9), st.floats(1.001, 1e30))
def test_a_logarithmic_axis_has_labels_at_powers_of_ten_or_at_round_factors(low, fold):
    ticks = log_ticks(low, low * fold)
    inside = [tick for tick in ticks.values if low * (1 - 1e-6) <= tick <= low * fold * (1 + 1e-6)]
    powers = [tick for tick in inside if np.isclose(np.log10(tick) % 1, (0, 1), atol=1e-9).any()]
    assert inside
    if ticks.decades:
        assert 2 <= len(powers) <= 8
        assert len(inside) >= 9  # with minor ticks between the powers
    else:
        assert ticks.values == tuple(factor_ticks(low, low * fold))
        assert len(powers) < 2 or fold > 1e7


def test_ticks_stay_while_the_values_change_a_little():
    assert log_ticks(0.004, 3.1) == log_ticks(0.008, 2.7)
    assert log_ticks(0.004, 3.1).values[:3] == (0.001, 0.002, 0.003)


PLACES = st.lists(st.floats(-100, 100), min_size=0, max_size=30)


@given(PLACES, st.floats(0.1, 5))
def test_labels_never_overlap(values, gap):
    placed = np.sort(spread_labels(np.array(values), gap))
    assert (np.diff(placed) >= gap * (1 - 1e-9)).all()


@given(PLACES, st.floats(0.1, 5))
def test_labels_stay_inside_the_plot_and_in_order(values, gap):
    values = np.array(values)
    placed = spread_labels(values, gap, low=-100, high=100)
    assert (np.argsort(placed, kind="stable") == np.argsort(values, kind="stable")).all()
    if len(values):
        assert -100 - 1e-9 <= placed.min() <= placed.max() <= 100 + 1e-9
        assert (np.diff(np.sort(placed)) >= min(gap, 200 / max(1, len(values) - 1)) * (1 - 1e-9)).all()


@given(st.lists(st.floats(0, 10), min_size=2, max_size=6), st.floats(0.1, 3), st.integers(0, 2**32 - 1))
def test_no_other_places_lie_nearer_to_the_values(values, gap, seed):
    values, rng = np.sort(values), np.random.default_rng(seed)
    placed = spread_labels(values, gap)
    for _ in range(20):
        other = np.cumsum([values[0] + rng.normal(), *gap + rng.exponential(gap, len(values) - 1)])
        assert np.square(placed - values).sum() <= np.square(other - values).sum() + 1e-9


def test_labels_are_moved_apart_and_keep_their_order():
    values = np.array([0.5, 0.50, 0.51, 3.0])
    placed = spread_labels(values, 0.2)
    assert np.diff(np.sort(placed)).min() > 0.19
    assert np.argsort(placed, kind="stable").tolist() == np.argsort(values, kind="stable").tolist()
    assert placed[3] == 3.0
