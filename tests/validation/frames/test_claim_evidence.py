"""Evidence of a claim: the drawn interval, batch means and thirds are those of the verdict."""

import math

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import simulated_run
from validation.analysis.run import Run
from validation.analysis.series import bottom_gain
from validation.charts.claim_evidence import evidence_chart
from validation.frames.claim_evidence import claim_evidence
from validation.frames.downsample import EVIDENCE_POINTS
from validation.verdict.decide import decide


def shown_and_decided(run):
    verdict = decide([run], {})
    claims = {c.name: c for c in verdict.controlled.claims if c.expert == 1}
    return claim_evidence(run, 1, [run], Thresholds()), claims


@pytest.mark.parametrize("claim", ["awakening", "divergence"])
def test_the_band_is_the_interval_of_the_claim(claim):
    shown, claims = shown_and_decided(simulated_run(awakening=1.5, divergence=0.4, control=True))
    low, mid, high = shown[claim].interval
    assert (low, mid, high) == pytest.approx((claims[claim].low, claims[claim].estimate, claims[claim].high))
    assert claims[claim].threshold in shown[claim].margins


def test_the_batch_means_are_those_of_the_rows_that_count():
    run = simulated_run()
    shown, _ = shown_and_decided(run)
    series = bottom_gain(run.experts[1], run.experts[0])[run.steps >= 60]
    assert np.log(shown["awakening"].batch_means_B) == pytest.approx(series.reshape(20, 27).mean(axis=1))
    assert not shown["awakening"].used[:60].any()
    assert shown["awakening"].used[60:].all()


def test_the_thirds_have_the_share_that_is_kept():
    fall = np.linspace(0.9, 0.3, 600)
    shown, claims = shown_and_decided(simulated_run(divergence=fall, control=True, sd=0.02))
    (_, _, first), (_, _, last) = shown["sustainment"].thirds
    assert math.log(last) / math.log(first) == pytest.approx(claims["sustainment"].estimate)


def test_a_spike_is_drawn_however_long_the_run_is():
    run = simulated_run(steps=20_000)
    run.experts[1].columns["bottom_norm"][12_345] *= 50
    shown, _ = shown_and_decided(run)
    assert len(shown["awakening"].values) <= EVIDENCE_POINTS + 2
    assert shown["awakening"].values.max() > 20


@pytest.mark.parametrize("steps", [1, 15, 30, 600])
@pytest.mark.parametrize("collinear", [False, True])
def test_every_claim_has_a_chart_at_any_length(steps, collinear):
    shown, _ = shown_and_decided(simulated_run(steps=steps, collinear=collinear, control=True))
    for evidence in shown.values():
        assert evidence_chart(evidence).to_dict()["layer"]


def test_without_a_clean_expert_there_is_nothing_to_show():
    run = simulated_run()
    headless = Run(**{**vars(run), "experts": {1: run.experts[1]}})
    assert claim_evidence(headless, 1, [headless], Thresholds()) == {}
