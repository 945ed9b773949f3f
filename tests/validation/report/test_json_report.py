"""The JSON of a verdict is as docs/check.schema.json describes it."""

import json

import pytest

from tests.support.report_readers import EXAMPLES, NOW, judged, read, validated
from tests.support.simulated_runs import simulated_run, write
from validation.cli.main import main
from validation.files.sources import read_sources
from validation.judgement.baseline import compare
from validation.judgement.judge import judge
from validation.report.html_report import as_html, as_markdown
from validation.report.json_report import as_json


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_object_is_as_the_schema_says(example):
    validated(as_json(judged(example)))


def test_the_schema_holds_for_many_runs_groups_and_doses(seeds):
    report = as_json(judged(*seeds), compare(judged(*seeds), judged(*seeds[3:6])))
    validated(report)
    assert len(report["groups"]) == 3
    assert report["groups"][0]["role"] == "sham"
    assert [dose["claim"] for dose in report["dose"]] == ["awakening", "divergence"]
    assert report["versions"].keys() == {"prismatic", "python", "duckdb", "numpy", "scipy"}
    assert {run["registered"]["status"] for run in report["runs"]} == {"not_registered"}


@pytest.mark.parametrize(
    "arguments", [["absent.db"], ["absent.db", "--set", "alpha=x"], ["absent.db", "--limit", "x=1"]]
)
def test_the_schema_holds_when_nothing_could_be_read(capsys, arguments):
    assert main(["check", "--json", *arguments]) == 2
    validated(json.loads(capsys.readouterr().out))


def test_the_schema_holds_whatever_a_file_says(hostile):
    validated(as_json(hostile))


def test_thresholds_changed_after_the_fact_are_named(tmp_path, undrawn):
    from prismatic.contract.thresholds import Thresholds

    file = write(simulated_run(), tmp_path / "x.db", **Thresholds().registration())
    changed = judge(*read_sources([file]), {"awakening_ratio": 1.3})
    registered = as_json(changed)["runs"][0]["registered"]
    assert (registered["status"], registered["differences"]) == (
        "changed",
        {"awakening_ratio": {"registered": 1.1, "used": 1.3}},
    )
    words = "changed after the fact, from 1.1 to 1.3"
    assert words in read(as_html(changed, now=NOW)).text
    assert words in as_markdown(changed, now=NOW)
    assert "as registered" in as_markdown(judge(*read_sources([file])), now=NOW)
