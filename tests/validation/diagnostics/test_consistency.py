"""Checks of numbers against each other, on files of real trainings that were changed by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from prismatic import DynamicsLoggerCallback, Prismatic, RouterConfig
from tests.support.simulated_runs import simulated_run, with_norms, write
from tests.validation.diagnostics.conftest import changed_copy, loaded
from validation.analysis.run import Run
from validation.diagnostics import ERROR, WARNING, Finding, diagnose
from validation.diagnostics.consistency import _shift, expert_hashes, find_copies

PERTURBED = "expert IN (1, 2)"


def of(run: Run, name: str) -> list[Finding]:
    return [finding for finding in diagnose(run) if finding.id == name]


# -- Tier norms -------------------------------------------------------------------------------------------------------


def test_a_whole_norm_that_is_not_that_of_its_tiers_is_an_error(edited):
    run = edited("UPDATE layers SET norm = 1.2 * norm WHERE expert = 1 AND layer = 0 AND source = 'isolated'")
    (finding,) = of(run, "tiers_disagree")
    assert (finding.severity, finding.expert) == (ERROR, 1)
    assert "in 13 of 13 isolated rows of layer 0" in finding.evidence


def test_one_row_in_ten_with_another_norm_is_an_error(edited):
    run = edited("UPDATE layers SET bottom_norm = 2 * bottom_norm WHERE expert = 2 AND step % 20 = 0")
    assert {finding.expert for finding in of(run, "tiers_disagree")} == {2}


def test_one_odd_row_is_no_contradiction(edited):
    run = edited("UPDATE layers SET norm = 2 * norm, bottom_to_middle = 5 WHERE expert = 2 AND step = 20")
    assert not of(run, "tiers_disagree")


def test_another_scale_of_all_numbers_contradicts_nothing(edited):
    columns = ("top_norm", "bottom_norm", "middle_norm", "norm")
    run = edited("UPDATE layers SET " + ", ".join(f"{name} = 100 * {name}" for name in columns))
    assert not of(run, "tiers_disagree")


@pytest.mark.parametrize(("shift", "source"), [(0.3, "merged"), (2.0, "isolated")])
def test_a_shifted_ratio_of_the_perturbed_experts_is_an_error(edited, shift, source):
    run = edited(
        f"UPDATE layers SET bottom_to_middle = bottom_to_middle + {shift} WHERE {PERTURBED} AND source = '{source}'"
    )
    (finding,) = of(run, "tiers_disagree")
    assert f"of {source} gradients" in finding.evidence


@pytest.mark.parametrize(("shift", "is_found"), [(0.05, False), (0.4, True)])
def test_a_smaller_shift_of_isolated_gradients_is_a_warning(edited, shift, is_found):
    honest = edited().isolated
    assert abs(np.median(_shift(honest))) < 0.1
    moved = f"UPDATE layers SET bottom_to_middle = bottom_to_middle + {shift} WHERE {PERTURBED}"
    found = of(edited(f"{moved} AND source = 'isolated'"), "tiers_disagree")
    assert [finding.severity for finding in found] == ([WARNING] if is_found else [])


def test_a_ratio_that_jumps_in_one_row_of_ten_is_an_error(edited):
    jump = "UPDATE layers SET bottom_to_middle = bottom_to_middle + 4 WHERE {} AND step % 20 = 0 AND source = 'merged'"
    (finding,) = of(edited(jump.format(PERTURBED)), "tiers_disagree")
    assert "in 4 of 37 merged rows" in finding.evidence
    assert not of(edited(jump.format("1")), "tiers_disagree")  # what all experts share is no effect


@pytest.fixture(scope="module")
def of_one_tensor(tmp_path_factory):
    """Train a layer whose experts are one tensor each, and return the run file."""
    torch.manual_seed(0)
    block, head = nn.Linear(8, 8, bias=False), nn.Linear(8, 1)
    layer = Prismatic(block, 8, RouterConfig(merge="example", control_experts=1))
    optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=0.1)
    path = tmp_path_factory.mktemp("one") / "dynamics.db"
    callback = DynamicsLoggerCallback(path, log_freq=1)
    callback.attach(layer, optimizer, planned_steps=30)
    for step in range(30):
        x = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (head(layer(x)) - x.sum(-1, keepdim=True)).square().mean().backward()
        optimizer.step()
    callback.detach()
    return path


@pytest.mark.parametrize(("experts", "is_found"), [("expert < 0", False), ("expert IN (1, 2)", True)])
def test_in_a_layer_of_one_tensor_the_ratio_is_that_of_the_norms(of_one_tensor, tmp_path, experts, is_found):
    shift = f"UPDATE layers SET bottom_to_middle = bottom_to_middle + 0.02 WHERE {experts}"
    run = changed_copy(of_one_tensor, tmp_path, shift)
    for expert in run.layers[0].values():
        exact = np.log(expert["bottom_norm"] / expert["middle_norm"])
        shifted = is_found and expert.role == "perturbed"
        assert np.allclose(expert["bottom_to_middle"], exact + 0.02 * shifted, atol=1e-6)
    assert bool(of(run, "tiers_disagree")) is is_found


# -- Shares -----------------------------------------------------------------------------------------------------------


def test_shares_that_never_change_are_an_error_where_a_router_is_trained(edited):
    constant = ("UPDATE layers SET routing_weight = 0.2 WHERE source = 'merged'",)
    assert [finding.severity for finding in of(edited(*constant), "constant_shares")] == [ERROR]
    frozen = "UPDATE run SET value = '\"frozen\"' WHERE key = 'config.routing'"
    assert not of(edited(*constant, frozen), "constant_shares")
    assert not of(edited(*constant, "DELETE FROM run WHERE key = 'config.routing'"), "constant_shares")


def test_one_changing_share_is_a_trained_router(edited):
    run = edited("UPDATE layers SET routing_weight = 0.2 WHERE source = 'merged' AND expert > 0")
    assert not of(run, "constant_shares")


# -- Copies -----------------------------------------------------------------------------------------------------------


def copies(tmp_path, *facts, run=None):
    """Write one run several times under other facts, and return the runs that are found to be copies."""
    run = run or simulated_run(steps=30)
    paths = [write(run, tmp_path / f"{place}.db", **given) for place, given in enumerate(facts)]
    runs = loaded(*paths)
    findings = [*find_copies(runs)]
    assert {finding.severity for finding in findings} <= {ERROR}
    return [[run.id for run in runs].index(finding.run) for finding in findings]


def seed(number, **facts):
    return {"config.seed": number, "config.perturbation_scale": 1.0, **facts}


def test_the_numbers_of_one_run_under_two_seeds_are_copies(tmp_path):
    assert copies(tmp_path, seed(0), seed(1), seed(2)) == [0, 1, 2]


def test_a_sham_run_with_the_numbers_of_the_run_is_a_copy(tmp_path):
    assert copies(tmp_path, seed(0), {**seed(0), "config.perturbation_scale": 0.0}) == [0, 1]


def test_copies_of_unknown_seed_are_found(tmp_path):
    assert copies(tmp_path, {"note": 1}, {"note": 2}) == [0, 1]


def test_options_without_effect_give_equal_numbers_honestly(tmp_path):
    assert copies(tmp_path, seed(0, **{"config.weight_freq": 0}), seed(0, **{"config.weight_freq": 100})) == []


def test_runs_in_which_nothing_was_measured_are_no_copies(tmp_path):
    run = simulated_run(steps=30)
    for expert in (0, 1):
        zero = dict.fromkeys(("top_norm", "bottom_norm", "middle_norm"), np.zeros(30))
        run = with_norms(run, expert, **zero)
    assert copies(tmp_path, seed(0), seed(1), run=run) == []
    assert not expert_hashes(run)


@pytest.mark.parametrize(("seeds", "found"), [((0, 1), ["first", "mixed"]), ((0, 0), [])])
def test_one_expert_of_a_run_of_another_seed_is_a_copy(seeds, found):
    """Experts that are trained alone are the same in a run and in its sham run."""
    first, other = (
        changed(simulated_run(seed=seed), id=name, facts={"config.seed": known, "config.perturbation_scale": seed})
        for seed, known, name in zip((0, 1), seeds, ("first", "other"), strict=True)
    )
    mixed = changed(other, id="mixed", experts={**other.experts, 1: first.experts[1]})
    assert not [*find_copies([first, other])]
    assert [finding.run for finding in find_copies([first, mixed])] == found


def changed(run: Run, **fields) -> Run:
    return Run(**{**vars(run), **fields})


def test_experts_under_other_numbers_are_the_same_run():
    run, other = simulated_run(control=True), simulated_run(control=True, seed=1)
    swapped = changed(run, experts={**run.experts, 1: run.experts[2], 2: run.experts[1]})
    assert expert_hashes(run).keys() == expert_hashes(swapped).keys()
    assert not expert_hashes(run).keys() & expert_hashes(other).keys()
