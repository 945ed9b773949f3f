"""Runs of custom mixtures of experts (the examples topk_moe and lora): their measurements and their verdict."""

import re
from functools import cache

import numpy as np
import pytest

from examples import lora, topk_moe
from prismatic.contract.schema import MIXTURES
from tests.support.report_readers import as_text
from tests.support.simulated_runs import simulated_run
from validation.analysis import series
from validation.diagnostics import diagnose
from validation.files.sources import read_sources
from validation.judgement.judge import Judgement, judge
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, Reason
from validation.verdict.decide import judge_runs

MERGING = re.compile(r"merg|soft|common gradient|--set|RouterConfig|control_experts", re.IGNORECASE)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Return a function from an example to the verdict on it, trained once."""
    folder = tmp_path_factory.mktemp("examples")

    @cache
    def of(example) -> Judgement:
        return judge(*read_sources([example.train(folder / example.__name__ / "dynamics.db")]))

    return of


def claims(judgement: Judgement) -> dict:
    return judgement.verdict.headlines


def test_experts_that_are_sent_other_tokens_differ_no_more_than_a_control_does(judged):
    judgement = judged(topk_moe)
    run = judgement.runs[0]
    assert run.mixture == "top_k"
    assert [e.role for e in run.experts.values()] == list(topk_moe.TopK.roles)
    late = {e.index: float(e["direction"][-50:].mean()) for e in run.experts.values() if e.index}
    assert min(late.values()) > 0.5  # what a person looking at the chart would call divergence
    found = claims(judgement)["divergence"]
    assert (found.status, found.unit, found.control) == (INCONCLUSIVE, "1 - cosine", "control_expert")
    assert found.low < 0 < found.high


def test_hard_routing_logs_the_share_of_each_expert_and_sends_every_token_to_two(judged):
    run = judged(topk_moe).runs[0]
    shares = np.stack([expert["routing_weight"] for expert in run.experts.values()])
    assert shares.sum(axis=0) == pytest.approx(1)
    assert shares.min() >= 0


def test_adapters_for_another_task_follow_other_gradients_than_chance_makes(judged):
    found = claims(judged(lora))
    assert {claim.reason for claim in found.values()} == {Reason.TOO_FEW_EXPERTS}
    assert (found["divergence"].unit, found["divergence"].control) == ("1 - cosine", "control_expert")
    assert found["divergence"].estimate > 0.5
    assert found["awakening"].estimate < 1.1


def test_what_is_not_routed_has_no_share(judged):
    run = judged(lora).runs[0]
    assert run.mixture == "separate"
    assert all(np.isnan(expert["routing_weight"]).all() for expert in run.experts.values())
    assert all(np.isfinite(run.experts[1]["relative_divergence"]))


@pytest.mark.parametrize("example", [topk_moe, lora], ids=lambda example: example.__name__)
def test_a_report_without_merging_does_not_mention_merging_or_trainer_options(judged, example):
    text = as_text(judged(example))
    assert not MERGING.search(text), MERGING.search(text)
    assert not [advice for advice in judged(example).advice if advice.options]
    if example is lora:
        assert "routing" not in text
        assert "router" not in text


@pytest.mark.parametrize("mixture", [*MIXTURES, None])
def test_parallel_gradients_are_measured_and_not_taken_from_the_label(mixture):
    run = simulated_run(collinear=True, routing_ratio=2.3, facts={"mixture": mixture} if mixture else {})
    found = judge_runs([run], {}).headlines
    assert (found["awakening"].status, found["divergence"].status) == (CONFOUNDED, CONFOUNDED)
    assert "collinear_gradients" in {finding.id for finding in diagnose(run)}
    words = f"{found['awakening'].because} {found['divergence'].because}"
    assert ("every expert the same gradient" in words) is (mixture == "parameters")
    assert ("parallel to expert 0's" in words) is (mixture != "parameters")


@pytest.mark.parametrize("mixture", [*MIXTURES, None])
def test_no_label_makes_gradients_parallel(mixture):
    run = simulated_run(divergence=0.6, facts={"mixture": mixture} if mixture else {})
    assert not series.is_collinear(run, 1)


@pytest.mark.parametrize(("mixture", "left"), [("parameters", 0.5), (None, 0.5), ("outputs", 0.0), ("top_k", 0.0)])
def test_the_share_is_divided_out_for_merged_parameters_only(mixture, left):
    """All norms are e^0.5 beyond the share. Without a merge, a factor common to all tiers is not a difference."""
    run = simulated_run(collinear=True, divergence=0.5, routing_ratio=2.3, facts={"mixture": mixture})
    assert float(np.mean(series.ratio_beyond_routing(run, 1)["bottom"])) == pytest.approx(left, abs=1e-9)


def test_a_hostile_fact_is_no_mixture():
    for value in (["top_k"], {"a": 1}, 7, "</script>"):
        assert simulated_run(facts={"mixture": value}).mixture is None
