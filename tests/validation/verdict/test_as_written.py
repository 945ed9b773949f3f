"""The reading as written: the documented rules to the letter, compared to the same rules in plain Python."""

import math
from statistics import mean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import named, simulated_run, study, with_norms
from validation.analysis.run import Run
from validation.verdict.as_written import as_written
from validation.verdict.claims import CLAIMS, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim
from validation.verdict.decide import judge_runs


def whole(run: Run, invalid: str | None = None) -> dict[str, Claim]:
    return {claim.name: claim for claim in as_written(run, Thresholds(), invalid) if claim.expert is None}


def by_hand(run: Run, expert: int) -> dict[str, str]:
    """Return the statuses of one perturbed expert, from its rows."""

    def known(e: int, name: str) -> list[float]:
        return [value for value in run.experts[e].columns[name].tolist() if math.isfinite(value)]

    bottom, clean, score = known(expert, "bottom_norm"), known(0, "bottom_norm"), known(expert, "divergence")
    third = max(1, len(score) // 3)
    level = (
        INVALID if not score else SUPPORTED if mean(score) > 0.05 else REFUTED if mean(score) < 0.01 else INCONCLUSIVE
    )
    course = INVALID if not score else SUPPORTED if mean(score[-third:]) >= mean(score[:third]) else REFUTED
    raised = INVALID if not (bottom and clean) else SUPPORTED if mean(bottom) > mean(clean) else REFUTED
    return {"awakening": raised, "divergence": level, "sustainment": course}


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.integers(0, 100),
    st.sampled_from((0.01, 0.03, 1.0)),
    st.sampled_from((0.5, 1.0, 1.5)),
    st.sampled_from((0, 20, 40)),
)
def test_each_expert_is_judged_by_the_documented_rules(seed, scale, awakening, gone):
    run = simulated_run(seed=seed, steps=40, scale=scale, awakening=awakening, perturbed=2)
    holed = run.experts[1]["divergence"].copy()
    holed[:gone] = np.nan
    run = with_norms(run, 1, divergence=holed)
    found = as_written(run, Thresholds())
    for expert in (1, 2):
        assert {c.name: c.status for c in found if c.expert == expert} == by_hand(run, expert)


def test_the_run_supports_what_each_of_its_perturbed_experts_supports():
    run = simulated_run(perturbed=2, awakening=3.0)
    assert whole(run)["awakening"].status == SUPPORTED
    weak = with_norms(run, 2, bottom_norm=run.experts[0]["bottom_norm"] / 2)
    claim = whole(weak)["awakening"]
    assert (claim.status, claim.estimate) == (REFUTED, pytest.approx(0.5))
    assert claim.because.startswith("1 of 2 perturbed experts refuted; expert 2: the mean bottom norm is 0.50x")


def test_routing_and_the_scale_of_the_loss_decide_as_written():
    assert whole(simulated_run(routing_ratio=2.3))["awakening"].status == SUPPORTED
    assert whole(simulated_run(routing_ratio=1.3, scale=0.01))["divergence"].status == REFUTED
    assert whole(simulated_run(routing_ratio=1.3, scale=10.0))["divergence"].status == SUPPORTED


def test_a_falling_loss_alone_is_a_collapse_as_written():
    run = simulated_run(divergence=0.6, perturbed=3, control=3, facts={"config.log_freq": 1})
    assert whole(run)["sustainment"].status == REFUTED
    assert judge_runs([run], {}).headlines["sustainment"].status == SUPPORTED


@pytest.mark.parametrize("role", ["perturbed", "clean"])
def test_without_two_experts_to_compare_nothing_is_read(role):
    run = simulated_run()
    run = type(run)(run.id, run.name, run.steps, {e: one for e, one in run.experts.items() if one.role != role})
    assert {claim.status for claim in as_written(run, Thresholds())} == {INVALID}


def test_a_zero_clean_norm_has_no_ratio():
    run = with_norms(simulated_run(), 0, bottom_norm=np.zeros(600))
    claim = whole(run)["awakening"]
    assert (claim.estimate, claim.because) == (None, "the clean bottom norm is zero")


def test_the_problem_of_an_invalid_run_is_told_for_every_claim():
    found = as_written(simulated_run(), Thresholds(), "all norms are zero")
    assert [(claim.name, claim.because) for claim in found] == [(name, "all norms are zero") for name in CLAIMS]


def test_over_all_runs_the_treated_ones_count():
    runs = study(3, awakening=3.0, twins=True)
    verdict = judge_runs(runs, {})
    claim = {c.name: c for c in verdict.as_written.of(None)}["awakening"]
    assert (claim.status, claim.because) == (SUPPORTED, "3 supported of 3 runs")
    one = judge_runs([named(runs[0], "alone")], {}).as_written
    assert one.of(None)[0].because == one.whole("alone")["awakening"].because
