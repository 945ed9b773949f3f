"""Runs of peers in every output: their one claim, by words that name no clean and no perturbed expert."""

import json
import re

import pytest

from tests.support.paired_runs import write_pairs
from tests.support.peer_runs import peer_study, write_peers
from tests.support.report_readers import NOW, judged, validated
from tests.support.simulated_runs import simulated_run, write
from validation.cli.main import main
from validation.report.figures import evidence
from validation.report.html_report import as_html, as_markdown
from validation.report.json_report import as_json
from validation.report.junit_report import as_junit

WORDS_OF_PERTURBATIONS = re.compile(r"\bclean\b|perturbed|awaken|sustain|divergence|dormant|sham|perturbation_scale")


@pytest.fixture(scope="session")
def peers(tmp_path_factory):
    """Six seeds of one training with eight peers."""
    folder = tmp_path_factory.mktemp("peers")
    return tuple(write_peers(run, folder / f"{run.id}.db") for run in peer_study(6, steps=300))


def test_the_roles_of_a_file_are_those_of_peers(peers):
    (run,) = judged(peers[0]).runs
    assert run.peers
    assert {expert.role for layer in (*run.layers, *run.isolated.layers) for expert in layer.values()} == {"peer"}


def test_a_role_of_peers_for_some_experts_only_is_not_one(tmp_path):
    path = write(simulated_run(perturbed=2, steps=100), tmp_path / "some.db")
    assert [expert.role for expert in judged(path).runs[0].experts.values()] == ["clean", "perturbed", "perturbed"]


def test_the_object_of_peers_is_as_the_schema_says(peers):
    for files in (peers, peers[:1]):
        report = as_json(judged(*files))
        validated(report)
        assert (report["claim"], report["status"]) == ("distinct", "supported")
        assert {claim["reason"] for claim in report["controlled"]["claims"]} == {"no_perturbation"}
        assert report["premise"] == report["dose"] == []
        (group,) = report["groups"]
        assert group["role"] == "peers"
        assert group["distinct_claim"]["claim"] == "distinct"
        assert [claim["run"] for claim in report["distinct"]["claims"]][-1] is None


@pytest.mark.parametrize("count", [1, 6])
def test_check_says_nothing_of_a_perturbation(peers, capsys, count):
    assert main(["check", *map(str, peers[:count]), "--verbose"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("SUPPORTED: The experts are distinct")
    assert not WORDS_OF_PERTURBATIONS.search(text)


def test_reports_say_nothing_of_a_perturbation(peers):
    for write_report in (as_html, as_markdown):
        text = write_report(judged(*peers), now=NOW).partition("Thresholds")[0]
        text = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
        assert "distinct" in text
        assert not WORDS_OF_PERTURBATIONS.search(text), WORDS_OF_PERTURBATIONS.search(text)


def test_a_report_draws_how_far_each_two_experts_are_apart(tmp_path):
    judgement = judged(write_pairs(tmp_path / "pairs.db", experts=4, probes=12))
    drawn = evidence(judgement, judgement.runs[0], judgement.files[0])[-2:]
    assert [title.split(" of each two experts")[0] for title, _ in drawn] == ["Direction", "Outputs"]
    assert all(svg.count("<path") >= 4 * 3 for _, svg in drawn)


def test_a_build_server_sees_one_case_for_each_run_and_one_for_all(peers):
    assert as_junit(judged(*peers)).count("<testcase") == len(peers) + 1


@pytest.mark.parametrize(("claim", "code"), [(None, 0), ("distinct", 0), ("awakening", 3), ("sustainment", 3)])
def test_the_exit_code_is_about_the_claim_that_was_asked_for(peers, capsys, claim, code):
    asked = [] if claim is None else ["--claim", claim]
    assert main(["check", "--json", *asked, *map(str, peers)]) == code
    report = json.loads(capsys.readouterr().out)
    validated(report)
    assert report["claim"] == (claim or "distinct")


def test_an_unknown_claim_is_a_usage_error(peers, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["check", "--claim", "everything", str(peers[0])])
    assert stopped.value.code == 2
    assert "invalid choice: 'everything'" in capsys.readouterr().err


def test_a_report_names_the_claim_in_its_command(peers, tmp_path, monkeypatch, undrawn):
    output = tmp_path / "report.html"
    assert main(["report", str(peers[0]), "--claim", "awakening", "-o", str(output)]) == 0
    assert "--claim awakening" in output.read_text()


def test_the_next_step_of_one_run_is_more_seeds(peers, capsys):
    main(["check", str(peers[0])])
    assert "Train 6 seeds" in capsys.readouterr().out
