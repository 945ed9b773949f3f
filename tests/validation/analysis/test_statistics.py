"""Page's test and the slopes of seeds against the library and loops, and numbers that JSON can hold."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from validation.analysis.statistics import dose_response, exp, finite


def test_pages_test_and_the_slopes_agree_with_the_library_and_with_loops():
    rng = np.random.default_rng(0)
    table, doses = rng.normal(size=(5, 4)) + np.arange(4), np.array([0.0, 0.5, 1.0, 2.0])
    found = dose_response(table, doses)
    assert found.p == pytest.approx(stats.page_trend_test(table).pvalue)
    slopes = [stats.linregress(doses, row).slope for row in table]
    expected = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    assert (found.slope.mid, found.slope.low, found.slope.high) == pytest.approx(
        (np.mean(slopes), expected.low, expected.high)
    )


@pytest.mark.parametrize("shape", [(1, 4), (3, 2)])
def test_a_trend_needs_two_seeds_and_three_doses(shape):
    with pytest.raises(ValueError, match="two seeds and three doses"):
        dose_response(np.zeros(shape), np.arange(shape[1]))


@pytest.mark.parametrize("value", [-1e300, -3.0, 0.0, 1.0, 699.0, 701.0, 1e300, math.inf, -math.inf])
def test_the_exponential_never_overflows(value):
    assert exp(value) == (math.inf if value > 700 else pytest.approx(np.exp(value)))


@pytest.mark.parametrize(("value", "kept"), [(1.5, 1.5), (math.nan, None), (math.inf, None), (np.float64(2), 2.0)])
def test_json_holds_no_infinity(value, kept):
    assert finite(value) == kept
    assert json.loads(json.dumps(finite(value), allow_nan=False)) == kept
