"""The grid of planned rows and the bins of time, compared to counts over every step, and with numbers from anyone."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validation.analysis.bins import BINS, Bins, Plan, bins_of, plan_of

DERANDOMIZED = settings(derandomize=True, deadline=None, max_examples=300)


def plan(planned=600, every=2, warmup=60.0, first=0) -> Plan:
    return Plan(first, every, planned, warmup)


def binned(steps_T, *, planned, frequency=None, warmup_steps=0.0, sound_T=None) -> Bins:
    steps_T = np.asarray(steps_T, dtype=np.int64)
    known = plan_of(steps_T, planned=planned, frequencies=(frequency,), share=0.1, warmup_steps=warmup_steps)
    sound_T = np.ones(len(steps_T), dtype=bool) if sound_T is None else sound_T
    return bins_of(known, steps_T, sound_T, np.zeros((1, len(steps_T))), share=0.8)


@DERANDOMIZED
@given(st.integers(1, 400), st.integers(1, 50), st.floats(0, 1 / 3), st.integers(0, 20))
def test_the_planned_rows_of_a_bin_are_the_grid_steps_in_it(planned, every, warmup, first):
    known = plan(planned, every, warmup * planned, first)
    grid = range(first, max(planned, first), every)
    edges = known.edges
    counted = [sum(edges[k] <= step < edges[k + 1] for step in grid) for k in range(BINS)]
    assert known.rows_K.tolist() == counted


@DERANDOMIZED
@given(st.integers(1, 400), st.integers(1, 50), st.floats(0, 1 / 3), st.integers(0, 400))
def test_a_bin_is_complete_when_no_later_step_of_the_grid_lies_in_it(planned, every, warmup, rows):
    known = plan(planned, every, warmup * planned)
    last = (rows % (1 + (planned - 1) // every)) * every
    later = [step for step in range(0, planned, every) if step > last]
    open_bins = [k for k in range(BINS) if any(known.edges[k] <= step < known.edges[k + 1] for step in later)]
    if (known.rows_K > 0).all():
        assert known.complete(last) == (min(open_bins) if open_bins else BINS)
    else:  # a bin without rows is complete when the run has passed it
        assert known.complete(last) <= min(open_bins, default=BINS)


@pytest.mark.parametrize(
    ("frequencies", "every"), [((4, 6), 12), ((4, None), 4), ((None, 10), 10), ((None, None), 5), ((0, None), 5)]
)
def test_the_grid_is_what_the_file_declares_or_its_median_gap(frequencies, every):
    steps_T = np.array([0, 5, 10, 11, 15, 20, 25])
    assert plan_of(steps_T, planned=100, frequencies=frequencies, share=0.1, warmup_steps=0).every == every


@pytest.mark.parametrize(("warmup_steps", "end"), [(0, 60), (120, 120), (500, 200), (-5, 60)])
def test_the_warm_up_is_the_larger_of_two_and_at_most_a_third(warmup_steps, end):
    known = plan_of(np.arange(600), planned=600, frequencies=(1,), share=0.1, warmup_steps=warmup_steps)
    assert known.warmup == pytest.approx(end)


def test_a_bin_with_less_than_80_percent_of_its_planned_rows_is_missing():
    steps_T = np.arange(600)  # 90 rows in a bin after the warm-up of 60 steps
    for lost, missing in ((18, False), (19, True)):
        sound_T = ~((steps_T >= 150) & (steps_T < 150 + lost))
        assert binned(steps_T, planned=600, frequency=1, sound_T=sound_T).missing_K.tolist()[:2] == [False, missing]


def test_a_share_of_rows_that_is_no_whole_number_is_rounded_up():
    """80 % of 18 planned rows are 14.4."""
    steps_T = np.arange(0, 600, 5)
    for kept, missing in ((15, False), (14, True)):
        sound_T = (steps_T < 60 + 5 * kept) | (steps_T >= 150)
        assert binned(steps_T, planned=600, frequency=5, sound_T=sound_T).missing_K[0] == missing


def test_a_plan_with_fewer_rows_than_bins_is_known_before_any_row_is_missing():
    assert not binned([0], planned=600, frequency=200).enough_planned
    assert binned([0], planned=600, frequency=80).enough_planned


def test_at_most_one_of_the_complete_bins_may_be_missing():
    steps_T = np.arange(600)
    for gone, usable in ((slice(150, 240), True), (slice(150, 330), False)):
        sound_T = np.ones(600, dtype=bool)
        sound_T[gone] = False
        assert binned(steps_T, planned=600, sound_T=sound_T).usable is usable
    assert binned(steps_T[:150], planned=600).usable  # five bins are yet to come


def test_means_are_over_the_rows_of_each_bin():
    steps_T = np.arange(0, 600, 3)
    values = np.random.default_rng(0).normal(size=(2, 200))
    found = binned(steps_T, planned=600).mean(values)
    for k in range(BINS):
        rows = (steps_T >= 60 + 90 * k) & (steps_T < 150 + 90 * k)
        assert found[:, k] == pytest.approx(values[:, rows].mean(axis=1))


WHOLE = st.integers(-(2**63), 2**63 - 1)
HOSTILE = st.one_of(st.none(), st.integers(1, 10), st.just(10**15), st.integers(1, 10**15))


@DERANDOMIZED
@given(st.lists(WHOLE, min_size=1, max_size=12), HOSTILE, HOSTILE, st.floats(-1e15, 1e15), st.integers(-(2**63), 2**63))
def test_steps_and_plans_from_anyone_raise_and_warn_never(steps, log_freq, probe_freq, warmup_steps, planned):
    steps_T = np.array(sorted(steps), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = plan_of(
            steps_T, planned=planned, frequencies=(log_freq, probe_freq), share=0.1, warmup_steps=warmup_steps
        )
        bins = bins_of(known, steps_T, np.ones(len(steps), dtype=bool), np.zeros((1, len(steps))), share=0.8)
    assert 0 <= bins.complete <= BINS
    assert (bins.rows_K >= 0).all()
    assert ((bins.place_T >= -1) & (bins.place_T < BINS)).all()
