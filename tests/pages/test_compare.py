"""The Compare page: groups, doses, sham runs, two runs, and the table of all runs."""

from dataclasses import replace

import pytest

from tests.support import bad_files
from tests.support.app_pages import EXAMPLES, HARMFUL, opened, texts
from tests.support.simulated_runs import SCALES, simulated_run, write, write_dose_runs
from ui.sections.compare import all_runs, page
from validation.files.sources import read_sources
from validation.frames.comparison.forest import forest
from validation.frames.comparison.sham_pairs import sham_pair_rows
from validation.judgement.judge import judge

PAGE = "pages/4_Compare.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_dose_runs(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def judged(files):
    return judge(*read_sources(files))


@pytest.fixture(scope="module")
def shown(files):
    """Return a function that opens the page of all runs at a view."""
    at = opened(PAGE, *((file, file.name) for file in files))

    def at_view(view):
        return at.get("button_group")[0].set_value(view).run()

    return at_view


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            {"config.router_type": "prismatic"},
            "--set control_experts=3 --grid perturbation_scale=0,1 seed=0..5",
        ),
        ({}, "callback.attach(model, optimizer, seed=1, perturbation_scale=0.5)"),
    ],
)
def test_one_run_says_what_compare_needs_and_how_its_own_trainer_gets_it(tmp_path, facts, line):
    at = opened(PAGE, (write(simulated_run(steps=120), tmp_path / "one.db", **facts), "one"))
    assert not at.exception
    assert "at least two runs" in at.info[0].value
    assert line in at.get("code")[0].value


def test_a_run_without_a_verdict_is_mended_before_more_are_trained(tmp_path):
    bad_files.only_gradient_norms(tmp_path / "dynamics.db")
    shown = texts(opened("pages/4_Compare.py", (tmp_path / "dynamics.db", "whole norms")))
    assert "log the top, bottom and middle norm of every expert" in shown
    assert "Train more seeds" not in shown


def test_one_run_is_one_click_from_the_study():
    at = opened(PAGE, (EXAMPLES / "per-example.db", "one"))
    at.button(key="show-study").click().run()
    assert not at.exception
    assert len(at.session_state["library"].sources) == 1
    assert len(at.get("vega_lite_chart")) == 1


def test_the_study_begins_with_a_forest_plot_of_each_effect():
    at = opened(PAGE, (EXAMPLES / "study", "study"))
    assert not at.exception
    names = {1: "Gradient gain of the bottom tier", 2: "Direction difference from the control"}
    for claim, plots in (("Awakening", 1), ("Divergence", 2)):
        at.get("button_group")[1].set_value(claim).run()
        assert len(at.get("vega_lite_chart")) == plots
        assert names[plots] in texts(at)
    at.get("button_group")[0].set_value("Outcome").run()
    assert not at.exception
    assert "nats" in texts(at)
    assert "over 6 seeds" in texts(at)
    assert len(at.get("vega_lite_chart")) == 1
    assert at.dataframe[0].value["difference"].count() % 6 == 0


def test_two_runs_make_a_forest_plot_without_an_interval_over_seeds(tmp_path):
    facts = {"config.merge": "example", "config.perturbation_scale": 1.0}
    files = [
        write(
            simulated_run(seed=s, steps=120), tmp_path / f"{s}.db", run_hash=f"{s}" * 9, **{"config.seed": s}, **facts
        )
        for s in range(2)
    ]
    at = opened(PAGE, *((file, file.name) for file in files))
    assert not at.exception
    rows = forest(judge(*read_sources(files)), judge(*read_sources(files)).verdict.groups, "awakening", "bottom").rows
    assert rows["label"].tolist() == ["", "seed 0", "seed 1", "2 seeds"]
    assert rows["low"].isna().all()


def test_two_thousand_runs_are_shown_as_groups_a_page_at_a_time(judged, monkeypatch):
    """The groups of nine runs, again and again under other options."""
    groups = tuple(
        replace(group, name=f"learning_rate={place}", options={"learning_rate": f"{place}"})
        for place in range(222)
        for group in judged.verdict.groups
    )
    many = replace(judged, measured=judged.measured * 222, verdict=replace(judged.verdict, groups=groups))
    assert len(many.runs) == 1998
    monkeypatch.setattr("ui.layout.shell.judge_library", lambda: many)
    at = opened(PAGE, (EXAMPLES / "as-is.db", "chosen"))
    assert not at.exception
    assert not at.toggle(key="each").value
    assert at.number_input(key="forest-page").label == "Page of 56, with 666 groups"
    drawn = at.get("vega_lite_chart")[0].proto
    assert "learning_rate=0" in str(drawn)
    assert "learning_rate=200" not in str(drawn)
    at.toggle(key="each").set_value(True).run()
    assert not at.exception


def test_groups_are_the_runs_that_differ_in_the_seed_alone(shown):
    at = shown("Groups")
    assert not at.exception
    table = at.dataframe[0].value
    assert table["options"].tolist() == [f"perturbation_scale={scale}" for scale in (*SCALES[1:], SCALES[0])]
    assert table["runs"].tolist() == [3, 3, 3]
    assert len(at.get("vega_lite_chart")) == 3
    at.toggle(key="seeds").set_value(False).run()
    assert len(at.get("vega_lite_chart")) == 1


def test_each_view_bears_two_runs_of_one_row_and_hostile_words(tmp_path):
    files = [
        write(
            simulated_run(steps=1, seed=seed),
            tmp_path / f"{seed}.db",
            run_hash=f"{seed}" * 9,
            **{"config.merge": HARMFUL, "config.seed": seed},
        )
        for seed in range(2)
    ]
    at = opened(PAGE, *((file, HARMFUL) for file in files))
    words = ""
    for view in page.VIEWS:
        at.get("button_group")[0].set_value(view).run()
        assert not at.exception, view
        words += texts(at)
    assert "http://" not in words
    assert "No chosen run has a sham run" in words
    assert "A dose-response needs" in words
    assert "The outcome compares held-out losses" in words


def test_a_series_that_is_not_logged_is_said(files):
    at = opened(PAGE, *((file, file.name) for file in files[:2]))
    at.get("button_group")[0].set_value("Groups").run()
    at.selectbox(key="course").set_value("direction").run()
    assert "did not log direction" in at.info[0].value


def test_doses_are_drawn_with_pages_p_and_the_slope(shown, judged):
    at = shown("Dose")
    assert not at.exception
    dose = judged.verdict.doses[0]
    assert [metric.value for metric in at.metric][:2] == [f"{dose.p:.2g}", f"{dose.slope:.3g}"]


def test_two_runs_are_compared_by_what_differs(shown):
    at = shown("Two runs")
    at.selectbox(key="second").set_value("01aaaaaaa").run()
    differing, same = at.dataframe[0].value, at.dataframe[1].value
    assert set(differing["name"]) == {"perturbation_scale", "run_hash"}
    assert set(same["name"]) == {"seed", "merge"}


def test_every_treated_run_stands_beside_its_sham_run(shown, judged):
    pairs = sham_pair_rows(judged)
    awake = pairs[pairs["claim"] == "awakening"]
    assert len(awake) == 6
    assert all(run[0] == sham[0] and sham[1] == "0" for run, sham in zip(awake["run"], awake["sham"], strict=True))
    assert len(shown("Sham runs").get("vega_lite_chart")) >= 1


def test_all_runs_are_filtered_sorted_and_paged(shown, monkeypatch):
    monkeypatch.setattr(all_runs, "PAGE_ROWS", 4)
    at = shown("All runs")
    assert at.dataframe[0].value["run"].tolist() == ["00aaaaaaa", "10aaaaaaa", "20aaaaaaa", "01aaaaaaa"]
    at.number_input(key="runs-page").set_value(3).run()
    assert at.dataframe[0].value["run"].tolist() == ["22aaaaaaa"]
    assert "9 of 9 runs match, with 1,350 logged steps in total. 4 runs per page" in texts(at)
    at.text_input(key="find").set_value("sham").run()
    assert not at.exception
    assert set(at.dataframe[0].value["kind"]) == {"sham"}
    at.selectbox(key="sort").set_value("seed").run()
    at.toggle(key="descending").set_value(True).run()
    assert at.dataframe[0].value["seed"].tolist() == [2, 1, 0]
