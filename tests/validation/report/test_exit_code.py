"""Exit codes with --strict and --baseline, and the comparison to a baseline."""

import hashlib
import json
from dataclasses import replace

import pytest

from prismatic.contract.thresholds import PREFIX, Thresholds
from tests.support.report_readers import ROOT, judged, outcomes, suites, validated
from tests.support.simulated_runs import simulated_run, study, write
from validation.cli.main import main
from validation.judgement.baseline import CheckChange, compare
from validation.judgement.judge import judge
from validation.report.exit_code import exit_code, objections

SUPPORTED = {"awakening": 1.5, "divergence": 0.5, "perturbed": 3, "control": 3}


def registered(thresholds, rules=2):
    """Return the facts of a run that registered these thresholds under a version of the rules."""
    values = {name: float(value) for name, value in vars(thresholds).items()}
    if rules == 1:
        values = {name: value for name, value in values.items() if not name.startswith(("min", "rows", "rel", "sat"))}
        values |= {"min_points": 100.0, "min_runs": 3.0, "sham_spread": 2.0}
    facts = {f"{PREFIX}{name}": value for name, value in values.items()}
    hashed = json.dumps({"rules": rules, **values}, sort_keys=True)
    return {**facts, f"{PREFIX}rules": rules, f"{PREFIX}sha256": hashlib.sha256(hashed.encode()).hexdigest()}


def test_strict_takes_no_yes_beside_a_warning(capsys, tmp_path):
    positive = str(
        write(simulated_run(**SUPPORTED), tmp_path / "x.db", planned_steps=600, **{"config.positive_control": 1.5})
    )
    assert main(["check", positive]) == 0
    assert main(["check", positive, "--strict"]) == 3
    assert "positive_control" in capsys.readouterr().err
    assert exit_code(judged(ROOT / "examples" / "zero-norms.db"), strict=True) == 4


def test_strict_takes_a_yes_with_nothing_beside_it(tmp_path):
    good = write(simulated_run(**SUPPORTED), tmp_path / "dynamics.db", planned_steps=600)
    assert exit_code(judged(good), strict=True) == 0


LAX = replace(Thresholds(), awakening_ratio=1.05)
DEMANDING = replace(Thresholds(), awakening_ratio=1.2)


@pytest.mark.parametrize(
    ("facts", "changed", "words"),
    [
        (registered(Thresholds()), [], None),
        (registered(Thresholds(), rules=1), [], None),
        (registered(DEMANDING), [], None),
        ({}, ["awakening_ratio=1.2"], None),
        (registered(LAX), [], "awakening_ratio 1.05 is laxer than the default"),
        ({}, ["awakening_ratio=1.05"], "awakening_ratio 1.05 is laxer than the default"),
        (registered(Thresholds()), ["awakening_ratio=1.2"], "changed after the fact: awakening_ratio from 1.1 to 1.2"),
        (registered(DEMANDING, rules=1), [], "registered under version 1 of the rules, judged under version 2: awak"),
        (registered(Thresholds()) | {f"{PREFIX}alpha": 0.5}, [], "do not match their hash"),
    ],
)
def test_strict_takes_no_yes_by_changed_altered_or_laxer_thresholds(capsys, tmp_path, facts, changed, words):
    file = str(write(simulated_run(**SUPPORTED), tmp_path / "x.db", planned_steps=600, **facts))
    command = ["check", file, *(["--set", *changed] if changed else [])]
    assert main(command) == 0
    assert main([*command, "--strict"]) == (0 if words is None else 3)
    assert (words or "") in capsys.readouterr().err


def test_a_registration_under_other_rules_is_told(tmp_path):
    judgement = judged(
        write(simulated_run(**SUPPORTED), tmp_path / "x.db", planned_steps=600, **registered(Thresholds(), rules=1))
    )
    assert [each.because for each in judgement.registrations] == [
        "registered under version 1 of the rules, judged under version 2"
    ]
    assert objections(judgement) == []


def test_a_lost_claim_is_told_everywhere_and_exits_with_1(capsys, tmp_path, pair):
    before, after = map(str, pair)
    junit = tmp_path / "junit.xml"
    assert main(["check", after, "--baseline", before, "--json", "--junit", str(junit)]) == 1
    report = json.loads(capsys.readouterr().out)
    validated(report)
    (lost,) = [change for change in report["baseline"]["changes"] if change["claim"] == "awakening"]
    assert (lost["before"]["status"], lost["after"]["status"], lost["worsened"]) == ("supported", "refuted", True)
    assert lost["overlap"] is False
    assert lost["difference"] == pytest.approx(lost["after"]["estimate"] - lost["before"]["estimate"])
    suite = suites(junit.read_text())["baseline"]
    run = report["runs"][0]["run"]
    failed = [name for name, outcome in outcomes(suite).items() if outcome == ["failure"]]
    assert failed == [f"run {run}: awakening"]
    main(["check", after, "--baseline", before])
    assert "awakening: supported -> refuted" in capsys.readouterr().out


def test_a_run_is_no_worse_than_itself(capsys, pair):
    before, after = map(str, pair)
    assert main(["check", before, "--baseline", before]) == 0
    assert "nothing that the baseline shows is lost" in capsys.readouterr().out
    assert main(["check", before, "--baseline", before, "--verbose"]) == 0
    assert "still supported" in capsys.readouterr().out
    assert main(["check", before, "--baseline", after]) == 0  # better is no failure


def test_the_verdicts_own_exit_code_stays_beside_a_baseline(pair):
    _, after = pair
    comparison = compare(judged(after), judged(after))
    assert not comparison.worsened
    assert exit_code(judged(after), comparison=comparison) == exit_code(judged(after)) == 1


def test_a_baseline_that_cannot_be_read_exits_with_2(capsys, pair):
    assert main(["check", str(pair[0]), "--baseline", "absent.db", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "supported"
    assert report["baseline"]["diagnostics"]


def test_the_baseline_is_judged_by_the_same_thresholds(capsys, pair):
    before, _ = map(str, pair)
    assert main(["check", before, "--baseline", before, "--set", "awakening_ratio=2.0", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["baseline"]["worsened"]


def test_runs_are_compared_by_id_groups_by_name_and_controls_by_their_check(seeds):
    comparison = compare(judged(*seeds), judged(*seeds[1:]))
    places = {(change.where, change.what) for change in comparison.changes}
    assert {("all runs", "awakening"), ("run 10abcdef0", "divergence")} <= places
    assert {("perturbation_scale=1.0", "awakening"), ("perturbation_scale=2.0", "sustainment")} <= places
    assert not [where for where, _ in places if where.startswith(("run 0", "perturbation_scale=0"))]
    (check,) = comparison.checks
    assert (check.where, check.role, check.after) == ("perturbation_scale=0.0", "sham", "passes")
    assert comparison.unmatched == ("run 00abcdef0 is not in the baseline",)
    assert not comparison.worsened


def test_a_lost_check_is_worse(tmp_path, seeds):
    """Sham runs that show an effect."""
    shams = study(6, scale=0.0, awakening=1.5, control=1, steps=150)
    odd = [write(run, tmp_path / f"{run.id}.db", run_hash=f"0{run.seed}abcdef0") for run in shams]
    now, before = judged(*odd, *seeds[6:12]), judged(*seeds[:12])
    comparison = compare(now, before)
    (check,) = comparison.checks
    assert check.because == "the A/A check passes -> the A/A check fails"
    assert check.worsened
    assert exit_code(now) == 4
    assert exit_code(now, comparison=comparison) == 1


@pytest.mark.parametrize(
    ("before", "after", "worsened"),
    [
        ("passes", "undecided", True),
        ("undecided", "fails", False),
        ("fails", "passes", False),
        ("found", "found", False),
    ],
)
def test_only_a_check_that_passed_can_be_lost(before, after, worsened):
    assert CheckChange("shams", "sham", before, after).worsened is worsened


def test_nothing_is_compared_to_nothing():
    assert compare(judge([]), judge([])).all == ()
