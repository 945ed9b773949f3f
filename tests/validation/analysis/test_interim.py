"""Interim analyses of unfinished runs: at doubling numbers of steps, each with a share of alpha."""

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import simulated_run
from validation.analysis.interim import interim_look
from validation.analysis.run import Run
from validation.verdict.claims import INCONCLUSIVE, SUPPORTED
from validation.verdict.decide import decide


def growing(rows, *, planned=10_000, **made):
    """Return the first rows of a run that is planned to be longer."""
    run = simulated_run(steps=6000, **made)
    return Run(**{**vars(run.until(rows - 1)), "facts": {"planned_steps": planned, "exit_state": "running"}})


def awakening(run):
    return next(c for c in decide([run], {}).controlled.claims if c.name == "awakening" and c.expert == 1)


def test_a_finished_run_is_judged_whole_and_with_all_of_alpha():
    run = simulated_run()
    look = interim_look(run, Thresholds())
    assert (look.run, look.thresholds, look.points) == (run, Thresholds(), None)


@pytest.mark.parametrize(("rows", "points"), [(1100, 100), (1199, 100), (1200, 200), (1399, 200), (1400, 400)])
def test_looks_are_at_doubling_numbers_of_points_after_the_planned_warmup(rows, points):
    look = interim_look(growing(rows), Thresholds())
    assert look.points == points
    assert look.run.after_warmup(0.1).sum() == points


def test_the_looks_never_use_more_than_alpha():
    levels = [interim_look(growing(1000 + 100 * 2**k), Thresholds()).thresholds.alpha for k in range(6)]
    assert levels == pytest.approx([0.05 / ((k + 1) * (k + 2)) for k in range(6)])
    assert sum(levels) < 0.05


def test_between_looks_the_last_verdict_stands():
    first, later = awakening(growing(1400, awakening=1.5)), awakening(growing(1700, awakening=1.5))
    assert first == later
    assert awakening(growing(1800, awakening=1.5)).estimate != first.estimate


def test_before_the_first_look_the_missing_points_are_named():
    claim = awakening(growing(1050))
    assert claim.status == INCONCLUSIVE
    assert "50 more are needed" in claim.because


def test_watching_a_null_run_grow_seldom_shows_support():
    wrong = 0
    for seed in range(40):
        run = simulated_run(steps=1600, rho=0.9, sd=0.3, seed=seed)
        facts = {"planned_steps": 1601}
        statuses = {
            awakening(Run(**{**vars(run.until(rows)), "facts": facts})).status for rows in range(250, 1600, 150)
        }
        wrong += SUPPORTED in statuses
    assert wrong <= 2  # a t-test at every look: more than half


def test_a_run_that_was_stopped_early_counts_as_unfinished():
    run = growing(1700)
    stopped = Run(**{**vars(run), "facts": {**run.facts, "exit_state": "interrupted"}})
    assert interim_look(stopped, Thresholds()).points == 400


def test_a_cut_run_has_every_series_cut_at_the_same_step():
    run = growing(1500)
    cut = run.until(1000)
    assert len(cut.steps) == 1001
    assert all(len(values) == 1001 for e in cut.experts.values() for values in e.columns.values())
    assert np.array_equal(cut.experts[1]["bottom_norm"], run.experts[1]["bottom_norm"][:1001])
