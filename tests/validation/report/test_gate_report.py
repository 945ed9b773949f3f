"""The gate's answers about every kind of judgement: by the schema, with their own exit codes, in printable lines."""

from dataclasses import replace

import pytest

from tests.support.report_readers import validated_gate
from validation.judgement.gate.decision import gate
from validation.judgement.judge import Judgement
from validation.report.gate_report import as_gate_json, gate_exit_code, gate_lines
from validation.verdict.claims import CLAIMS, DISTINCT


def about(judgement: Judgement, claim: str) -> Judgement:
    return replace(judgement, verdict=replace(judgement.verdict, claim=claim))


@pytest.mark.parametrize("claim", [*CLAIMS, DISTINCT])
def test_the_schema_holds_and_nothing_unregistered_is_kept(kinds, claim):
    answers = {}
    for name, judgement in kinds.items():
        found = gate(shown := about(judgement, claim), claim)
        report = as_gate_json(found, shown)
        validated_gate(report)
        lines = gate_lines(found)
        assert all(line.isprintable() for line in lines), name
        assert [line for line in lines if line.startswith("next: ")] == [
            f"next: {each['command']}" for each in report["experiments"] if each["command"]
        ]
        answers[name] = (found.answer, gate_exit_code(found))
    assert ("keep", 0) not in answers.values()
    assert answers["nothing"] == (None, 2)
    assert {code for _, code in answers.values()} >= {1, 2}


def test_what_is_missing_decides_the_answer(kinds):
    reasons = {name: gate(about(judgement, "awakening"), "awakening").reason for name, judgement in kinds.items()}
    assert reasons["study"] == reasons["doses"] == "not_registered"
    assert reasons["unfinished"] == "seeds_missing"
    assert reasons["one gradient"] == reasons["no control"] == "design"
    assert reasons["positives"] == "refuted"
    assert reasons["one positive"] == reasons["shams"] == "no_result"
