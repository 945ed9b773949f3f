"""Advice: from the numbers of the run, with options that the trainer accepts."""

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from prismatic.train.config import RunConfig, parse_config
from tests.support.simulated_runs import simulated_run, with_norms
from validation.analysis.run import Run
from validation.judgement.advice import advise_run
from validation.judgement.judge import combine_judgements, judge_each
from validation.verdict.claims import CLAIMS, INCONCLUSIVE, Claim
from validation.verdict.reasons import BY_CHANCE


def advised(*runs):
    thresholds = Thresholds()
    return combine_judgements((), (), runs, judge_each(runs, thresholds), thresholds).advice


def configured(run, log_freq=1, **options):
    """Return the run with the options of the trainer, and with a row at every log_freq steps."""
    options = {**RunConfig().facts(), "log_freq": log_freq, **options}
    facts = {f"config.{name}": value for name, value in options.items()}
    facts |= {"planned_steps": len(run.steps) * log_freq}
    return Run(**{**vars(run), "steps": run.steps * log_freq, "facts": facts})


def named(advice):
    return {one.id: one for one in advice}


EVERY_KIND = [
    configured(simulated_run(collinear=True, routing_ratio=2.3)),
    configured(simulated_run(divergence=0.6)),
    configured(simulated_run(steps=90), log_freq=10),
    configured(simulated_run(control=True), perturbation_scale=2.0),
    configured(simulated_run(awakening=1.1, rho=0.99, sd=0.3)),
]


@pytest.mark.parametrize("run", EVERY_KIND, ids=range(len(EVERY_KIND)))
def test_the_trainer_accepts_every_line(run):
    lines = [one for one in advised(run) if one.options]
    assert lines
    for one in lines:
        assert one.line.startswith("--set ")
        changes = dict(option.split("=") for option in one.options)
        assert parse_config({**RunConfig().facts(), **changes}).facts() != RunConfig().facts()


def test_a_refuted_run_gets_the_documented_advice():
    advice = named(advised(configured(simulated_run(control=True))))
    assert advice["raise_scale"].options == ("perturbation_scale=2.0",)
    assert advice["adjust_sparsity"].options == ("sparsity=0.2",)


def test_a_run_at_scale_two_is_advised_a_larger_scale():
    advice = named(advised(configured(simulated_run(control=True), perturbation_scale=2.0)))
    assert advice["raise_scale"].options == ("perturbation_scale=4",)


def test_the_router_comes_first_when_it_collapsed_and_the_step_is_named():
    run = simulated_run(steps=400)
    share = np.where(run.steps < 120, 0.5, 0.999)
    collapsed = with_norms(with_norms(run, 0, routing_weight=1 - share), 1, routing_weight=share)
    first = advised(configured(collapsed))[0]
    assert first.id == "router_first"
    assert "from step 120 on" in first.text


def test_a_run_of_one_common_gradient_gets_options_that_show_a_direction():
    advice = named(advised(configured(simulated_run(collinear=True, routing_ratio=2.3))))
    assert advice["see_direction"].options == ("merge=example", "probe_freq=10")


def test_a_missing_control_is_named():
    assert named(advised(configured(simulated_run(divergence=0.6))))["add_control"].options == ("control_experts=2",)


def test_too_few_points_are_mended_by_logging_more_often():
    (option,) = named(advised(configured(simulated_run(steps=60), log_freq=10)))["log_more"].options
    assert int(option.removeprefix("log_freq=")) <= 5


def test_a_failed_premise_is_named():
    assert "nothing dormant to awaken" in named(advised(configured(simulated_run(sd=0.02))))["premise_fails"].text


def test_broken_data_is_mended_before_anything_else():
    run = configured(simulated_run())
    broken = with_norms(with_norms(run, 1, bottom_norm=np.zeros(600)), 0, bottom_norm=np.zeros(600))
    advice = advised(broken)
    assert [one.id for one in advice] == ["mend_the_data"]


def test_one_supported_run_asks_for_other_seeds():
    run = simulated_run(awakening=1.5, divergence=0.9, control=True, sd=0.05)
    advice = advised(configured(run, seed=4))
    assert [(one.id, one.options) for one in advice] == [("replicate", ("seed=5",))]


def test_sham_runs_and_positive_controls_need_no_advice():
    assert advised(configured(simulated_run(), perturbation_scale=0.0)) == ()
    assert advised(configured(simulated_run(), positive_control=1.5)) == ()


def test_two_seeds_ask_for_more():
    runs = [Run(**{**vars(configured(simulated_run(seed=s), seed=s)), "id": f"run{s}"}) for s in range(2)]
    assert "at least 1 more seed; 3 to expect an answer" in named(advised(*runs))["more_seeds"].text


def test_differences_by_chance_do_not_ask_for_more_steps():
    run = configured(simulated_run(steps=300))
    for because, longer in ((f"both sides: {BY_CHANCE}; seeds would decide", False), ("both sides", True)):
        own = {name: Claim(name, INCONCLUSIVE, because) for name in CLAIMS}
        ids = {one.id for one in advise_run(run, own, None, [], Thresholds())}
        assert ("train_longer" in ids) is longer


def test_a_run_of_another_trainer_gets_no_options():
    facts = {"config.seed": 1, "config.perturbation_scale": 1.0, "config.sparsity": 0.1, "mixture": "top_k"}
    for run in (simulated_run(divergence=0.6, facts=facts), simulated_run(steps=90, facts=facts)):
        advice = advised(run)
        assert advice
        assert not [one for one in advice if one.options or one.line or "--set" in one.text]
    assert "a control expert" in named(advised(simulated_run(divergence=0.6, facts=facts)))["add_control"].text


def test_advice_for_separate_outputs_does_not_mention_merging():
    run = simulated_run(collinear=True, routing_ratio=2.3, facts={"mixture": "outputs"})
    text = named(advised(run))["see_direction"].text
    assert "parallel to expert 0's" in text
    assert "merge" not in text
