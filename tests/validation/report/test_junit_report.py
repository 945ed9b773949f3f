"""JUnit XML: which claims and findings pass, fail, are skipped, or are errors."""

import pytest

from tests.support.report_readers import ROOT, judged, outcomes, suites
from tests.support.simulated_runs import simulated_run, write
from validation.files.sources import read_sources
from validation.judgement.judge import judge
from validation.report.junit_report import as_junit


@pytest.mark.parametrize(
    ("run", "outcome", "strictly"),
    [
        ({"awakening": 1.5, "divergence": 0.5, "control": True}, [], []),
        ({"routing_ratio": 1.0, "scale": 0.01, "control": True}, ["failure"], ["failure"]),
        ({"collinear": True, "routing_ratio": 2.3}, ["skipped"], ["failure"]),
    ],
)
def test_a_status_is_an_outcome(tmp_path, run, outcome, strictly):
    judgement = judged(write(simulated_run(**run), tmp_path / "dynamics.db"))
    for strict, expected in ((False, outcome), (True, strictly)):
        (suite,) = suites(as_junit(judgement, strict=strict)).values()
        assert outcomes(suite)["awakening"] == expected
        assert "awakening, expert 1" in outcomes(suite)


def test_invalid_data_and_unreadable_files_are_errors(tmp_path):
    (tmp_path / "notes.db").write_text("no database")
    judgement = judge(*read_sources([tmp_path / "notes.db", ROOT / "examples" / "zero-norms.db"]))
    files, run = suites(as_junit(judgement)).values()
    assert outcomes(files) == {"not_a_run": ["error"]}
    assert outcomes(run)["awakening"] == outcomes(run)["zero_norms"] == ["error"]


def test_there_is_a_suite_per_run_per_group_and_for_all(seeds):
    names = list(suites(as_junit(judged(*seeds))))
    assert sum(name.startswith("run ") for name in names) == 9
    assert next(name for name in names if name.startswith("group ")) == "group perturbation_scale=0.0"
    assert names[-1] == "all runs"


def test_a_sham_run_beside_others_fails_nothing_by_being_refuted(seeds):
    report = suites(as_junit(judged(*seeds), strict=True))
    assert outcomes(report["group perturbation_scale=0.0"])["awakening"] == ["skipped"]
    assert outcomes(report["group perturbation_scale=2.0"])["awakening"] == []
    assert "for the other runs" not in as_junit(judged(*seeds[:3]))


def test_no_word_of_a_file_breaks_the_xml(hostile):
    text = as_junit(hostile)
    assert suites(text)
    text.encode()
    assert not set("\x00\x1b\ud800") & set(text)
