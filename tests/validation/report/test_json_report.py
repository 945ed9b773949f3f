"""The JSON of a verdict is as docs/check.schema.json describes it."""

import json

import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.report_readers import EXAMPLES, NOW, SCHEMA, judged, read, validated
from tests.support.simulated_runs import simulated_run, write
from validation.cli.main import main
from validation.files.sources import read_sources
from validation.judgement.baseline import compare
from validation.judgement.judge import judge
from validation.report.html_report import as_html, as_markdown
from validation.report.json_report import as_json
from validation.verdict.claims import Reason


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_object_is_as_the_schema_says(example):
    validated(as_json(judged(example)))


def test_the_schema_holds_for_every_kind_of_judgement(kinds):
    reports = {name: as_json(judgement) for name, judgement in kinds.items()}
    for report in reports.values():
        validated(report)
    claims = [claim for report in reports.values() for claim in report["controlled"]["claims"]]
    found = {claim["reason"] for claim in claims} | {report["status"] for report in reports.values()}
    assert found >= {"supported", "inconclusive", "confounded", "invalid", "above_margin", "lasts", "not_finished"}
    assert found >= {"too_few_experts", "too_few_seeds", "nothing_to_compare", "one_common_gradient"}
    assert found >= {"nothing_perturbed", "too_few_planned_rows", "same_in_every_group"}
    checks = {group["check"] for report in reports.values() for group in report["groups"]}
    assert checks >= {None, "passes", "undecided", "found"}


def test_the_schema_holds_for_many_runs_groups_doses_and_a_baseline(seeds, study_of_positives):
    report = as_json(judged(*seeds), compare(judged(*seeds), judged(*seeds[:12])))
    validated(report)
    validated(as_json(judged(*seeds), compare(judged(*seeds), judged(*study_of_positives))))
    assert [(group["role"], group["check"], group["status"]) for group in report["groups"]] == [
        ("treated", None, "supported"),
        ("treated", None, "supported"),
        ("sham", "passes", None),
    ]
    assert [dose["claim"] for dose in report["dose"]] == ["awakening", "divergence"]
    assert [len(values) for values in report["dose"][0]["values"]] == [3] * 6
    assert report["versions"].keys() == {"prismatic", "python", "duckdb", "numpy", "scipy"}
    assert {run["registered"]["status"] for run in report["runs"]} == {"not_registered"}
    assert [check["because"] for check in report["baseline"]["checks"]] == ["still: the A/A check passes"]


def test_the_numbers_of_a_claim_name_their_units(seeds, kinds):
    (over_seeds,) = [c for c in as_json(kinds["study"])["controlled"]["claims"][-3:] if c["claim"] == "awakening"]
    assert (over_seeds["units"], over_seeds["replicate"], over_seeds["twins"], over_seeds["run"]) == (
        6,
        "seed",
        True,
        None,
    )
    assert [part["name"] for part in over_seeds["components"]] == ["bottom"]
    in_run = as_json(kinds["single"])["controlled"]["claims"]
    assert {(claim["units"], claim["replicate"]) for claim in in_run} == {(3, "expert")}
    assert [claim["run"] is None for claim in in_run] == [False] * 3 + [True] * 3
    assert {claim["bins"] for claim in as_json(kinds["unfinished"])["controlled"]["claims"]} == {4}


@pytest.mark.parametrize(
    "arguments", [["absent.db"], ["absent.db", "--set", "alpha=x"], ["absent.db", "--limit", "x=1"]]
)
def test_the_schema_holds_when_nothing_could_be_read(capsys, arguments):
    assert main(["check", "--json", *arguments]) == 2
    validated(json.loads(capsys.readouterr().out))


def keys_of(schema):
    """Yield the name and schema of every key that a schema describes, at any depth."""
    if isinstance(schema, dict):
        yield from schema["properties"].items() if isinstance(schema.get("properties"), dict) else ()
        for value in schema.values():
            yield from keys_of(value)


def test_the_schema_describes_every_key_and_every_reason():
    assert not [name for name, described in keys_of(SCHEMA) if not described.get("description")]
    assert len([*keys_of(SCHEMA)]) > 100
    assert SCHEMA["$defs"]["reason"]["enum"] == [*Reason]


def test_thresholds_changed_after_the_fact_are_named(tmp_path, undrawn):
    file = write(simulated_run(), tmp_path / "x.db", **Thresholds().registration())
    changed = judge(*read_sources([file]), {"awakening_ratio": 1.3})
    report = as_json(changed)
    registered = report["runs"][0]["registered"]
    assert (registered["status"], registered["differences"]) == (
        "changed",
        {"awakening_ratio": {"registered": 1.1, "used": 1.3}},
    )
    assert report["headline"].endswith("(judged with awakening_ratio 1.30 instead of 1.10)")
    words = "changed after the fact, from 1.1 to 1.3"
    for text in (read(as_html(changed, now=NOW)).text, as_markdown(changed, now=NOW)):
        assert words in text
    assert "as registered" in as_markdown(judge(*read_sources([file])), now=NOW)
