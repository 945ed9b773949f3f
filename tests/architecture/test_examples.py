"""The example runs: small, and judged as their README promises."""

import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime

import pytest

from prismatic.sweep.study import load_study, plan_study
from tests.support.source_tree import ROOT
from validation import judge
from validation.files.sources import read_sources
from validation.judgement.study import require_registered, study_of
from validation.report.html_report import as_markdown

EXAMPLES = ROOT / "examples"


def test_the_examples_are_small():
    assert all(path.stat().st_size < 700_000 for path in EXAMPLES.glob("*.db"))
    assert sum(path.stat().st_size for path in (EXAMPLES / "study").rglob("*") if path.is_file()) < 1_500_000


STUDIES = sorted((EXAMPLES / "studies").iterdir())


@pytest.mark.long
@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_a_study_is_small_and_whole(study):
    """Its plan is that of its file, and every planned run is here."""
    assert sum(path.stat().st_size for path in study.rglob("*") if path.is_file()) < 1_500_000
    judgement = judge(*read_sources([study]))
    require_registered(judgement, study=True)
    found = study_of(judgement)
    planned = plan_study(load_study(ROOT / "experiments" / "studies" / f"{study.name}.yml")).plan
    assert found.plan == planned
    assert (found.missing, found.extra) == ([], ())
    assert all(run.registered for run in found.runs)
    once, often = (as_markdown(judgement, now=datetime.now(UTC), repeatable=same) for same in (False, True))
    cost = "s of training each, plus start-up; finished ones in build/runs are skipped"
    assert (cost in once) == (study.name == "dose")
    assert "of training each" not in often  # the time that a run took is another one each time
    assert all(file.sha256 in once and file.sha256 not in often for file in judgement.files)


def test_the_examples_are_judged_as_their_readme_promises():
    promised = dict(re.findall(r"^\| `(\S+)` \|.*\| (\w+) \|$", (EXAMPLES / "README.md").read_text(), re.M))
    assert set(promised) == {path.name for path in EXAMPLES.glob("*.db")} | {"study"}
    for name, status in promised.items():
        assert judge(*read_sources([EXAMPLES / name])).verdict.status == status, name


def test_the_study_has_every_run_that_it_registered():
    files, rejected = read_sources([EXAMPLES / "study"])
    assert not rejected
    assert len(files) == files[0].facts["study.runs"]
    assert {file.facts["config.seed"] for file in files} == {*files[0].facts["study.seeds"]}


def test_an_installed_package_has_every_file_of_the_studies():
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    named = {file for patterns in installed.values() for pattern in patterns for file in ROOT.glob(pattern)}
    for folder in (EXAMPLES / "study", EXAMPLES / "studies"):
        assert {file for file in folder.rglob("*") if file.is_file()} <= named


def test_the_table_of_the_benchmarks_is_that_of_their_results():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "table.py"], capture_output=True, text=True, check=True
    )
    assert done.stdout == (ROOT / "benchmarks" / "README.md").read_text()
