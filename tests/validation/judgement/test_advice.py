"""Advice: from the reasons of the claims, with options that the trainer accepts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic.contract.thresholds import Thresholds
from prismatic.sweep.plan import plan
from prismatic.train.config import RunConfig, parse_config
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import LEVEL, named, simulated_run, study, with_norms, write
from validation.analysis.run import Run
from validation.judgement.advice import MOST_SEEDS, advise
from validation.judgement.judge import combine_judgements, judge_each
from validation.judgement.step import Advice, Origin
from validation.verdict.claims import CLAIMS, CONFOUNDED, INCONCLUSIVE, REFUTED, SUPPORTED, Claim, Reason

EXPERTS = {"perturbed": 3, "control": 3}


def advised(*runs: Run) -> tuple[Advice, ...]:
    thresholds = Thresholds()
    return combine_judgements((), (), judge_each(runs, thresholds), thresholds).advice


def trained(*runs: Run, **options) -> list[Run]:
    """Return the runs as the trainer writes them: with every option of their training."""
    found = []
    for run in runs:
        own = {name.removeprefix("config."): value for name, value in run.facts.items() if name.startswith("config.")}
        config = {**RunConfig(log_freq=1, num_layers=1, merge="example").facts(), **own, **options}
        found.append(named(run, run.id, **config))
    return found


def named_advice(*runs: Run) -> dict[str, Advice]:
    return {one.id: one for one in advised(*runs)}


KINDS = {
    "one common gradient": lambda: trained(simulated_run(collinear=True, routing_ratio=2.3), merge="batch"),
    "no control": lambda: trained(simulated_run(divergence=0.6)),
    "few planned rows": lambda: trained(probed_run(**EXPERTS, every=200, probe=False)),
    "refuted": lambda: trained(*study(6, probed_run, **EXPERTS), perturbation_scale=2.0),
    "undecided": lambda: trained(*study(6, probed_run, bottom=0.15, spread=0.1, control=1)),
    "few seeds": lambda: trained(*study(3, **EXPERTS)),
    "supported": lambda: trained(simulated_run(**EXPERTS, awakening=1.5, divergence=0.6)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainer_accepts_every_line_and_each_changes_the_training(kind):
    runs = KINDS[kind]()
    lines = [one for one in advised(*runs) if one.line]
    assert lines
    for one in lines:
        assert one.command(Origin("a run.db")).startswith(
            f"prismatic {'sweep' if one.grid else 'train'} --config 'a run.db' --"
        )
        changes = dict(option.split("=") for option in one.options)
        known = {name: runs[0].config[name] for name in RunConfig().facts()}
        assert one.grid or parse_config({**known, **changes}).facts() != parse_config(known).facts()


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_plans_the_runs_that_it_promises(kind, tmp_path):
    """The options are taken from the run file, and each seed of the study has its sham run."""
    runs = KINDS[kind]()
    file = write(runs[0], tmp_path / "dynamics.db", **{f"config.{name}": v for name, v in runs[0].config.items()})
    for one in (one for one in advised(*runs) if one.grid):
        sweep = plan(file, one.grid, overrides=one.options, runs=tmp_path)
        assert len(sweep.jobs) == one.runs
        scales = {
            scale: {job.config.seed for job in sweep.jobs if job.config.perturbation_scale == scale}
            for scale in {job.config.perturbation_scale for job in sweep.jobs}
        }
        assert len(scales) == 2
        assert len({frozenset(seeds) for seeds in scales.values()}) == 1
        assert 0.0 in scales


REASONS = [reason for reason in Reason if reason != Reason.AS_WRITTEN]
STATUSES = (SUPPORTED, REFUTED, INCONCLUSIVE, CONFOUNDED)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.sampled_from(REASONS), st.sampled_from(STATUSES)), min_size=3, max_size=3),
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**40),
            "sparsity": st.sampled_from((0.001, 0.1, 0.3, 0.5, 0.9)),
            "perturbation_scale": st.sampled_from((0.01, 1.0, 2.0, 1e6)),
            "control_experts": st.integers(0, 5),
            "merge": st.sampled_from(("batch", "example")),
            "probe_freq": st.sampled_from((0, 10)),
            "log_freq": st.integers(1, 1000),
            "batch_size": st.integers(1, 64),
        }
    ),
    st.sampled_from((None, "control_expert", "sham_run")),
    st.sampled_from((None, 6, 40)),
)
def test_whatever_the_reasons_every_line_is_accepted(decisions, options, control, seeds):
    """Claims of any reasons about a run of any options."""
    (run,) = trained(simulated_run(steps=30, control=min(options["control_experts"], 2)), **options)
    each = judge_each([run], Thresholds())
    verdict = combine_judgements((), (), each, Thresholds()).verdict
    claims = tuple(
        Claim(name, status, "so", reason, "So", control=control, seeds_needed=seeds)
        for name, (reason, status) in zip(CLAIMS, decisions, strict=True)
    )
    (group,) = verdict.groups
    found = [*advise([each[0].measured], replace(verdict, groups=(replace(group, role="treated", claims=claims),)), [])]
    for one in found:
        assert one.text
        assert one.run == run.id
        if one.options:
            changes = dict(option.split("=") for option in one.options)
            parse_config({**RunConfig().facts(), **options, **changes})
        if one.grid:
            assert 2 <= one.runs <= 2 * (MOST_SEEDS + 1)


def test_a_refuted_study_gets_the_documented_advice(monkeypatch):
    monkeypatch.setitem(LEVEL, "bottom", 0.02)  # of dormant bottom weights
    advice = named_advice(*trained(*study(6, probed_run, **EXPERTS)))
    assert advice["raise_scale"].grid == ("perturbation_scale=0,2", "seed=0..5")
    assert advice["adjust_sparsity"].options == ("sparsity=0.2",)


def test_a_larger_sparsity_is_not_advised_beside_a_smaller_one():
    advice = named_advice(*trained(*study(6, probed_run, **EXPERTS)))
    assert "raise_scale" in advice
    assert advice["premise_fails"].options == ("sparsity=0.05",)
    assert "adjust_sparsity" not in advice


def test_a_perturbation_that_is_not_ours_is_not_given_our_scale():
    """Its number may be a share of weights that begin anew, of which 2.0 is none."""
    runs = [named(run, run.id, perturbation_scale=0.5) for run in study(6, probed_run, **EXPERTS)]
    theirs = []
    for run in runs:
        facts = {name.replace("config.", "option."): value for name, value in run.facts.items()}
        theirs.append(replace(run, facts=facts))
    assert "scale 2 in six seeds" in named_advice(*runs)["raise_scale"].text
    advice = named_advice(*theirs)["raise_scale"]
    assert "in the unit of this training" in advice.text
    assert "scale 2" not in advice.text


def test_a_study_at_scale_two_is_advised_a_larger_scale():
    runs = trained(*study(6, probed_run, **EXPERTS), perturbation_scale=2.0)
    assert named_advice(*runs)["raise_scale"].grid[0] == "perturbation_scale=0,4"


def test_the_router_comes_first_when_it_collapsed_and_the_step_is_named():
    run = simulated_run(steps=400)
    share = np.where(run.steps < 120, 0.5, 0.999)
    collapsed = with_norms(with_norms(run, 0, routing_weight=1 - share), 1, routing_weight=share)
    first = advised(*trained(collapsed))[0]
    assert first.id == "router_first"
    assert "from step 120," in first.text


def test_a_run_of_one_common_gradient_gets_options_that_show_a_direction():
    advice = named_advice(*KINDS["one common gradient"]())
    assert advice["see_direction"].options == ("merge=example", "probe_freq=1", "control_experts=3")
    assert advice["see_direction"].runs == 12
    assert "add_control" not in advice


def test_noise_asks_for_larger_batches_and_missing_directions_for_a_probe():
    noisy = trained(*study(6, probed_run, **EXPERTS, reliability=0.02))
    assert named_advice(*noisy)["see_direction"].options == ("batch_size=16",)
    unseen = trained(*study(6, **EXPERTS))
    assert named_advice(*unseen)["see_direction"].options == ("probe_freq=1",)


def test_a_missing_control_is_named_and_three_are_asked_for():
    assert named_advice(*trained(simulated_run(divergence=0.6)))["add_control"].options == ("control_experts=3",)
    few = named_advice(*trained(*study(3, perturbed=3, control=1)))
    assert few["more_controls"].options == ("control_experts=3",)
    assert "more_controls" not in named_advice(*trained(*study(3, **EXPERTS)))


def test_too_few_planned_rows_are_mended_by_logging_more_often():
    (option,) = named_advice(*KINDS["few planned rows"]())["log_more"].options
    assert option == "log_freq=10"


def test_an_unfinished_training_is_to_be_finished():
    runs = [replace(run, facts={**run.facts, "planned_steps": 900}) for run in trained(*study(6, **EXPERTS))]
    assert "finish_training" in named_advice(*runs)


def test_a_failed_premise_is_named():
    advice = named_advice(*trained(simulated_run(sd=0.02)))
    assert "nothing dormant to awaken" in advice["premise_fails"].text
    assert advice["premise_fails"].options == ("sparsity=0.05",)


def zeroed(run: Run) -> Run:
    return with_norms(with_norms(run, 1, bottom_norm=np.zeros(600)), 0, bottom_norm=np.zeros(600))


def test_broken_data_is_mended_before_anything_else():
    advice = advised(*trained(zeroed(simulated_run())))
    assert [one.id for one in advice] == ["mend_the_data"]


def test_a_broken_run_first_of_a_study_does_not_stand_for_the_others():
    """The broken run has no control expert; the others have three."""
    runs = trained(*study(7, probed_run, **EXPERTS))
    broken = replace(runs[0], experts={e: one for e, one in runs[0].experts.items() if e in (1, 2)}, isolated=None)
    advice = advised(broken, *runs[1:])
    assert advice[0].id == "mend_the_data"
    assert not {one.id for one in advice} & {"more_controls", "add_control"}


def test_one_supported_run_asks_for_other_seeds():
    advice = advised(*trained(simulated_run(**EXPERTS, awakening=1.5, divergence=0.9), seed=4))
    assert [(one.id, one.grid[1]) for one in advice] == [("replicate", "seed=0..5")]


def test_a_supported_study_needs_no_command():
    (advice,) = advised(*trained(*study(6, **EXPERTS, awakening=1.5, divergence=0.9)))
    assert (advice.id, advice.line) == ("generalise", "")


def test_self_tests_lead_to_the_experiment_that_they_belong_to():
    (shams,) = advised(*trained(simulated_run(), perturbation_scale=0.0))
    assert (shams.id, shams.grid[0]) == ("train_perturbed", "perturbation_scale=0,1")
    (planted,) = advised(*trained(simulated_run(), positive_control=1.5))
    assert planted.options == ("positive_control=1",)
    missed = trained(*study(6, probed_run, **EXPERTS), positive_control=1.5)
    assert [one.id for one in advised(*missed)] == ["self_test_failed"]
    beside = advised(*trained(simulated_run(seed=3)), *trained(simulated_run(), positive_control=1.5))
    assert not {one.id for one in beside} & {"train_unplanted", "self_test_failed"}


@pytest.mark.parametrize(("seeds", "text"), [(1, "one run cannot"), (2, "2 seeds cannot"), (5, "5 seeds cannot")])
def test_too_few_seeds_ask_for_a_whole_study(seeds, text):
    advice = named_advice(*trained(*study(seeds, **EXPERTS)))
    assert advice["more_seeds"].text.startswith(text)
    assert advice["more_seeds"].grid == ("perturbation_scale=0,1", "seed=0..5")


def test_a_study_without_sham_runs_is_asked_for_them_first():
    ids = [one.id for one in advised(*KINDS["undecided"]())]
    assert ids.index("add_twins") < ids.index("more_seeds")


def test_twins_that_are_there_are_not_asked_for():
    runs = trained(*study(6, probed_run, bottom=0.15, spread=0.1, control=1, twins=True))
    advice = named_advice(
        *runs[:6], *(replace(r, facts={**r.facts, "config.perturbation_scale": 0.0}) for r in runs[6:])
    )
    assert "more_seeds" in advice
    assert "add_twins" not in advice


def test_an_undecided_study_names_the_seeds_that_would_decide():
    advice = [one.text for one in advised(*KINDS["undecided"]()) if one.id == "more_seeds"]
    assert any(text.startswith("awakening needs about ") and text.endswith("there are 6") for text in advice)


def test_an_effect_that_may_or_may_not_last_asks_for_another_seed():
    fading = np.linspace(0.9, 0.35, 600)
    runs = trained(*study(6, **EXPERTS, awakening=1.5, divergence=fading, spread=0.1))
    assert {"add_twins", "more_seeds"} <= {*named_advice(*runs)}


def test_a_run_of_another_trainer_gets_no_options():
    facts = {"config.seed": 1, "config.perturbation_scale": 1.0, "config.sparsity": 0.1, "mixture": "top_k"}
    for run in (simulated_run(divergence=0.6, facts=facts), simulated_run(steps=90, facts=facts)):
        advice = advised(run)
        assert advice
        assert not [one for one in advice if one.options or one.line or "--set" in one.text]
    assert "a control expert" in named_advice(simulated_run(divergence=0.6, facts=facts))["add_control"].text


def test_advice_for_separate_outputs_does_not_mention_merging():
    run = simulated_run(collinear=True, routing_ratio=2.3, facts={"mixture": "outputs"})
    text = named_advice(run)["see_direction"].text
    assert "parallel to expert 0's" in text
    assert "merge" not in text


def test_nobody_is_sent_to_a_stronger_perturbation_or_a_dormant_tier_after_an_awakening():
    runs = trained(*study(6, probed_run, **EXPERTS, bottom=0.6, twins=True))
    found = named_advice(*runs)
    assert not {"raise_scale", "premise_fails"} & found.keys()
