"""The evidence of a claim: its values, interval, margins and ends are those of the verdict."""

from dataclasses import replace

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import simulated_run, study, with_norms
from validation.analysis.cohort import Cohort, measure_run
from validation.charts.claim_evidence import evidence_chart
from validation.frames.claim_evidence import claim_evidence
from validation.verdict.decide import judge_runs

FALL = np.linspace(0.9, 0.1, 600)


def shown_and_decided(runs):
    """Return the evidence and the claims over the first group of runs, by claim."""
    group = judge_runs(runs, {}).groups[0]
    measured = [measure_run(run, Thresholds()) for run in runs]
    own = [each for each in measured if each.run.id in group.runs]
    return claim_evidence(own, group.claims, Cohort(measured), Thresholds()), {c.name: c for c in group.claims}


def bin_means(run, expert):
    """Return the bottom level of an expert in each bin, by its rows."""
    level = np.log(run.experts[expert]["bottom_norm"] / run.experts[expert]["middle_norm"])
    return np.array([level[60 + 90 * k : 150 + 90 * k].mean() for k in range(6)])


def test_each_seed_has_its_effect_in_each_bin():
    runs = study(6, awakening=1.5, control=1)
    (shown,) = shown_and_decided(runs)[0]["awakening"]
    expected = np.exp([bin_means(run, 1) - bin_means(run, 2) for run in runs])
    assert shown.values_UK == pytest.approx(expected)
    assert shown.mean_K == pytest.approx(np.exp(np.log(expected).mean(axis=0)))
    assert shown.units == tuple(f"seed {s}" for s in range(6))
    assert shown.edges.tolist() == [60, 150, 240, 330, 420, 510, 600]


def test_the_sham_run_of_the_same_seed_is_subtracted():
    runs = study(6, twins=True, awakening=1.5, control=1)
    (shown,) = shown_and_decided(runs)[0]["awakening"]
    effects = [[bin_means(run, 1) - bin_means(run, 2) for run in some] for some in (runs[:6], runs[6:])]
    assert np.log(shown.values_UK) == pytest.approx(np.array(effects[0]) - np.array(effects[1]))
    assert shown.compared == "compared with the control experts, beyond what the sham runs show"


def test_one_run_shows_its_perturbed_experts_against_the_mean_of_its_controls():
    run = simulated_run(awakening=1.5, perturbed=3, control=3)
    shown, claims = shown_and_decided([run])
    (awake,) = shown["awakening"]
    controls = np.mean([bin_means(run, e) for e in (4, 5, 6)], axis=0)
    assert np.log(awake.values_UK) == pytest.approx(np.array([bin_means(run, e) - controls for e in (1, 2, 3)]))
    assert awake.units == ("expert 1", "expert 2", "expert 3")
    assert awake.interval == (claims["awakening"].low, claims["awakening"].estimate, claims["awakening"].high)


@pytest.mark.parametrize("claim", ["awakening", "divergence"])
def test_the_band_is_the_interval_that_decides(claim):
    shown, claims = shown_and_decided(study(6, awakening=1.5, divergence=-0.4, control=1))
    assert [effect.interval for effect in shown[claim]] == [
        (part.low, part.estimate, part.high) for part in claims[claim].components
    ]
    thresholds = zip(shown[claim], claims[claim].components, strict=True)
    assert all(part.threshold in effect.margins for effect, part in thresholds)


def test_the_ends_have_the_share_that_is_kept():
    shown, claims = shown_and_decided(study(6, divergence=FALL, control=1))
    assert claims["sustainment"].status == "refuted"
    for effect, part in zip(shown["sustainment"], claims["sustainment"].components, strict=True):
        (begin, until, first), (since, end, last) = effect.ends
        assert (begin, until, since, end) == (60, 240, 420, 600)
        assert np.log(last) / np.log(first) == pytest.approx(part.estimate)
        assert np.log(effect.margins[0]) == pytest.approx(0.5 * np.log(first))


def test_a_missing_bin_is_a_gap_of_its_seed_and_not_of_the_mean():
    runs = study(6, awakening=1.5, control=1)
    hole = runs[2].experts[1]["bottom_norm"].copy()
    hole[160:230] = np.nan
    runs[2] = with_norms(runs[2], 1, bottom_norm=hole)
    (shown,) = shown_and_decided(runs)[0]["awakening"]
    assert np.argwhere(np.isnan(shown.values_UK)).tolist() == [[2, 1]]
    others = [np.log(row[1]) for place, row in enumerate(shown.values_UK) if place != 2]
    assert np.log(shown.mean_K[1]) == pytest.approx(np.mean(others))


@pytest.mark.parametrize("steps", [1, 15, 30, 290, 600])
@pytest.mark.parametrize("collinear", [False, True])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_every_effect_has_a_chart_at_any_length(steps, collinear, count):
    shown, claims = shown_and_decided(study(count, steps=steps, collinear=collinear, control=1))
    assert {name: len(effects) for name, effects in shown.items()} == {
        name: len(claim.components) for name, claim in claims.items() if shown
    }
    for effect in (effect for effects in shown.values() for effect in effects):
        assert evidence_chart(effect).to_dict()["layer"]


def test_without_a_clean_expert_there_is_nothing_to_show():
    run = simulated_run()
    assert shown_and_decided([replace(run, experts={1: run.experts[1]})])[0] == {}
