"""Intervals against slower formulas, and their coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.support.simulated_runs import ar1
from validation.analysis.statistics import across_runs, batched, mean_weights, more_points, third_weights


def obvious_interval(series, weights, trend):
    """Return the interval of docs/verdict.md, line by line, with loops and no shortcuts."""
    batches = len(weights)
    size = len(series) // batches
    kept = list(series[len(series) - size * batches :])
    means = [sum(kept[b * size : (b + 1) * size]) / size for b in range(batches)]
    design = np.array([[b**power for power in range(trend)] for b in range(batches)], dtype=float)
    residuals = np.array(means) - design @ np.linalg.lstsq(design, np.array(means), rcond=None)[0]
    rss = sum(u * u for u in residuals)
    lag = sum(residuals[b] * residuals[b + 1] for b in range(batches - 1)) / rss
    r = min(max(lag + (trend + (trend + 2) * lag) / batches, 0), 0.99)
    n_eff = batches * (1 - r) / (1 + r)
    df = max(1, n_eff - trend) if n_eff >= 4 else 1
    se = math.sqrt(rss / (batches - trend) * sum(w * w for w in weights) * (1 + r) / (1 - r))
    mid = sum(w * y for w, y in zip(weights, means, strict=True))
    half = stats.t.ppf(0.975, df) * se
    return mid, mid - half, mid + half, n_eff, (stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)) * se


@pytest.mark.parametrize(
    ("weights", "trend"), [(mean_weights(), 1), (third_weights(-1, 1), 3), (third_weights(-0.5, 1), 3)]
)
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_interval_is_the_formula_of_the_documentation(weights, trend, rho):
    series = ar1(np.random.default_rng(3), 517, rho=rho, sd=1.0) + np.linspace(0, 1, 517)
    mine = batched(series, trend=trend).contrast(weights)
    expected = obvious_interval(series, weights, trend)
    assert (mine.mid, mine.low, mine.high, mine.effective, mine.detectable) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rho", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("steps", [200, 1000])
def test_an_autocorrelated_series_without_effect_is_rarely_outside_its_interval(rho, steps):
    rng = np.random.default_rng(11)
    above = sum(batched(ar1(rng, steps, rho=rho, sd=0.3)).mean().low > 0 for _ in range(400))
    # Promised: 2.5 % on each side; a t-test over the steps would be wrong in 15 to 40 % of these.
    assert above / 400 < 0.06


def test_a_clear_effect_is_found():
    series = 0.4 + ar1(np.random.default_rng(5), 1000, rho=0.9, sd=0.3)
    assert batched(series).mean().low > 0


def test_a_constant_series_is_known_exactly():
    estimate = batched(np.full(200, 0.3)).mean()
    assert (estimate.low, estimate.high) == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize("points", [0, 1, 19])
def test_fewer_points_than_batches_decide_nothing(points):
    estimate = batched(np.ones(points)).mean()
    assert (estimate.low, estimate.high, estimate.points) == (-math.inf, math.inf, points)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(-5, 5), st.floats(0.01, 100))
def test_shifting_and_scaling_the_series_shifts_and_scales_the_interval(seed, shift, factor):
    series = ar1(np.random.default_rng(seed), 300, rho=0.7, sd=1.0)
    before, after = batched(series).mean(), batched(shift + factor * series).mean()
    assert after.low == pytest.approx(shift + factor * before.low, rel=1e-6, abs=1e-9)
    assert after.high == pytest.approx(shift + factor * before.high, rel=1e-6, abs=1e-9)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.floats(-2, 2), st.floats(0, 2))
def test_the_magnitude_of_an_interval_never_loses_a_value_it_held(mid, half):
    estimate = batched(np.full(20, mid)).mean()
    wide = type(estimate)(mid, mid - half, mid + half, 20, 20.0, 0.0).absolute()
    for value in np.linspace(mid - half, mid + half, 7):
        assert wide.low - 1e-12 <= abs(value) <= wide.high + 1e-12


def test_the_interval_over_runs_is_students():
    values = np.array([1.0, 1.2, 0.9, 1.4])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert (across_runs(values).low, across_runs(values).high) == pytest.approx((low, high))


def test_one_run_has_an_infinite_interval_over_runs():
    assert across_runs(np.array([1.5])).low == -math.inf


def test_the_predicted_number_of_points_would_decide():
    rng = np.random.default_rng(4)
    short = 0.15 + ar1(rng, 400, rho=0.5, sd=0.5)
    effect = batched(short).mean()
    more = more_points(effect, 0.05)
    assert effect.low < 0.05 < effect.high
    whole = np.concatenate([short - short.mean() + effect.mid] * math.ceil(1 + more / 400))  # the same, only longer
    assert batched(whole).mean().low > 0.05


def test_no_number_of_points_narrows_the_spread_between_draws():
    effect = batched(0.15 + ar1(np.random.default_rng(4), 400, rho=0.5, sd=0.1)).mean()
    assert more_points(effect.widened(0.2), 0.05) is None


def test_an_independent_uncertainty_adds_in_squares():
    effect = batched(ar1(np.random.default_rng(4), 400, rho=0.5, sd=0.1)).mean()
    wide = effect.widened(0.3)
    assert wide.high - wide.mid == pytest.approx(math.hypot(effect.high - effect.mid, 0.3))
    assert wide.mid - wide.low == pytest.approx(math.hypot(effect.mid - effect.low, 0.3))


@pytest.mark.parametrize("life", [1 / 8, 1 / 4, 1 / 2])
def test_a_steady_decay_does_not_count_as_noise(life):
    time = np.linspace(0, 1, 9000)
    series = 0.7 * 2 ** (-time / life) + ar1(np.random.default_rng(6), 9000, rho=0.5, sd=0.04)
    change = batched(series, trend=3).contrast(third_weights(-1, 1))
    level = batched(series).mean()
    assert change.high - change.low < 0.03  # a parabola alone: 0.1 to 1.1
    assert level.high - level.low < 0.01  # a level alone: 2.6 to 10


@pytest.mark.parametrize("steps", [180, 900])
def test_slow_noise_is_not_taken_for_a_trend(steps):
    rng = np.random.default_rng(7)
    outside = [batched(ar1(rng, steps, rho=0.99, sd=0.3)).mean() for _ in range(600)]
    assert np.mean([not e.low <= 0 <= e.high for e in outside]) < 0.1


def test_related_series_raise_a_low_correlation_found_by_chance():
    rng = np.random.default_rng(8)

    def misses(related):
        wrong = 0
        for _ in range(400):
            series = [ar1(rng, 180, rho=0.99, sd=0.3) for _ in range(3)]
            estimates = [batched(one, related=series if related else ()).mean(0.05 / 3) for one in series]
            wrong += any(not e.low <= 0 <= e.high for e in estimates)
        return wrong / 400

    assert misses(related=True) < 0.1
    assert misses(related=False) > 0.1
