"""The Layers page: heatmap, player, cells, histograms and layer ablation."""

import pytest

from tests.support.app_pages import opened, texts
from tests.support.layered_runs import write_layers
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import simulated_run, study, write
from validation.files.sources import read_sources
from validation.judgement.judge import judge

PAGE = "pages/3_Layers.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module")
def three(folder):
    """Write a run whose bottom tier gains in layer 1 of three only, with three experts of each role."""
    return write_layers(folder / "three.db", experts=7, control=3, gaining=1, gain=2.0, steps=160, histograms=True)


@pytest.fixture(scope="module")
def judged(three):
    return judge(*read_sources([three]))


def test_the_page_shows_heatmap_cell_histogram_and_the_layers_left_out(three):
    at = opened(PAGE, (three, "three"))
    assert not at.exception
    assert len(at.get("vega_lite_chart")) == 5
    assert "It is supported, but refuted without layer 1." in [markdown.value for markdown in at.markdown]


def test_a_file_without_layers_says_what_to_do(folder):
    at = opened(PAGE, (write(simulated_run(steps=5), folder / "means.db"), "means"))
    assert "only the means over layers" in at.info[0].value
    assert "prismatic train" in at.get("code")[0].value


def test_one_row_of_one_layer_is_shown(folder):
    at = opened(PAGE, (write_layers(folder / "row.db", layers=1, steps=1), "row"))
    assert not at.exception
    assert at.get("vega_lite_chart")
    assert "only one layer" in texts(at)
    assert not at.get("select_slider")
    assert at.get("code")[0].value == "DynamicsLoggerCallback(..., histogram_freq=100)"  # not our trainer's run


def test_runs_of_our_trainer_are_told_of_its_options(folder):
    about = {"config.router_type": "prismatic"}
    at = opened(PAGE, (write_layers(folder / "trained.db", steps=5, **about), "my trained.db"))
    # The name of an upload is no path.
    assert at.get("code")[0].value == "prismatic train --set histogram_freq=100"


def test_many_layers_are_drawn_and_each_is_left_out(folder):
    at = opened(PAGE, (write_layers(folder / "many.db", layers=64, experts=4, steps=12), "many"))
    assert not at.exception
    assert [len(table.value) for table in at.dataframe] == [64, 64]


def test_layers_are_left_out_of_all_seeds_of_a_group(folder):
    runs = study(6, probed_run, bottom=0.5, steps=300)
    files = [write(run, folder / f"seed {run.id}.db", run_hash=run.id * 9) for run in runs]
    at = opened(PAGE, *((file, file.name) for file in files))
    assert not at.exception
    assert "The 6 seeds are judged again" in texts(at)
    assert texts(at).count("It stays supported if any one layer is removed.") == 1


def test_each_measure_of_each_run_is_drawn_whatever_was_chosen_before(three, folder):
    at = opened(PAGE, (three, "three"), (write_layers(folder / "two.db", layers=2, experts=2, steps=4), "two"))
    at.selectbox(key="layer").set_value(2)
    at.selectbox(key="expert").set_value(2).run()
    for run in at.sidebar.selectbox[0].options[::-1]:
        at.sidebar.selectbox[0].set_value(run)
        for measure in ("norm", "size"):
            at.get("button_group")[0].set_value(measure).run()
            assert not at.exception, (run, measure)
            assert at.get("vega_lite_chart")


def test_play_moves_on_by_itself_and_stops_at_the_end(folder):
    at = opened(PAGE, (write_layers(folder / "film.db", steps=3), "film"))
    assert at.session_state["frame"] == 2
    at.button(key="play").click().run()
    seen = [at.session_state["frame"]]
    while at.session_state["playing"]:
        seen.append(at.run().session_state["frame"])
    assert seen == [0, 1, 2]
    assert not at.exception
