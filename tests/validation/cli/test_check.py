"""The command line's contract: exit codes, the JSON object, and what a person reads."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import simulated_run, study, write
from validation.cli.main import main

EXAMPLES = Path(__file__).parents[3] / "examples"
CLAIM_KEYS = {
    "claim",
    "status",
    "reason",
    "headline",
    "because",
    "estimate",
    "low",
    "high",
    "unit",
    "threshold",
    "units",
}
THREE_EACH = {"perturbed": 3, "control": 3}


@pytest.fixture
def check(capsys):
    """Runs `check --json` and gives its exit code and object."""

    def run(*arguments):
        code = main(["check", "--json", *map(str, arguments)])
        return code, json.loads(capsys.readouterr().out)

    return run


def documented_file(path: Path) -> Path:
    """Three experts by the documented schema alone, written by hand: no run table, no shares."""
    tiers = ("top", "bottom", "middle")
    names = [f"expert_{i}_{tier}_norm" for i in range(3) for tier in tiers] + [
        "expert_1_divergence",
        "expert_2_divergence",
    ]
    source = simulated_run(steps=300, divergence=0.4)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"CREATE TABLE dynamics (step INTEGER PRIMARY KEY, {', '.join(f'{name} REAL' for name in names)})")
        for step in range(300):
            norms = [
                float(source.experts[min(i, 1)][f"{tier}_norm"][step]) * (1 + i) for i in range(3) for tier in tiers
            ]
            db.execute(f"INSERT INTO dynamics VALUES ({', '.join('?' * 12)})", [step, *norms, 0.2, 0.3])
    return path


def test_the_object_has_the_documented_keys(check, tmp_path):
    _, report = check(write(simulated_run(), tmp_path / "dynamics.db"))
    assert report["schema"] == "prismatic-verdict/2"
    assert {"status", "headline", "because", "as_written", "controlled", "runs", "diagnostics"} <= report.keys()
    assert {"run", "file", "steps", "experts", "seed", "perturbation_scale"} <= report["runs"][0].keys()
    assert all(
        claim.keys() >= CLAIM_KEYS for reading in ("as_written", "controlled") for claim in report[reading]["claims"]
    )


def test_claims_come_per_run_then_over_all_of_them(check, tmp_path):
    _, report = check(documented_file(tmp_path / "dynamics.db"))
    run = report["runs"][0]["run"]
    claims = [(claim["claim"], claim["run"]) for claim in report["controlled"]["claims"]]
    names = ("awakening", "divergence", "sustainment")
    assert claims == [(name, place) for place in (run, None) for name in names]
    assert [claim["expert"] for claim in report["as_written"]["claims"]] == [1, 1, 1, 2, 2, 2, *[None] * 6]


def test_several_runs_are_judged_over_their_seeds(check, tmp_path):
    runs = study(6, awakening=1.5, divergence=0.5, control=1, steps=200)
    code, report = check(*(write(run, tmp_path / f"{run.seed}.db") for run in runs))
    assert (code, report["status"]) == (0, "supported")
    over_all = report["controlled"]["claims"][-3:]
    assert [(claim["run"], claim["units"], claim["replicate"]) for claim in over_all] == [(None, 6, "seed")] * 3


def test_a_hand_written_file_of_the_documented_schema_is_judged(check, tmp_path):
    code, report = check(documented_file(tmp_path / "dynamics.db"))
    assert code == 3
    assert {claim["reason"] for claim in report["controlled"]["claims"]} == {"nothing_to_compare"}
    assert {claim["status"] for claim in report["as_written"]["claims"] if claim["claim"] == "divergence"} == {
        "supported"
    }


@pytest.mark.parametrize(
    ("run", "code", "status"),
    [
        (simulated_run(awakening=1.5, divergence=0.5, **THREE_EACH), 0, "supported"),
        (probed_run(spread=0.005, scale=0.01), 1, "refuted"),
        (simulated_run(awakening=1.5, control=1), 3, "inconclusive"),
        (simulated_run(collinear=True, routing_ratio=2.3), 3, "confounded"),
    ],
    ids=["supported", "refuted", "inconclusive", "confounded"],
)
def test_exit_codes_are_the_documented_ones(check, tmp_path, run, code, status):
    seen_code, report = check(write(run, tmp_path / "dynamics.db"))
    assert (seen_code, report["status"]) == (code, status)


def test_invalid_data_exits_with_4(check):
    code, report = check(EXAMPLES / "zero-norms.db")
    assert (code, report["status"]) == (4, "invalid")
    assert "zero_norms" in {finding["id"] for finding in report["diagnostics"]}


def test_a_bad_file_exits_with_2_beside_the_verdict_of_a_good_one(check, tmp_path):
    (tmp_path / "notes.db").write_text("not a database at all")
    good = write(simulated_run(), tmp_path / "dynamics.db")
    code, report = check(tmp_path / "notes.db", good)
    assert code == 2
    assert report["runs"][0]["steps"] == 600
    assert report["diagnostics"][0]["id"] == "not_a_run"


def test_the_object_is_printed_even_when_no_file_could_be_read(check, tmp_path):
    code, report = check(tmp_path / "absent.db")
    assert (code, report["status"], report["runs"]) == (2, "invalid", [])
    assert report["diagnostics"]


def test_a_threshold_can_be_set_and_is_shown(check, tmp_path):
    file = write(simulated_run(awakening=1.5, **THREE_EACH), tmp_path / "dynamics.db")
    _, report = check(file, "--set", "awakening_ratio=2.0")
    assert report["thresholds"]["awakening_ratio"] == 2.0
    awakening = report["controlled"]["claims"][0]
    assert (awakening["status"], awakening["threshold"]) == ("refuted", pytest.approx(2.0))
    assert report["headline"].endswith("(judged with awakening_ratio 2 instead of 1.10)")


@pytest.mark.parametrize("override", ["awakening=2", "alpha=1.5", "alpha=x", "alpha=-1", "alpha"])
def test_a_bad_threshold_exits_with_2_and_is_named(capsys, tmp_path, override):
    assert main(["check", str(tmp_path), "--set", override]) == 2
    assert override.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("fact", ["planned_steps", "config.seed", "config.num_experts", "config.perturbation_scale"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1e400", "[1]", '{"a": 1}', '"x"', "true", "1e14"])
def test_a_strange_fact_breaks_neither_its_own_run_nor_the_good_one_beside_it(check, tmp_path, fact, value):
    strange = write(simulated_run(steps=150), tmp_path / "strange.db")
    with closing(sqlite3.connect(strange)) as db, db:
        db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (fact, value))
    code, report = check(strange, write(simulated_run(seed=1), tmp_path / "good.db"))
    assert code != 2
    assert [run["steps"] for run in report["runs"]] == [150, 600]


def test_a_divergence_column_without_values_is_derived(check, tmp_path):
    file = documented_file(tmp_path / "dynamics.db")
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE dynamics SET expert_1_divergence = NULL")
    _, report = check(file)
    assert report["as_written"]["claims"][1]["estimate"] > 0


def test_a_mistyped_option_still_prints_the_object(check, tmp_path):
    code, report = check(tmp_path, "--set", "alpha=x")
    assert (code, report["status"], report["diagnostics"][0]["id"]) == (2, "invalid", "usage")


def test_words_of_a_file_put_no_line_and_no_escape_into_the_terminal(capsys, tmp_path):
    harmful = {
        "exit_state": "\x1b[2JPWNED\nSUPPORTED: yes",
        "planned_steps": 9e9,
        "config.\x1b[2Jevil\nSUPPORTED: yes": 1,
    }
    main(["check", str(write(simulated_run(), tmp_path / "x.db", **harmful))])
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert not any(line.startswith("SUPPORTED") for line in text.splitlines())


def test_a_positive_control_says_so_in_its_first_line(capsys):
    main(["check", str(EXAMPLES / "positive-control.db")])
    assert capsys.readouterr().out.startswith("SELF-TEST PASSED: The verdict found the effect")


def test_the_text_names_the_premise_both_readings_and_the_fix(capsys, tmp_path):
    run, options = (
        simulated_run(collinear=True, routing_ratio=2.3),
        {"config.router_type": "prismatic", "config.merge": "batch"},
    )
    main(["check", "--verbose", str(write(run, tmp_path / "dynamics.db", **options))])
    text = capsys.readouterr().out
    assert text.startswith("CONFOUNDED BY ROUTING: ")
    assert all(word in text for word in ("premise", "controlled", "as written", "fix:", "merge=example"))


def test_python_minus_m_prints_one_object(tmp_path):
    file = write(simulated_run(), tmp_path / "dynamics.db")
    command = [sys.executable, "-m", "validation", "check", str(file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["runs"][0]["steps"] == 600
    assert (done.stderr, done.returncode) == ("", 3)


def test_a_reader_that_has_enough_is_no_verdict_and_no_traceback(tmp_path):
    path = write(simulated_run(), tmp_path / "dynamics.db")
    command = f"{sys.executable} -m validation check --json --no-cache {path} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, cwd=EXAMPLES.parent)
    assert (done.returncode, done.stderr) == (141, "")
