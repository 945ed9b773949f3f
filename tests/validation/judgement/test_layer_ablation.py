"""The verdict without each layer: the layer that drives a claim, in one run, over seeds, and beside sham runs."""

from dataclasses import replace

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.layered_runs import write_layers
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import study
from validation.analysis.cohort import Cohort, measure_run
from validation.analysis.run import Run
from validation.files.sources import read_sources
from validation.judgement.judge import judge
from validation.judgement.layer_ablation import LayerAblation, ablate_layers
from validation.verdict.claims import INCONCLUSIVE, REFUTED, SUPPORTED
from validation.verdict.decide import judge_runs


def ablated(runs: list[Run], invalid: tuple[str, ...] = ()) -> dict[str, list[LayerAblation]]:
    """Return the ablation of the treated runs, beside all the others."""
    measured = [measure_run(run, Thresholds()) for run in runs]
    treated = [each for each in measured if not each.run.is_sham]
    return ablate_layers(treated, Cohort(measured, invalid), Thresholds())


def only(run: Run, layers: list[int]) -> Run:
    """Return the run as if its file held these layers alone."""
    isolated = run.isolated and only(run.isolated, layers)
    return replace(run, layers=[run.layers[layer] for layer in layers], isolated=isolated)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Judge a run of three layers and three experts of each role, whose bottom tier gains in layer 1 only."""
    path = tmp_path_factory.mktemp("layers") / "three.db"
    facts = {"config.log_freq": 1, "config.merge": "example"}
    return judge(*read_sources([write_layers(path, gaining=1, gain=2.0, experts=7, control=3, steps=160, **facts)]))


def test_the_layer_that_drives_a_claim_is_found(judged):
    assert judged.verdict.headlines["awakening"].status == SUPPORTED
    awake = ablate_layers(judged.measured, judged.cohort, Thresholds())["awakening"]
    assert [one.layer for one in awake] == [0, 1, 2]
    assert [one.claim.status for one in awake] == [SUPPORTED, REFUTED, SUPPORTED]
    assert awake[1].alone == pytest.approx(2.0, rel=0.05)
    assert awake[0].claim.estimate == pytest.approx(np.sqrt(2.0), rel=0.05)


@pytest.mark.parametrize("twins", [False, True])
def test_a_layer_left_out_is_one_that_the_file_lacks(twins):
    runs = study(6, probed_run, layers=3, bottom=0.2, direction=0.1, twins=twins)
    found = ablated(runs)
    for layer in range(3):
        others = [other for other in range(3) if other != layer]
        without = judge_runs([only(run, others) for run in runs], {}).groups[0].claims
        alone = judge_runs([only(run, [layer]) for run in runs], {}).groups[0].claims
        for claim, single in zip(without[:2], alone[:2], strict=True):
            one = found[claim.name][layer]
            assert (one.claim.status, one.claim.reason, one.claim.twins) == (claim.status, claim.reason, twins)
            numbers = {(part.name, part.estimate) for part in claim.components}
            assert one.claim.estimate in {estimate for _, estimate in numbers}
            assert one.alone in {part.estimate for part in single.components}


def test_the_numbers_are_of_the_effect_that_decides_with_all_layers():
    """The direction decides with both layers; without the one it differs in, the size lies farther out."""
    runs = study(6, probed_run, layers=2, size=0.2)
    for run in runs:
        for expert in (1, 2, 3):
            run.isolated.layers[0][expert].columns["half_product_clean"][:] *= 0.1
    whole = judge_runs(runs, {}).headlines["divergence"]
    assert whole.unit == "1 - cosine"
    found = ablated(runs)["divergence"]
    assert [one.claim.unit for one in found] == ["1 - cosine", "1 - cosine"]
    assert abs(found[0].claim.estimate) < 0.05 < found[1].claim.estimate
    assert found[0].claim.status == SUPPORTED  # by its size
    assert found[0].alone == pytest.approx(found[1].claim.estimate)


def test_equal_layers_decide_alike():
    found = ablated(study(6, probed_run, layers=3))
    for name in ("awakening", "divergence"):
        assert {one.claim.status for one in found[name]} == {REFUTED}
        assert np.ptp([one.claim.estimate for one in found[name]]) < 0.03


def test_a_run_of_one_layer_has_no_ablation():
    assert ablated(study(6, probed_run, layers=1)) == {}
    assert ablated(study(6, perturbed=2, control=2)) == {}
    assert ablated([]) == {}


def test_runs_of_several_numbers_of_layers_have_no_ablation():
    runs = study(6, probed_run, layers=2)
    assert ablated([*runs[:5], study(1, probed_run, first_seed=5, layers=3)[0]]) == {}


def test_files_without_merged_layers_are_ablated_by_their_isolated_ones():
    runs = [replace(run, layers=[]) for run in study(6, probed_run, layers=2, bottom=0.4)]
    assert [one.claim.status for one in ablated(runs)["awakening"]] == [SUPPORTED, SUPPORTED]


def test_a_run_without_a_verdict_may_lack_a_layer():
    runs = study(6, probed_run, layers=2, bottom=0.4)
    broken = only(study(1, probed_run, first_seed=6, layers=2)[0], [0])
    assert [one.claim.status for one in ablated([*runs, broken], ("6",))["awakening"]] == [SUPPORTED, SUPPORTED]


def test_too_few_seeds_stay_too_few_without_a_layer():
    found = ablated(study(3, probed_run, layers=2, bottom=0.4))
    assert {one.claim.status for one in found["awakening"]} == {INCONCLUSIVE}
    assert found["awakening"][0].claim.estimate == pytest.approx(np.exp(0.4), rel=0.1)
