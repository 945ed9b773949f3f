"""The guard around each run: an error of this program is a finding of that run, and no test can miss it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.simulated_runs import named, simulated_run, write
from validation import judge, read_sources
from validation.analysis import load
from validation.cli.main import main
from validation.files.run_file import RunFile
from validation.judgement import judge as judging
from validation.judgement.guard import CaughtError
from validation.query import database
from validation.report import json_report

CAUGHT = pytest.mark.filterwarnings("ignore::validation.judgement.guard.CaughtError")


@pytest.fixture
def files(tmp_path: Path) -> list[RunFile]:
    paths = [
        write(named(simulated_run(seed=n, steps=120, awakening=1.5), f"{n}", width=n), tmp_path / f"{n}.db")
        for n in range(3)
    ]
    return read_sources(paths)[0]


def breaks_on(file: RunFile, function):
    """Return the function, which now raises on everything that has the id of this file."""

    def broken(run, *arguments, **options):
        if run.id == file.id and not run.failure:
            raise IndexError("\x1b[31mno such row")
        return function(run, *arguments, **options)

    return broken


PLACES = [(load, "_load_run"), (judging, "measure_run"), (judging, "diagnose"), (judging, "expert_hashes")]


@CAUGHT
@pytest.mark.parametrize(("module", "name"), PLACES, ids=[name for _, name in PLACES])
def test_a_run_on_which_our_code_fails_has_a_finding_and_the_others_are_judged(monkeypatch, files, module, name):
    before = judge(files)
    monkeypatch.setattr(module, name, breaks_on(files[1], getattr(module, name)))
    after = judge(files)
    (finding,) = [finding for finding in after.findings if finding.id == "unexpected"]
    assert (finding.run, finding.evidence) == (files[1].id, "IndexError: \ufffd[31mno such row")
    for run in (files[0].id, files[2].id):
        assert after.verdict.controlled.of(run) == before.verdict.controlled.of(run)


def test_tests_see_an_error_that_the_guard_caught(monkeypatch, files):
    monkeypatch.setattr(judging, "measure_run", breaks_on(files[1], judging.measure_run))
    with pytest.raises(CaughtError, match="IndexError"):
        judge(files)


@CAUGHT
def test_an_error_that_no_run_causes_alone_is_raised(monkeypatch, files):
    monkeypatch.setattr(judging, "advise", lambda measured, *_: [] if len(measured) < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judge(files)


@CAUGHT
def test_an_output_that_fails_on_a_run_is_written_without_it(monkeypatch, files, capsys):
    paths = [str(file.path) for file in files]
    main(["check", "--json", *paths])
    before = json.loads(capsys.readouterr().out)

    def broken(run, file, registration, function=json_report.run_object):
        if run.id == files[1].id and not run.failure:
            raise RecursionError("too deep")
        return function(run, file, registration)

    monkeypatch.setattr(json_report, "run_object", broken)
    main(["check", "--json", *paths])
    after = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in after["runs"]] == [file.id for file in files]
    assert [finding["run"] for finding in after["diagnostics"] if finding["id"] == "unexpected"] == [files[1].id]
    assert after["runs"][0] == before["runs"][0]


@CAUGHT
def test_a_command_that_fails_says_so_in_one_line(monkeypatch, files, capsys):
    monkeypatch.delenv("PRISMATIC_DEBUG")
    monkeypatch.setattr(judging, "advise", lambda *_: 1 / 0)
    assert main(["check", str(files[0].path)]) == 2
    assert "Traceback" not in (told := capsys.readouterr().err)
    assert "this is a fault of prismatic (ZeroDivisionError: division by zero)" in told


@CAUGHT
def test_query_and_export_leave_out_a_run_on_which_this_program_fails(monkeypatch, files, tmp_path, capsys):
    monkeypatch.setattr(database, "of_steps", breaks_on(files[1], database.of_steps))
    paths = [str(file.path) for file in files]
    assert main(["query", "SELECT run, count(*) AS rows FROM steps GROUP BY ALL ORDER BY run", *paths]) == 0
    said = capsys.readouterr()
    kept = sorted([files[0].id, files[2].id])
    assert said.out.split() == ["run", "rows", *(word for run in kept for word in (run, "120"))]
    assert f"{files[1].name}: no rows of this run, RelationsError: IndexError" in said.err
    target = tmp_path / "rows.csv"
    assert main(["export", *paths, "-o", str(target)]) == 0
    written = {line.partition(",")[0].strip('"') for line in target.read_text().splitlines()[1:]}
    assert written == {*kept}
