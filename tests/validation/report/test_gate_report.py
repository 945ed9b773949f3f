"""The gate's answers about every kind of judgement: by the schema, with their own exit codes, in printable lines."""

from dataclasses import replace

from tests.support.report_readers import validated_gate
from validation.judgement.gate.decision import gate
from validation.judgement.judge import Judgement
from validation.report.gate_report import as_gate_json, gate_exit_code, gate_lines
from validation.verdict.claims import CLAIMS, DISTINCT


def about(judgement: Judgement, claim: str) -> Judgement:
    return replace(judgement, verdict=replace(judgement.verdict, claim=claim))


def test_every_kind_of_judgement_has_an_answer_by_the_schema_and_nothing_unregistered_is_kept(kinds):
    codes, reasons = {}, {}
    for name, judgement in kinds.items():
        for claim in (*CLAIMS, DISTINCT):
            found = gate(shown := about(judgement, claim), claim)
            report, lines = as_gate_json(found, shown), gate_lines(found)
            validated_gate(report)
            assert all(line.isprintable() for line in lines), name
            commands = [f"next: {each['command']}" for each in report["experiments"] if each["command"]]
            assert [line for line in lines if line.startswith("next: ")] == commands
            codes[name, claim], reasons[name, claim] = gate_exit_code(found), found.reason
    assert {*codes.values()} == {1, 2, 3, 4}
    assert codes["nothing", "awakening"] == 2
    of = {name: reasons[name, "awakening"] for name in kinds}
    assert of["study"] == of["doses"] == "not_registered"
    assert of["unfinished"] == "seeds_missing"
    assert of["one gradient"] == of["no control"] == "design"
    assert of["positives"] == "refuted"
    assert of["one positive"] == of["shams"] == "no_result"
