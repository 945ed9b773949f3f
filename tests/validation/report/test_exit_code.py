"""Exit codes with --strict and --baseline, and the comparison to a baseline."""

import json

import pytest

from tests.support.report_readers import ROOT, judged, outcomes, suites, validated
from tests.support.simulated_runs import simulated_run, write
from validation.cli.main import main
from validation.judgement.baseline import compare
from validation.report.exit_code import exit_code


def test_strict_takes_no_yes_beside_a_warning(capsys):
    positive = str(ROOT / "examples" / "positive-control.db")
    assert main(["check", positive]) == 0
    assert main(["check", positive, "--strict"]) == 3
    assert "positive_control" in capsys.readouterr().err
    assert exit_code(judged(ROOT / "examples" / "zero-norms.db"), strict=True) == 4


def test_strict_takes_a_yes_with_nothing_beside_it(tmp_path):
    run = simulated_run(awakening=1.5, divergence=0.5, control=True)
    good = write(run, tmp_path / "dynamics.db", planned_steps=len(run.steps))
    assert exit_code(judged(good), strict=True) == 0


def test_a_lost_claim_is_told_everywhere_and_exits_with_1(capsys, tmp_path, pair):
    before, after = map(str, pair)
    junit = tmp_path / "junit.xml"
    assert main(["check", after, "--baseline", before, "--json", "--junit", str(junit)]) == 1
    report = json.loads(capsys.readouterr().out)
    validated(report)
    (lost,) = [c for c in report["baseline"]["changes"] if c["claim"] == "awakening" and c["expert"] is None]
    assert (lost["before"]["status"], lost["after"]["status"], lost["worsened"]) == ("supported", "confounded", True)
    assert lost["overlap"] is False
    assert lost["difference"] == pytest.approx(lost["after"]["estimate"] - lost["before"]["estimate"])
    suite = suites(junit.read_text())["baseline"]
    run = report["runs"][0]["run"]
    failed = [name for name, outcome in outcomes(suite).items() if outcome == ["failure"]]
    assert failed == [f"run {run}: awakening, expert 1", f"run {run}: awakening"]
    main(["check", after, "--baseline", before])
    assert "awakening: supported -> confounded" in capsys.readouterr().out


def test_a_run_is_no_worse_than_itself(capsys, pair):
    before, after = map(str, pair)
    assert main(["check", before, "--baseline", before]) == 0
    assert "no claim that the baseline supports is lost" in capsys.readouterr().out
    assert main(["check", before, "--baseline", before, "--verbose"]) == 0
    assert "still supported" in capsys.readouterr().out
    assert main(["check", before, "--baseline", after]) == 0  # better is no failure


def test_the_verdicts_own_exit_code_stays_beside_a_baseline(pair):
    _, after = pair
    comparison = compare(judged(after), judged(after))
    assert not comparison.worsened
    assert exit_code(judged(after), comparison=comparison) == exit_code(judged(after)) == 3


def test_a_baseline_that_cannot_be_read_exits_with_2(capsys, pair):
    assert main(["check", str(pair[0]), "--baseline", "absent.db", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "supported"
    assert report["baseline"]["diagnostics"]


def test_the_baseline_is_judged_by_the_same_thresholds(capsys, pair):
    before, _ = map(str, pair)
    assert main(["check", before, "--baseline", before, "--set", "awakening_ratio=2.0", "--json"]) == 3
    assert not json.loads(capsys.readouterr().out)["baseline"]["worsened"]


def test_runs_are_compared_by_id_and_groups_by_name(seeds):
    comparison = compare(judged(*seeds), judged(*seeds[3:]))
    places = {change.where for change in comparison.changes}
    assert {"all runs", "run 10abcdef0", "perturbation_scale=1.0", "perturbation_scale=2.0"} <= places
    assert comparison.unmatched == tuple(f"run 0{seed}abcdef0 is not in the baseline" for seed in range(3))
    assert not comparison.worsened
