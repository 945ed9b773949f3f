"""The verdict without each layer: the layer that drives a claim, and adjusted p-values."""

import numpy as np
import pytest
from scipy import stats

from prismatic.contract.thresholds import Thresholds
from tests.support.layered_runs import write_layers
from validation.files.sources import read_sources
from validation.judgement.judge import judge
from validation.verdict.claims import REFUTED, SUPPORTED
from validation.verdict.layer_ablation import ablate_layers, keep_layers


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Judge a run of three layers whose bottom tier gains in layer 1 only."""
    path = tmp_path_factory.mktemp("layers") / "three.db"
    return judge(*read_sources([write_layers(path, gaining=1, gain=2.0, steps=160, histograms=True)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("alike")


@pytest.fixture(scope="module")
def left(judged):
    run = judged.runs[0]
    return ablate_layers(run, [], judged.verdict.controlled.claims, Thresholds())


def test_the_mean_of_all_layers_is_the_mean_that_the_trainer_wrote(judged):
    run = judged.runs[0]
    whole = keep_layers(run, range(len(run.layers)))
    assert whole.experts[1]["bottom_norm"] == pytest.approx(run.experts[1]["bottom_norm"])


def test_the_layer_that_drives_a_claim_is_found(judged, left):
    awake = left["awakening"]
    assert next(c for c in judged.verdict.controlled.claims if c.expert is None).status == SUPPORTED
    assert [one.claim.status for one in awake] == [SUPPORTED, REFUTED, SUPPORTED]
    assert awake[1].alone == pytest.approx(2.0, rel=0.05)
    assert awake[0].claim.estimate == pytest.approx(np.sqrt(2.0), rel=0.05)


def test_p_values_are_adjusted_for_every_tested_layer(left):
    raw = [one.p for one in left["awakening"]]
    assert min(raw) < 0.001
    expected = stats.false_discovery_control(raw, method="by")
    assert [one.adjusted_p for one in left["awakening"]] == pytest.approx(expected)


def test_equal_layers_are_not_distinguished(folder):
    judged = judge(*read_sources([write_layers(folder / "alike.db", gain=1.0, layers=4, steps=160, seed=3)]))
    left = ablate_layers(judged.runs[0], [], judged.verdict.controlled.claims, Thresholds())
    assert min(one.adjusted_p for one in left["awakening"]) > 0.05


def test_a_run_of_one_layer_has_no_ablation(judged):
    assert ablate_layers(keep_layers(judged.runs[0], [0]), [], [], Thresholds()) == {}
