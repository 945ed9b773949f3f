"""JUnit XML: which claims, checks and findings pass, fail, are skipped, or are errors."""

import pytest

from tests.support.report_readers import ROOT, judged, outcomes, suites
from tests.support.simulated_runs import simulated_run, write
from validation.files.sources import read_sources
from validation.judgement.judge import judge
from validation.report.junit_report import as_junit

THREE_EACH = {"perturbed": 3, "control": 3}


@pytest.mark.parametrize(
    ("run", "outcome", "strictly"),
    [
        ({"awakening": 1.5, "divergence": 0.5, **THREE_EACH}, [], []),
        ({"spread": 0.01, **THREE_EACH}, ["failure"], ["failure"]),
        ({"collinear": True, "routing_ratio": 2.3}, ["skipped"], ["failure"]),
    ],
)
def test_a_status_is_an_outcome(tmp_path, run, outcome, strictly):
    judgement = judged(write(simulated_run(**run), tmp_path / "dynamics.db"))
    for strict, expected in ((False, outcome), (True, strictly)):
        (suite,) = suites(as_junit(judgement, strict=strict)).values()
        assert outcomes(suite)["awakening"] == expected


def test_invalid_data_and_unreadable_files_are_errors(tmp_path):
    (tmp_path / "notes.db").write_text("no database")
    judgement = judge(*read_sources([tmp_path / "notes.db", ROOT / "examples" / "zero-norms.db"]))
    files, run = suites(as_junit(judgement)).values()
    assert outcomes(files) == {"not_a_run": ["error"]}
    assert outcomes(run)["awakening"] == outcomes(run)["zero_norms"] == ["error"]


def test_there_is_a_suite_per_run_per_group_and_for_all(seeds):
    names = list(suites(as_junit(judged(*seeds))))
    assert sum(name.startswith("run ") for name in names) == 18
    assert next(name for name in names if name.startswith("group ")) == "group perturbation_scale=1.0"
    assert names[-1] == "all runs"


def test_a_control_passes_if_its_check_does(seeds, study_of_positives):
    report = suites(as_junit(judged(*seeds), strict=True))
    assert outcomes(report["group perturbation_scale=0.0"]) == {"check": []}
    assert outcomes(report["group perturbation_scale=2.0"])["awakening"] == []
    (of_sham,) = [suite for name, suite in report.items() if name.startswith("run 00abcdef0 ")]
    assert outcomes(of_sham)["awakening"] == ["skipped"]
    assert "for the other runs" not in as_junit(judged(*seeds[:6]))
    single = suites(as_junit(judged(*seeds[6:12], study_of_positives[-1]), strict=True))
    assert [outcomes(suite) for suite in single.values() if "check" in outcomes(suite)] == [{"check": ["failure"]}]


def test_strict_fails_what_the_exit_code_objects_to(seeds):
    lax = judge(*read_sources(seeds[6:12]), {"awakening_ratio": 1.05})
    assert outcomes(suites(as_junit(lax, strict=True))["thresholds"]) == {"thresholds": ["failure"]}
    assert "thresholds" not in suites(as_junit(lax))


def test_numbers_name_their_units(seeds):
    text = as_junit(judged(*seeds[6:12]))
    assert "over 6 seeds, threshold 1.10x" in text
    assert "in this run, threshold 1.10x" in text


def test_no_word_of_a_file_breaks_the_xml(hostile):
    text = as_junit(hostile)
    assert suites(text)
    text.encode()
    assert not set("\x00\x1b\ud800") & set(text)
