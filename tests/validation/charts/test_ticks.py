"""Ticks at round factors, and labels that do not overlap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.charts.ticks import factor_ticks, spread_labels


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


def test_labels_are_moved_apart_and_keep_their_order():
    values = np.array([0.5, 0.50, 0.51, 3.0])
    placed = spread_labels(values, 0.2)
    assert np.diff(np.sort(placed)).min() > 0.19
    assert np.argsort(placed, kind="stable").tolist() == np.argsort(values, kind="stable").tolist()
    assert placed[3] == 3.0
