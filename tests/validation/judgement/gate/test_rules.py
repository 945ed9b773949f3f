"""The gate's table: each line with the smallest study that it applies to, and the number of seeds that it asks for."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.support.simulated_runs import named
from tests.validation.judgement.gate.conftest import judged, registered, sham_runs
from validation.analysis.run import Run
from validation.diagnostics import WARNING, Finding
from validation.judgement.gate.decision import Gate, gate
from validation.judgement.gate.rules import LINES, REASONS

SIX, EFFECT = range(6), {"awakening": 1.5}


def asked(runs: list[Run], claim: str = "awakening", **changed: float) -> Gate:
    return gate(judged(runs, claim, **changed), claim)


def answered(runs: list[Run], **changed: float) -> tuple[str | None, str, int, int]:
    found = asked(runs, **changed)
    return found.answer, found.reason, found.more_seeds, found.more_sham_seeds


def test_a_supported_claim_of_a_registered_study_with_a_clear_pair_is_kept(made):
    found = asked(registered(made(6, **EFFECT), SIX))
    assert (found.answer, found.reason, found.more_seeds) == ("keep", "supported", 0)
    ((experiment, ruling),) = found.experiments
    assert experiment.aa.result == "clear"
    assert ruling.because == experiment.claim.because == found.because


def test_a_pair_that_fails_keeps_nothing(made):
    runs = registered(made(6, twins=False, awakening=2.5) + sham_runs(6, **EFFECT), SIX)
    assert answered(runs) == ("discard", "aa_fails", 0, 0)
    assert asked(runs).without_verdict


def test_a_refuted_claim_is_discarded(made):
    assert answered(registered(made(6), SIX)) == ("discard", "refuted", 0, 0)


def test_a_claim_whose_data_is_no_evidence_is_discarded(made):
    runs = registered(made(6, **EFFECT), SIX)
    again = replace(runs[0], id="again")
    assert answered([*runs, again]) == ("discard", "invalid", 0, 0)
    assert asked([*runs, again]).without_verdict


def test_nothing_is_decided_before_the_planned_end(made):
    for seeds in (6, 7, 8):
        runs = [run for run in made(8, **EFFECT) if run.seed < seeds]
        assert answered(registered(runs, range(9))) == ("more_seeds", "seeds_missing", 9 - seeds, 0)


def test_a_run_that_is_still_trained_is_missing(made):
    runs = registered(made(6, **EFFECT), SIX)
    runs[2] = runs[2].between(0, 38)
    found = asked(runs)
    assert (found.answer, found.reason, found.more_seeds) == ("more_seeds", "seeds_missing", 1)
    assert "missing: 2." in found.because


def test_seeds_that_may_have_been_chosen_need_a_registered_study_of_others(made):
    assert answered(made(6, **EFFECT)) == ("more_seeds", "not_registered", 6, 0)
    one_by_one = [run for seed in SIX for run in registered([r for r in made(6, **EFFECT) if r.seed == seed], [seed])]
    assert answered(one_by_one) == ("more_seeds", "not_registered", 6, 0)


def test_a_pair_of_too_few_sham_runs_asks_for_the_others(made):
    runs = made(6, **EFFECT)
    assert answered(registered([*runs[:6], *runs[6:8]], SIX)) == ("more_seeds", "aa_needed", 0, 4)


def test_thresholds_that_make_it_easy_are_not_accepted(made):
    assert answered(registered(made(6, **EFFECT), SIX), alpha=0.1) == ("discard", "thresholds", 0, 0)


def test_a_planted_effect_and_runs_without_a_perturbation_are_no_result(made):
    planted = [named(run, run.id, positive_control=1.5) for run in made(6, twins=False, **EFFECT)]
    assert answered(registered(planted, SIX)) == ("discard", "no_result", 0, 0)
    nothing = [run for run in made(6, **EFFECT) if run.is_sham]
    assert answered(registered(nothing, SIX)) == ("discard", "no_result", 0, 0)


def test_a_design_that_cannot_show_the_claim_is_discarded(made):
    assert answered(registered(made(6, collinear=True), SIX)) == ("discard", "design", 0, 0)


def test_a_warning_about_the_data_keeps_nothing(made):
    judgement = judged(registered(made(6, **EFFECT), SIX))
    warning = Finding("clipped", WARNING, "seen", "evidence", "cause", "fix", "3")
    of_another = replace(warning, run="another")
    assert gate(replace(judgement, findings=(of_another,)), "awakening").answer == "keep"
    found = gate(replace(judgement, findings=(warning,)), "awakening")
    assert (found.answer, found.reason) == ("discard", "warnings")
    assert found.because == "the data has warnings: clipped [3]"


def test_one_run_needs_five_more_seeds(made):
    alone = [replace(made(6, **EFFECT)[0], facts={**made(6, **EFFECT)[0].facts})]
    assert answered(registered(alone, SIX)) == ("more_seeds", "seeds_missing", 5, 0)


@pytest.mark.parametrize("looks", [1, 2])
def test_an_open_claim_needs_the_seeds_that_decide_at_the_next_look(made, looks):
    """The first number of seeds at which a t interval at that alpha reaches from the effect to its margin."""
    runs = made(8, awakening=1.08, spread=0.08)
    plans = [SIX if looks == 2 and run.seed < 6 else range(8) for run in runs]
    found = asked([registered([run], plan)[0] for run, plan in zip(runs, plans, strict=True)])
    ((experiment, _),) = found.experiments
    assert (found.answer, found.reason, experiment.plans.looks) == ("more_seeds", "undecided", looks)
    x_S = np.array([values["bottom"] for values in experiment.group.values["awakening"].values()])
    alpha = 0.05 / (looks * (looks + 1))
    seeds = 6
    while abs(x_S.mean() - np.log(1.1)) < (
        (stats.t.ppf(1 - alpha / 2, seeds - 1) + stats.t.ppf(0.8, seeds - 1)) * x_S.std(ddof=1) / np.sqrt(seeds)
    ):
        seeds += 1
    assert found.more_seeds == max(1, seeds - 8)


def test_a_claim_that_no_number_of_seeds_decides_is_discarded(made):
    found = asked(registered(made(6, awakening=1.1, spread=0.2), SIX))
    assert (found.answer, found.reason) in {("discard", "undecided"), ("more_seeds", "undecided")}
    if found.answer == "more_seeds":
        assert found.more_seeds > 50


def test_several_experiments_have_the_least_favourable_answer(made):
    strong, weak = made(6, twins=False, **EFFECT), made(6, twins=False)
    controls = [run for run in made(6) if run.is_sham]
    runs = registered(strong + [named(run, f"w{run.id}", perturbation_scale=0.5) for run in weak] + controls, SIX)
    found = asked(runs)
    assert [ruling.answer for _, ruling in found.experiments] == ["discard", "keep"]
    assert found.answer == "discard"
    assert found.because == "in 1 of 2 experiments: perturbation_scale=0.5 (refuted)"


def test_a_file_that_cannot_be_read_has_no_answer():
    found = asked([])
    assert (found.answer, found.reason) == (None, "unreadable")


def test_the_last_line_alone_keeps_and_the_lines_have_the_order_of_their_reasons():
    assert [*LINES] == [*REASONS]
    assert REASONS[0] == "aa_fails"
    assert REASONS[-1] == "supported"
