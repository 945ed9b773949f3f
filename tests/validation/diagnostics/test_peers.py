"""Diagnostics of peers: no expert is missed that peers have not, and an expert without tokens harms no verdict."""

from dataclasses import replace

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.peer_runs import as_peers, peer_run
from tests.support.simulated_runs import simulated_run, with_norms
from validation.analysis.run import Expert
from validation.diagnostics import ERROR, INFO, WARNING, diagnose
from validation.diagnostics.checklist import checklist


def without_tokens(run, expert, rows):
    """Return the run in which the router sent no token to an expert in these merged rows."""
    lost = {f"{tier}_norm": run.experts[expert][f"{tier}_norm"].copy() for tier in ("top", "bottom", "middle")}
    lost["norm"] = run.experts[expert]["norm"].copy()
    for column in lost.values():
        column[rows] = np.nan
    return replace(
        run, experts={**run.experts, expert: Expert(expert, "peer", {**run.experts[expert].columns, **lost})}
    )


def found(run):
    return {(finding.id, finding.severity) for finding in diagnose(run)}


def test_a_sound_run_of_peers_has_no_finding():
    assert not diagnose(peer_run())


@pytest.mark.parametrize(("rows", "name"), [(slice(0, 60), "nonfinite"), (slice(None), "missing_experts")])
def test_an_expert_without_tokens_is_a_warning(rows, name):
    assert found(without_tokens(peer_run(), 3, rows)) == {(name, WARNING)}


def test_a_cause_of_lost_norms_is_that_no_token_came():
    (finding,) = diagnose(without_tokens(peer_run(), 3, slice(0, 60)))
    assert "no token was routed to the expert" in finding.cause


def test_an_expert_that_never_received_a_gradient_is_a_warning_and_none_at_all_an_error():
    run = as_peers(simulated_run(perturbed=3, steps=120))
    zero = dict.fromkeys(("top_norm", "bottom_norm", "middle_norm", "norm"), np.zeros(120))
    assert ("zero_norms", WARNING) in found(with_norms(run, 2, **zero))
    for expert in range(4):
        run = with_norms(run, expert, **zero)
    assert ("zero_norms", ERROR) in found(run)


def test_one_common_gradient_of_peers_is_told_and_no_fault():
    run = as_peers(simulated_run(perturbed=3, collinear=True, steps=120))
    assert ("collinear_gradients", INFO) in found(run)


def test_two_peers_that_are_one_are_found():
    run = as_peers(simulated_run(perturbed=3, steps=120))
    (twice,) = [each for each in diagnose(with_norms(run, 3, **run.experts[1].columns)) if each.severity == ERROR]
    assert (twice.id, twice.symptom) == ("identical_experts", "expert 3 is the same as expert 1")


def test_the_checklist_leaves_out_what_only_perturbed_experts_have():
    lines = checklist(peer_run(), [], Thresholds())["Experiment"]
    titles = " ".join(line.title for line in lines).lower()
    assert "no two experts are the same" in titles
    assert "control" not in titles
    assert "clean" not in titles
