"""The plan of a study as one text with its hash: the same when read again, and refused when anybody changed it."""

import json
from dataclasses import asdict, replace

import pytest

from prismatic.contract.study_plan import Hypothesis, StudyPlan, read_plan
from prismatic.contract.thresholds import Thresholds

COMPARED = Hypothesis("lower", effect="size", of={"method": "drop"}, against={"method": "copy"}, by=0.1)
PLAN = StudyPlan(
    name="dose",
    question="do experts awaken?",
    experiments=({"perturbation_scale": 0.0}, {"perturbation_scale": 1.0}),
    seeds=(0, 1, 2),
    hypotheses=(Hypothesis("supported", claim="awakening"), COMPARED),
    thresholds={name: float(value) for name, value in asdict(Thresholds()).items()},
)


def test_a_plan_is_the_same_when_it_is_read_again():
    facts = json.loads(json.dumps(PLAN.facts()))
    assert read_plan(facts) == PLAN == StudyPlan.from_text(PLAN.text)
    assert facts["study.plan_sha256"] == PLAN.sha256


def test_more_seeds_and_experiments_keep_the_promise_and_other_hypotheses_or_thresholds_break_it():
    assert replace(PLAN, seeds=(0, 1, 2, 3), experiments=()).promise == PLAN.promise
    assert replace(PLAN, hypotheses=()).promise != PLAN.promise
    assert replace(PLAN, thresholds={"alpha": 0.1}).promise != PLAN.promise


@pytest.mark.parametrize("changed", [{"study.plan_sha256": "0" * 64}, {"study.plan": 3}, {"study.plan": "{}"}])
def test_an_altered_registration_is_none(changed: dict):
    assert read_plan({**PLAN.facts(), **changed}) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "../x"},
        {"name": 3},
        {"seeds": ["0"]},
        {"seeds": [True]},
        {"seeds": None},
        {"experiments": [{"a": {"b": 1}}]},
        {"experiments": [3]},
        {"hypotheses": [{"claim": "awakening", "expect": "higher"}]},
        {"hypotheses": [{"claim": "awakening"}]},
        {"hypotheses": [{"claim": ["awakening"], "expect": "supported"}]},
        {"hypotheses": [{"effect": "size", "expect": "lower"}]},
        {"hypotheses": [{"effect": "size", "expect": "lower", "against": {"a": 1}, "by": "1"}]},
        {"hypotheses": [{"expect": "supported", "claim": "awakening", "more": 1}]},
        {"hypotheses": [{"expect": "supported", "claim": "awakening"}] * 1001},
        {"thresholds": {"alpha": "much"}},
        {"thresholds": []},
    ],
)
def test_a_text_that_is_no_plan_is_none_whatever_its_hash(changed: dict):
    assert StudyPlan.from_text(json.dumps({**json.loads(PLAN.text), **changed})) is None


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, '"a"'])
def test_any_other_text_is_no_plan(text: str):
    assert StudyPlan.from_text(text) is None


@pytest.mark.parametrize(
    ("hypothesis", "sentence"),
    [
        (PLAN.hypotheses[0], "awakening is supported in every treated experiment"),
        (COMPARED, "size is lower by more than 0.1 in method=drop than in method=copy"),
        (Hypothesis("refuted", claim="distinct", of={"k": 2}), "distinct is refuted in k=2"),
    ],
)
def test_a_hypothesis_is_one_sentence(hypothesis: Hypothesis, sentence: str):
    assert hypothesis.sentence == sentence
