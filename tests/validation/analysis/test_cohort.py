"""Runs that are judged together: what makes a group, which sham run belongs to which run, and what needs no rows."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import named, simulated_run, study
from tests.support.slow_effects import bins_of, slowly
from validation.analysis.cohort import Cohort, MeasuredRun, measure_run, options_of
from validation.analysis.run import Run
from validation.verdict.as_written import as_written
from validation.verdict.decide import decide


def measured(run: Run) -> MeasuredRun:
    return measure_run(run, Thresholds())


def with_facts(name: str, **facts) -> MeasuredRun:
    """Return a short run with these facts alone."""
    return measured(replace(simulated_run(steps=12), id=name, facts=facts))


def test_seed_and_device_are_the_options_in_which_a_group_may_differ():
    options = {"config.num_layers": 2, "config.seed": 1, "config.device": "cpu", "planned_steps": 100}
    same = {**options, "config.seed": 2, "config.device": "cuda", "run_hash": "abc"}
    assert options_of(with_facts("a", **options).run) == options_of(with_facts("b", **same).run)
    for other in ({"config.num_layers": 4}, {"planned_steps": 200}, {"config.log_freq": 5}):
        assert options_of(with_facts("c", **{**options, **other}).run) != options_of(with_facts("a", **options).run)


SHAM = {"config.perturbation_scale": 0.0, "config.seed": 1, "config.num_layers": 2}
TREATED = {**SHAM, "config.perturbation_scale": 1.0}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, True),
        ({"config.seed": "1"}, True),
        ({"config.perturbation_scale": 0.001}, True),
        ({"config.seed": 2}, False),
        ({"config.num_layers": 4}, False),
        ({"config.perturbation_scale": 0.01}, False),
        ({"config.seed": None}, False),
    ],
    ids=str,
)
def test_the_twin_of_a_run_is_the_sham_run_of_its_seed_and_options(changed, found):
    run, sham = with_facts("run", **TREATED), with_facts("sham", **{**SHAM, **changed})
    assert (Cohort([run, sham]).twin_of(run.run) is sham) is found


COPY = {"config.upcycle_method": "copy", "config.seed": 1, "config.num_experts": 8}
DROP = {**COPY, "config.upcycle_method": "drop", "config.upcycle_drop": 0.5}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, True),
        ({"config.seed": 2}, False),
        ({"config.num_experts": 4}, False),
        ({"config.upcycle_method": "noise", "config.upcycle_noise": 0.1}, False),
    ],
    ids=str,
)
def test_the_twin_of_an_upcycled_run_is_that_of_plain_copies(changed, found):
    run = with_facts("run", **DROP)
    scales = {} if "config.upcycle_noise" in changed else {1: 0.0}
    copies = replace(with_facts("copies", **{**COPY, **changed}).run, scales=scales)
    assert (Cohort([run, twin := measured(copies)]).twin_of(run.run) is twin) is found


def test_a_sham_run_has_no_twin_and_a_run_without_options_none_either():
    sham, unknown = with_facts("sham", **SHAM), with_facts("unknown")
    cohort = Cohort([sham, unknown])
    assert cohort.twin_of(sham.run) is None
    assert cohort.twin_of(unknown.run) is None
    assert cohort.shams_of(unknown.run) == []


def test_a_sham_run_without_a_verdict_is_no_control():
    run, sham = with_facts("run", **TREATED), with_facts("sham", **SHAM)
    cohort = Cohort([run, sham], ["sham"])
    assert cohort.twin_of(run.run) is None
    assert cohort.shams_of(run.run) == []


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_sham_runs_of_a_seed_the_less_perturbed_one_counts_however_they_are_ordered(order):
    run = with_facts("run", **TREATED)
    shams = [with_facts(f"sham {scale}", **{**SHAM, "config.perturbation_scale": scale}) for scale in (0.0, 0.001)]
    cohort = Cohort([*shams[::order], run])
    assert cohort.twin_of(run.run) is shams[0]
    assert cohort.shams_of(run.run) == shams[:1]


def test_of_two_sham_runs_of_a_seed_that_with_the_order_of_data_of_its_run_counts():
    run = with_facts("run", **TREATED, **{"config.data_seed": 7})
    shams = [with_facts(f"sham {order}", **SHAM, **{"config.data_seed": order}) for order in (5, 7, 9)]
    assert Cohort([*shams, run]).twin_of(run.run) is shams[1]


def test_a_scale_written_in_two_ways_is_one_scale():
    first, second = (
        with_facts(f"run {scale}", **{**TREATED, "config.perturbation_scale": scale}) for scale in (1, 1.0)
    )
    assert options_of(first.run) == options_of(second.run)


def test_isolated_gradients_are_used_where_the_probe_planned_a_row_in_each_bin():
    assert measured(probed_run()).source == "isolated"
    assert measured(probed_run(probe=False)).source == "merged"
    assert measured(probed_run(facts={"config.probe_freq": 300})).source == "merged"


def test_a_common_gradient_is_one_of_every_perturbed_expert():
    common = measured(simulated_run(collinear=True, perturbed=2))
    own = simulated_run(perturbed=2, seed=3).experts[2]
    one_differs = measured(replace(common.run, experts={**common.run.experts, 2: own}))
    assert (common.common_gradient, one_differs.common_gradient) == (True, False)


@pytest.mark.parametrize("weights", [{}, {"top": 5.0, "bottom": 10.0, "middle": 1000.0}, {"bottom": -1, "middle": 2}])
def test_dormancy_is_the_gradient_per_weight_of_the_clean_experts_bottom_tier(weights):
    run = replace(simulated_run(facts={"config.sparsity": 0.2, "config.log_freq": 1}), weights=weights)
    clean = run.experts[0]
    bottom, middle = (10.0, 1000.0) if weights.get("bottom", 0) > 0 else (0.1, 0.8)
    expected = [
        np.mean(
            [
                math.log(clean["bottom_norm"][row] / math.sqrt(bottom))
                - math.log(clean["middle_norm"][row] / math.sqrt(middle))
                for row in rows
            ]
        )
        for rows in bins_of(slowly(run))
    ]
    assert measured(run).dormancy_K == pytest.approx(expected)


def test_a_verdict_needs_no_rows():
    runs = [
        *study(6, probed_run, twins=True, bottom=0.3, config={"num_layers": 2}),
        *(named(run, f"means {run.id}", num_layers=3) for run in study(6, perturbed=3, control=3, awakening=1.5)),
    ]
    written = [as_written(run, Thresholds()) for run in runs]
    whole = [measured(run) for run in runs]
    alone = [pickle.loads(pickle.dumps(each.without_rows())) for each in whole]
    verdicts = [decide(each, written, {}, Thresholds()) for each in (whole, alone)]
    assert verdicts[0].controlled == verdicts[1].controlled
    assert verdicts[0].groups == verdicts[1].groups
    assert max(len(pickle.dumps(each)) for each in alone) < min(len(pickle.dumps(each)) for each in whole) / 5


def test_a_run_that_could_not_be_measured_is_one_without_a_verdict():
    run = replace(simulated_run(), facts=TREATED)
    each = MeasuredRun.without_levels(run)
    verdict = decide([each], [as_written(run, Thresholds())], {run.id: "broken"}, Thresholds())
    assert verdict.status == "invalid"
    assert verdict.premises == ()
