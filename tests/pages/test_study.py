"""The study on top of the Compare page: registered hypotheses, their answers, missing runs."""

from pathlib import Path

import pytest

from prismatic.contract.study_plan import Hypothesis
from tests.support.app_pages import HARMFUL, opened, texts
from tests.support.simulated_runs import write
from tests.validation.judgement.test_study import AWAKENS, dose, plan_of, registered

PAGE = "pages/4_Compare.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("study")
    lower = Hypothesis(
        "lower", effect="held_out_loss", of={"perturbation_scale": 1.0}, against={"perturbation_scale": 0}
    )
    plan = plan_of(AWAKENS, lower, question=HARMFUL)
    runs = registered(dose(awakening=1.5, steps=200), plan)
    return [write(run, folder / f"{run.id}.db", run_hash=f"{number:09}") for number, run in enumerate(runs)]


def test_an_uploaded_study_says_which_it_is_and_answers_its_hypotheses(files):
    at = opened(PAGE, *((file, file.name) for file in files))
    assert not at.exception
    assert [each.value for each in at.subheader] == ["Study dose"]
    shown = texts(at)
    assert "awakening is supported in every treated experiment" in shown.replace("&#95;", "_")
    assert ":green-badge[as expected]" in shown
    assert "12 of 12 planned runs are here" in shown
    assert "![x]" not in shown
    assert "<b>" not in shown


def test_missing_runs_are_named(files):
    at = opened(PAGE, *((file, file.name) for file in files[:-1]))
    assert "11 of 12 planned runs are here; missing" in at.warning[0].value


def test_runs_of_no_study_have_no_panel(files, tmp_path):
    runs = [write(run, tmp_path / f"{run.id}.db") for run in dose(steps=60)[:2]]
    at = opened(PAGE, *((run, run.name) for run in runs))
    assert not at.exception
    assert "registered" not in texts(at)
