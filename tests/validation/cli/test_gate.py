"""`prismatic gate`: its exit codes, its JSON object by the published schema, its text, and its command."""

import json

import pytest

from tests.support.report_readers import GATE_SCHEMA as GATE
from tests.support.report_readers import validated_gate
from tests.support.simulated_runs import study, write
from tests.validation.judgement.gate.conftest import registered
from validation.cli.main import main
from validation.judgement.gate.rules import REASONS
from validation.report.gate_report import SCHEMA as NAME

TRAINED = {"router_type": "prismatic"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Six seeds of a strong effect with their sham runs, which registered themselves and two more seeds."""
    folder = tmp_path_factory.mktemp("gate")
    runs = registered(study(6, twins=True, steps=60, control=1, awakening=1.5, config=TRAINED), range(8))
    return [write(run, folder / f"{run.id}.db") for run in runs]


@pytest.fixture
def ask(capsys):
    """Runs `gate --json` and gives its exit code and object, after checking this against the schema."""

    def run(*arguments, claim="awakening"):
        code = main(["gate", *map(str, arguments), "--claim", claim, "--json", "--no-cache"])
        report = json.loads(capsys.readouterr().out)
        validated_gate(report)
        assert report["schema"] == NAME
        return code, report

    return run


def test_an_unfinished_plan_needs_its_other_seeds_and_says_how_to_train_them(ask, files, capsys):
    code, report = ask(*files)
    assert (code, report["answer"], report["reason"], report["more_seeds"]) == (3, "more_seeds", "seeds_missing", 2)
    (experiment,) = report["experiments"]
    assert experiment["plan"] == {
        "seeds": [*range(8)],
        "missing": [6, 7],
        "unregistered": [],
        "looks": 1,
        "alpha": 0.05,
    }
    assert experiment["command"].endswith("--grid perturbation_scale=0,1 seed=0..7")
    assert (experiment["claim"]["status"], experiment["aa"]["result"]) == ("supported", "clear")
    assert len({run["sha256"] for run in report["runs"]}) == 12
    assert main(["gate", *map(str, files), "--claim", "awakening", "--no-cache"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("NEEDS 2 MORE SEEDS: 6 of 8 planned seeds are finished; missing: 6..7.")
    assert lines[2].startswith("claim: awakening supported, 1.5")
    assert lines[3].startswith("A/A pair: clear, ")
    assert lines[4] == "plan: 6 of 8 registered seeds are here; look 1, at alpha 0.05"
    assert lines[5] == f"next: {experiment['command']}"


def test_the_exit_code_tells_the_answers_apart(ask, tmp_path):
    six = registered(study(6, twins=True, steps=60, control=1, awakening=1.5), range(6))
    kept = [write(run, tmp_path / f"{n}.db", run_hash=f"{n:02}abcdef1") for n, run in enumerate(six)]
    code, report = ask(*kept)
    assert (code, report["answer"], report["reason"]) == (0, "keep", "supported")
    code, report = ask(kept[0], claim="distinct")
    assert (code, report["answer"], report["reason"]) == (1, "discard", "design")  # no probe compared pairs
    code, report = ask(kept[0], write(six[0], tmp_path / "again.db", run_hash="99abcdef1"))
    assert (code, report["answer"], report["reason"]) == (4, "discard", "invalid")
    code, report = ask(kept[0], tmp_path / "absent.db")
    assert (code, report["answer"], report["reason"]) == (2, None, "unreadable")
    assert [finding["id"] for finding in report["diagnostics"] if finding["run"] is None]
    assert ask(kept[0], "--limit", "x=1")[0] == 2


def test_a_claim_must_be_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["gate", "x.db"])
    assert ended.value.code == 2
    assert "--claim" in capsys.readouterr().err


def test_the_schema_has_every_reason_and_describes_every_key():
    assert GATE["properties"]["reason"]["enum"] == [*REASONS, "unreadable"]
    assert GATE["properties"]["experiments"]["items"]["properties"]["reason"]["enum"] == [*REASONS]

    def keys(schema):
        if isinstance(schema, dict):
            yield from schema["properties"].items() if isinstance(schema.get("properties"), dict) else ()
            for value in schema.values():
                yield from keys(value)

    assert not [name for name, described in keys(GATE) if not described.get("description")]
