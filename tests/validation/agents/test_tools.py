"""The answers to an agent: as the commands answer, bounded, and errors that say what to do."""

import pyarrow as pa
import pytest

from tests.support.report_readers import ROOT, judged
from tests.support.simulated_runs import study, write
from tests.validation.judgement.gate.conftest import registered
from validation.agents import results
from validation.agents.results import TooLargeError, rows_of, shortened
from validation.agents.root import RefusedPathError
from validation.agents.tools import Tools
from validation.query.user_sql import BadQuery
from validation.report.json_report import as_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three of six planned seeds with their sham runs, and the example of a single run beside them."""
    place = tmp_path_factory.mktemp("agents")
    (place / "runs").mkdir()
    for run in registered(study(3, twins=True, steps=60, control=1, awakening=1.5), range(6)):
        write(run, place / "runs" / f"{run.id}.db", held_out_loss=2.0 + run.seed / 10)
    (place / "one.db").write_bytes((ROOT / "examples" / "as-is.db").read_bytes())
    return place


@pytest.fixture(scope="module")
def tools(folder):
    return Tools(folder, cached=False)


def test_check_answers_as_the_command_without_single_runs(tools, folder):
    found, whole = tools.check(["runs"]), as_json(judged(folder / "runs"))
    same = ("schema", "status", "headline", "because", "thresholds", "advice")
    assert {key: found[key] for key in same} == {key: whole[key] for key in same}
    assert [claim["claim"] for claim in found["controlled"]["claims"]] == ["awakening", "divergence", "sustainment"]
    assert found["left_out"]["controlled.claims"] == 18
    assert [run["sha256"] for run in found["runs"]] == [run["sha256"] for run in whole["runs"]]
    assert "options" not in found["runs"][0]
    assert found["groups"][0]["outcome"]["estimate"] == pytest.approx(0.0)
    assert tools.check(["one.db"], "awakening")["claim"] == "awakening"


def test_gate_answers_as_the_command(tools):
    found = tools.gate(["runs"], "awakening")
    assert (found["schema"], found["answer"], found["reason"]) == ("prismatic-gate/1", "more_seeds", "seeds_missing")


@pytest.mark.long
def test_query_answers_one_select_and_bounds_the_rows(tools):
    found = tools.query("SELECT run, count(*) AS n FROM dynamics GROUP BY run ORDER BY run", ["runs"], rows=5)
    assert (found["columns"], len(found["rows"])) == (["run", "n"], 5)
    assert found["notes"] == ["These are the first 5 rows; the query has more."]
    assert tools.query("SELECT 1e999, 'x', NULL, [1]", ["one.db"])["rows"] == [[None, "x", None, [1]]]
    for sql in ("DROP TABLE runs", "SELECT * FROM read_csv('/etc/passwd')", "SELECT"):
        with pytest.raises(BadQuery):
            tools.query(sql, ["one.db"])


@pytest.mark.long
def test_a_file_that_cannot_be_read_is_named(tools, folder):
    (folder / "bad.db").write_text("no run")
    assert tools.check(["bad.db"])["status"] == "invalid"
    assert any(note.startswith("skipped: ") for note in tools.query("SELECT 1", ["bad.db", "one.db"])["notes"])
    (folder / "bad.db").unlink()
    with pytest.raises(RefusedPathError):
        tools.check(["/etc/hosts"])


def test_plan_takes_the_spread_that_is_given_shown_by_runs_or_usual(tools):
    usual = tools.plan("bottom", 1.2)
    assert (usual["spread_from"], [row["seeds"] for row in usual["spreads"]]) == ("usual", [8, 13, 23, 44])
    given = tools.plan("size", 1.0, spread=0.13, seeds=12)
    assert (given["claim"], given["decides"], given["with_seeds"]) == ("divergence", "refuted", 12)
    shown = tools.plan("bottom", 1.2, runs=["runs"])
    assert (shown["spread_from"], len(shown["spreads"])) == ("runs", 1)
    for wrong in ({"spread": 0.1, "runs": ["one.db"]}, {"runs": ["one.db"]}):
        with pytest.raises(ValueError, match=r"both given|three seeds"):
            tools.plan("bottom", 1.2, **wrong)
    with pytest.raises(ValueError, match="expected a factor above 0"):
        tools.plan("bottom", -1.0)


def test_an_answer_that_no_agent_can_read_is_an_error(monkeypatch):
    report = as_json(judged(ROOT / "examples" / "as-is.db"))
    assert shortened(report)["left_out"]
    monkeypatch.setattr(results, "MOST_CHARACTERS", 1000)
    with pytest.raises(TooLargeError, match="name fewer runs"):
        shortened(report)


def test_rows_are_cut_where_they_no_longer_fit(monkeypatch):
    table = pa.table({"text": ["x" * 30] * 10})
    assert len(rows_of(table, [])["rows"]) == 10
    monkeypatch.setattr(results, "MOST_CHARACTERS", 100)
    found = rows_of(table, ["cut"])
    assert len(found["rows"]) == 2
    assert found["notes"] == ["cut", "These are the first 2 rows, which is all that fits."]
