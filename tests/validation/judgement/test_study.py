"""A judgement as that of a study: answers to registered hypotheses, missing runs, thresholds that may not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest

from prismatic.contract.study_plan import Hypothesis, StudyPlan
from prismatic.contract.thresholds import Thresholds
from prismatic.errors import StudyError
from tests.support.peer_runs import peer_run
from tests.support.simulated_runs import named, study
from validation.analysis.run import Run
from validation.judgement.judge import Judgement, combine_judgements, judge_each
from validation.judgement.study import require_registered, study_of

SCALE = "perturbation_scale"
AWAKENS = Hypothesis("supported", claim="awakening")
OUTPUTS = Hypothesis("higher", effect="pair_outputs", of={"method": "drop"}, against={"method": "copy"})


def plan_of(*hypotheses: Hypothesis, **changed) -> StudyPlan:
    thresholds = asdict(Thresholds())
    planned = StudyPlan("dose", ({SCALE: 1.0}, {SCALE: 0.0}), (0, 1, 2, 3, 4, 5), hypotheses, thresholds)
    return replace(planned, **changed)


def registered(runs: Sequence[Run], plan: StudyPlan) -> list[Run]:
    thresholds = Thresholds().changed(plan.thresholds).registration()
    return [replace(run, facts={**run.facts, **thresholds, **plan.facts()}) for run in runs]


def judged(runs: Sequence[Run], thresholds: Thresholds = Thresholds()) -> Judgement:  # noqa: B008 (it is frozen)
    return combine_judgements([], [], judge_each(runs, thresholds), thresholds)


def dose(**made) -> list[Run]:
    return study(6, twins=True, control=1, **made)


def methods(**losses: float) -> list[Run]:
    """Return runs of peers by the method that made them, and by their held-out loss in seed 0."""
    found = []
    for number, (method, loss) in enumerate(losses.items()):
        for seed in range(6):
            run = peer_run(experts=4, seed=seed, noise_seed=10 * number + seed)
            run = named(run, f"{method}{seed}", method=method, seed=seed)
            found.append(replace(run, facts={**run.facts, "held_out_loss": loss + 0.1 * seed}))
    return found


def test_a_hypothesis_about_a_claim_has_the_answer_of_the_claim():
    awake = study_of(judged(registered(dose(awakening=1.5), plan_of(AWAKENS))))
    asleep = study_of(judged(registered(dose(), plan_of(AWAKENS, Hypothesis("refuted", claim="awakening")))))
    assert [each.status for each in awake.answers] == ["confirmed"]
    assert [each.status for each in asleep.answers] == ["contradicted", "confirmed"]
    assert "awakening is refuted" in asleep.answers[0].because
    assert asleep.because == "12 of 12 planned runs are here"


def test_an_experiment_that_decides_nothing_leaves_the_hypothesis_open():
    runs = registered(dose(awakening=1.5), plan_of(AWAKENS))
    some = [run for run in runs if run.seed < 4]
    found = study_of(judged(some))
    assert found.answers[0].status == "open"
    assert found.missing == [f"{SCALE}={scale} seed={seed}" for scale in ("1.0", "0.0") for seed in (4, 5)]
    assert found.because.startswith(f"8 of 12 planned runs are here; missing: {SCALE}=1.0 seed=4")


def test_a_control_answers_only_if_the_hypothesis_names_it():
    named_too = Hypothesis("refuted", claim="awakening", of={SCALE: 0.0})
    treated, sham = study_of(judged(registered(dose(awakening=1.5), plan_of(AWAKENS, named_too)))).answers
    assert [part.experiment for part in treated.parts] == [f"{SCALE}=1.0"]
    assert [part.experiment for part in sham.parts] == [f"{SCALE}=0.0"]


def test_plain_copies_are_a_control_that_a_hypothesis_names_by_their_method():
    runs = [named(run, run.id, upcycle_method="copy" if run.is_sham else "drop") for run in dose(awakening=1.5)]
    copies = Hypothesis("refuted", claim="awakening", of={"upcycle_method": "copy"})
    methods = ({"upcycle_method": "drop"}, {"upcycle_method": "copy"})
    treated, sham = study_of(judged(registered(runs, plan_of(AWAKENS, copies, experiments=methods)))).answers
    assert len(treated.parts) == len(sham.parts) == 1
    assert treated.parts[0].experiment != sham.parts[0].experiment


@pytest.mark.parametrize(
    ("expect", "by", "losses", "answer"),
    [
        ("higher", 0.0, {"drop": 2.5, "copy": 2.0}, "confirmed"),
        ("lower", 0.0, {"drop": 2.5, "copy": 2.0}, "contradicted"),
        ("lower", 0.0, {"drop": 1.5, "copy": 2.0}, "confirmed"),
        ("higher", 0.6, {"drop": 2.5, "copy": 2.0}, "contradicted"),
        ("higher", 0.4, {"drop": 2.5, "copy": 2.0}, "confirmed"),
        ("lower", 0.4, {"drop": 1.5, "copy": 2.0}, "confirmed"),
        ("lower", 0.6, {"drop": 1.5, "copy": 2.0}, "contradicted"),
    ],
)
def test_two_experiments_are_compared_seed_by_seed(expect: str, by: float, losses: dict, answer: str):
    compared = Hypothesis(expect, effect="held_out_loss", of={"method": "drop"}, against={"method": "copy"}, by=by)
    plan = plan_of(compared, experiments=({"method": "drop"}, {"method": "copy"}))
    (found,) = study_of(judged(registered(methods(**losses), plan))).answers
    assert found.status == answer
    (part,) = found.parts
    difference = losses["drop"] - losses["copy"]
    assert (part.estimate, part.low, part.high) == pytest.approx((difference,) * 3)
    assert part.seeds == 6


def test_the_difference_of_pairs_between_experiments_is_that_of_their_means():
    plan = plan_of(OUTPUTS, experiments=({"method": "drop"}, {"method": "copy"}))
    (found,) = study_of(judged(registered(methods(drop=2.0, copy=2.0), plan))).answers
    assert found.status == "open"  # all pairs of both disagree by 0.4
    assert (found.parts[0].estimate, found.parts[0].seeds) == (pytest.approx(0, abs=1e-12), 6)


def test_too_few_common_seeds_decide_nothing():
    plan = plan_of(OUTPUTS, experiments=({"method": "drop"}, {"method": "copy"}))
    runs = registered(methods(drop=2.0, copy=2.0), plan)
    without = [run for run in runs if run.id != "copy3"]
    (found,) = study_of(judged(without)).answers
    assert (found.status, found.parts[0].seeds) == ("open", 5)
    assert (
        study_of(judged([run for run in runs if "drop" in run.id]))
        .answers[0]
        .because.endswith("no run of method=copy is here")
    )


def test_runs_that_were_not_planned_or_registered_no_plan_are_named():
    runs = dose()
    found = study_of(judged([*registered(runs[1:], plan_of(seeds=(0, 1, 2, 3, 4))), runs[0]]))
    assert "without a registered plan: perturbation_scale=1.0 seed=0" in found.because
    assert found.because.endswith("not planned: 5, sham 5")


def test_plans_that_add_seeds_are_one_study_and_plans_with_other_hypotheses_are_none():
    runs = dose()
    added = [*registered(runs[:3], plan_of(AWAKENS, seeds=(0, 1, 2))), *registered(runs[3:], plan_of(AWAKENS))]
    assert len(study_of(judged(added)).runs) == 12
    other = [*registered(runs[:3], plan_of()), *registered(runs[3:], plan_of(AWAKENS))]
    assert study_of(judged(other)) is None
    with pytest.raises(StudyError, match="2 plans with other hypotheses or thresholds"):
        require_registered(judged(other), study=True)


def test_an_altered_plan_is_no_plan():
    (run,) = registered(dose()[:1], plan_of(AWAKENS))
    text = run.facts["study.plan"].replace("supported", "refuted")
    assert study_of(judged([replace(run, facts={**run.facts, "study.plan": text})])) is None


def test_a_study_is_not_judged_by_other_thresholds_than_it_registered():
    runs = registered(dose(), plan_of(AWAKENS))
    require_registered(judged(runs), study=True)
    laxer = Thresholds().changed({"awakening_ratio": 1.05})
    with pytest.raises(StudyError, match=r"awakening_ratio 1\.1 instead of 1\.05.*leave out --set"):
        require_registered(judged(runs, laxer))
    require_registered(judged(dose(), laxer))  # runs of no study may be judged by any


def test_other_runs_are_no_study():
    assert study_of(judged(dose())) is None
    with pytest.raises(StudyError, match="registered no plan of a study"):
        require_registered(judged(dose()), study=True)
