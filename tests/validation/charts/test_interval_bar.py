"""The bar of a claim: the order of its marks, and ends that fade where the interval is unbounded."""

import re

import pytest

from validation.charts.interval_bar import interval_bar
from validation.verdict.claims import Claim


def place(bar: str, name: str) -> float:
    """Return the position of a part, in per cent."""
    return float(re.search(rf'class="{name}" style="position:absolute;left:([\d.]+)%', bar)[1])


def faded_ends(bar: str) -> int:
    """Return the number of ends of the interval that fade."""
    colors = re.search(r'linear-gradient\(90deg,(.*?)\)"', bar)[1]
    return colors.startswith("transparent,") + colors.endswith(",transparent")


@pytest.mark.parametrize(
    ("unit", "estimate", "low", "high", "threshold", "order"),
    [
        ("ratio", 1.3, 1.2, 1.4, 1.1, ["none", "limit", "interval", "point"]),
        ("ratio", 0.8, 0.75, 0.85, 0.91, ["interval", "point", "limit", "none"]),
        ("ratio", 0.97, 0.85, 1.2, 0.91, ["interval", "limit", "point", "none"]),
        ("1 - cosine", 0.15, 0.1, 0.18, 0.05, ["none", "limit", "interval", "point"]),
        ("1 - cosine", -0.02, -0.03, 0.01, 0.05, ["interval", "point", "none", "limit"]),
        ("kept", 0.3, 0.2, 0.4, 0.5, ["none", "interval", "point", "limit"]),
    ],
)
def test_marks_stand_in_the_order_of_their_values(unit, estimate, low, high, threshold, order):
    bar = interval_bar(Claim("x", "", "", estimate=estimate, low=low, high=high, threshold=threshold, unit=unit))
    assert sorted(order, key=lambda name: place(bar, name)) == order
    assert faded_ends(bar) == 0


@pytest.mark.parametrize(("low", "high", "faded"), [(None, None, 2), (None, 1.4, 1), (1.2, None, 1), (-1e9, 1e9, 2)])
@pytest.mark.parametrize("unit", ["ratio", "kept"])
def test_an_end_that_is_unbounded_or_out_of_sight_fades(low, high, faded, unit):
    bar = interval_bar(Claim("x", "", "", estimate=1.3, low=low, high=high, threshold=1.1, unit=unit))
    assert faded_ends(bar) == faded


def test_bars_of_one_unit_share_an_axis():
    def limit(estimate, high, unit="ratio", threshold=1.1):
        bar = interval_bar(Claim("x", "", "", estimate=estimate, low=0.9, high=high, threshold=threshold, unit=unit))
        return place(bar, "limit")

    assert limit(1.0, 1.2) == limit(1.9, 40.0) == limit(0.7, 1.0)
    assert limit(1.0, 1.2, threshold=3.0) < 100  # a far threshold is still on the axis


@pytest.mark.parametrize(("estimate", "end"), [(4.0, 100), (0.2, 0)])
def test_an_estimate_beyond_the_axis_is_an_arrow_at_its_end(estimate, end):
    bar = interval_bar(Claim("x", "", "", estimate=estimate, low=estimate, high=estimate, threshold=1.1))
    assert place(bar, "beyond") == end
    assert 'class="point"' not in bar
