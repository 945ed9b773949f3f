"""Copies that pose as replicas: repeated seeds, one run under many seeds, and a sham run that is its run."""

from dataclasses import replace

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import named, study
from validation.analysis.cohort import MeasuredRun, measure_run
from validation.analysis.copies import false_twin, no_replicas
from validation.analysis.run import Expert, Run
from validation.verdict.claims import Reason
from validation.verdict.decide import judge_runs


def measured(runs: list[Run]) -> list[MeasuredRun]:
    return [measure_run(run, Thresholds()) for run in runs]


def reason(runs: list[Run], source: str = "isolated") -> str:
    each = measured(runs)
    return no_replicas(each, [one.levels(source) for one in each])


def changed(run: Run, change) -> Run:
    """Return the run with every column of every expert and source changed by a function of name and values."""

    def of(experts):
        return {e: Expert(e, one.role, {n: change(n, c) for n, c in one.columns.items()}) for e, one in experts.items()}

    isolated = run.isolated and changed(run.isolated, change)
    return replace(run, experts=of(run.experts), layers=[of(layer) for layer in run.layers], isolated=isolated)


def disguised(run: Run, seed: int, change) -> Run:
    """Return a copy of a run under another seed and name, changed."""
    return changed(named(run, f"copy {seed}", seed=seed), change)


def noise(sd: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    return lambda name, values: values * np.exp(rng.normal(0, sd, len(values)))


def scaled(factor: float):
    """Every gradient times a factor, as with another scale of the loss."""
    powers = {"half_product": 2, "half_product_clean": 2, "divergence": 1}
    return lambda name, values: values * factor ** powers.get(name, 1 if name.endswith("norm") else 0)


def without_a_bin(name, values):
    return np.where((np.arange(len(values)) >= 30) & (np.arange(len(values)) < 48), np.nan, values)


def test_honest_seeds_are_replicas():
    for source in ("isolated", "merged"):
        assert reason(study(8, probed_run), source) == ""


def test_seeds_of_one_common_gradient_look_alike_and_are_no_copies():
    """Their levels are one smooth series each; the verdict calls them confounded, and nothing can be forged by them."""
    runs = study(6, collinear=True, routing_ratio=2.3, sd=0.01)
    each = measured(runs)
    assert all(one.common_gradient for one in each)
    assert reason(runs, "merged") == ""
    assert {claim.reason for claim in judge_runs(runs, {}).headlines.values()} == {Reason.ONE_COMMON_GRADIENT}


def test_a_repeated_seed_is_named():
    runs = study(3, probed_run)
    assert reason([*runs, named(runs[0], "again", seed=2)]) == "seed 2 is there twice"


@pytest.mark.parametrize("seed", [None, "x", True, float("nan")])
def test_an_unknown_seed_among_several_runs_is_no_replica(seed):
    runs = study(3, probed_run)
    runs[1] = named(runs[1], "1", seed=seed)
    assert reason(runs) == "some runs have no known seed"
    assert reason(runs[1:2]) == ""


@pytest.mark.parametrize(
    "change",
    [noise(0.0), noise(0.05), scaled(0.01), scaled(3.0), without_a_bin],
    ids=["as it is", "noise on each row", "a hundredth of the loss", "three times the loss", "a bin removed"],
)
def test_a_run_under_another_seed_is_found_whatever_was_done_to_it(change):
    runs = study(4, probed_run)
    assert reason([*runs, disguised(runs[2], 9, change)]) == "runs 2 and copy 9 are copies under two seeds"


def test_copies_are_found_where_the_first_run_misses_a_bin():
    runs = study(4, probed_run)
    assert "copies" in reason([changed(runs[0], without_a_bin), *runs[1:], disguised(runs[3], 9, noise(0.01))])


def test_runs_without_a_common_bin_are_not_compared():
    first = changed(study(1, probed_run)[0], lambda name, values: np.where(np.arange(120) < 60, values, np.nan))
    second = disguised(study(1, probed_run)[0], 1, lambda name, values: np.where(np.arange(120) < 60, np.nan, values))
    assert reason([first, second]) == ""


def test_a_sham_run_is_a_copy_of_its_run_or_a_training_of_its_own():
    treated, sham = measured(study(1, probed_run, twins=True))
    own, twin = treated.isolated, sham.isolated
    assert not false_twin(treated, sham, own, twin)
    for change in (noise(0.0), noise(0.01)):
        (copy,) = measured([changed(treated.run, change)])
        assert false_twin(treated, copy, own, copy.isolated)


@pytest.mark.parametrize(("scale", "copied"), [(1.0, True), (0.1, False), (None, True)])
def test_a_small_perturbation_may_leave_a_run_nearly_its_sham_run(scale, copied):
    (run,) = measured([named(study(1, probed_run)[0], "run", perturbation_scale=scale)])
    rng = np.random.default_rng(0)
    near = {name: level + rng.normal(0, 0.005, level.shape) for name, level in run.isolated.of.items()}
    assert bool(false_twin(run, run, run.isolated, replace(run.isolated, of=near))) is copied


def test_many_quiet_seeds_are_no_copies():
    """Among many seeds some are close to each other: copies are far closer than is usual."""
    rng = np.random.default_rng(0)
    (one,) = measured(study(1, probed_run))
    level = one.isolated
    seeds = [
        replace(
            one,
            run=named(one.run, str(seed), seed=seed),
            isolated=replace(level, of={n: v + rng.normal(0, 0.03, (v.shape[0], 1, 1)) for n, v in level.of.items()}),
        )
        for seed in range(60)
    ]
    assert no_replicas(seeds, [each.isolated for each in seeds]) == ""
    again = replace(seeds[7], run=named(one.run, "again", seed=99))
    found = no_replicas([*seeds, again], [each.isolated for each in (*seeds, again)])
    assert found == "runs 7 and again are copies under two seeds"


def test_runs_that_are_all_copies_are_found():
    copies = [disguised(study(1, probed_run)[0], seed, noise(0.01, seed)) for seed in range(6)]
    assert "copies" in reason(copies)


@pytest.mark.parametrize(
    ("facts", "seeds", "found"),
    [({}, [0, 0], True), ({}, [0, 1], False), ({"config.perturbation_scale": 0.0}, [0, 0], False)],
    ids=["the same draw", "two draws", "sham runs"],
)
def test_one_draw_of_the_perturbation_is_one_seed_however_often_it_is_trained(facts, seeds, found):
    runs = [
        replace(run, tier_hashes=("a", "b"), perturbation_seeds=(seed, seed), facts={**run.facts, **facts})
        for run, seed in zip(study(2, probed_run), seeds, strict=True)
    ]
    words = "runs 0 and 1 start from the same weights and the same perturbation under two seeds"
    assert reason(runs) == (words if found else "")
