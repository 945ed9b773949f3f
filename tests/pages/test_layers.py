"""The Layers page, and what it shows: cells, frames, histograms, and the run without each layer."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from prismatic.contract.thresholds import Thresholds
from tests.support.app_pages import opened, texts
from tests.support.layered_runs import write_layers
from tests.support.simulated_runs import simulated_run, write
from validation.analysis import series
from validation.analysis.run import Expert
from validation.charts import layer_heatmap
from validation.files.sources import read_sources
from validation.frames.layer_heatmap import color_range, heatmap_frames, histogram_rows, layer_names
from validation.judgement.judge import judge
from validation.verdict.claims import REFUTED, SUPPORTED
from validation.verdict.layer_ablation import ablate_layers, keep_layers

PAGE = "pages/3_Layers.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module")
def three(folder):
    """The bottom tier gains in layer 1 of three, and only there."""
    return write_layers(folder / "three.db", gaining=1, gain=2.0, steps=160, histograms=True)


@pytest.fixture(scope="module")
def judged(three):
    return judge(*read_sources([three]))


@pytest.fixture(scope="module")
def left(judged):
    run = judged.runs[0]
    return ablate_layers(run, [], judged.verdict.controlled.claims, Thresholds())


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
    assert "nothing to leave out" in texts(at)
    assert not at.get("select_slider")
    assert at.get("code")[0].value == "DynamicsLoggerCallback(..., histogram_freq=100)"  # not our trainer's run


def test_runs_of_our_trainer_are_told_of_its_options(folder):
    about = {"config.router_type": "prismatic"}
    at = opened(PAGE, (write_layers(folder / "trained.db", steps=5, **about), "trained"))
    assert at.get("code")[0].value == "--set histogram_freq=100"


def test_many_layers_and_experts_are_drawn_and_left_out_only_when_asked(folder):
    at = opened(PAGE, (write_layers(folder / "many.db", layers=64, experts=4, steps=3), "many"))
    assert not at.exception
    assert "Leave out each layer" in [button.label for button in at.button]


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


def test_a_frame_is_the_mean_of_its_steps(judged):
    run, names = judged.runs[0], layer_names(judged.files[0])
    found = heatmap_frames(run, "size", names, most=7)
    frame = 3
    cell = found.at(frame).query("layer == 1 and expert == 1 and tier == 'bottom'")["value"].item()
    rows = (run.steps >= found.first_F[frame]) & (run.steps <= found.last_F[frame])
    one_layer = replace(run, layers=[run.layers[1]])
    assert cell == pytest.approx(series.ratio_beyond_routing(one_layer, 1)["bottom"][rows].mean())
    assert len(found.first_F) == 7
    assert cell == pytest.approx(np.log(2.0), abs=0.05)


def test_frames_are_single_steps_where_there_are_few_and_nan_where_nothing_is(judged):
    run = judged.runs[0].until(4)
    assert heatmap_frames(run, "size", [0, 1, 2]).first_F.tolist() == [0, 1, 2, 3, 4]
    silent = {
        e: Expert(e, one.role, {**one.columns, "bottom_norm": np.full(5, np.nan)}) for e, one in run.layers[0].items()
    }
    cells = heatmap_frames(replace(run, layers=[silent, *run.layers[1:]]), "norm", [0, 1, 2]).at(0)
    assert cells.query("layer == 0 and tier == 'bottom'")["value"].isna().all()
    assert cells.query("layer == 1")["value"].notna().all()


def test_colours_are_centred_and_a_spike_does_not_bleach_the_rest():
    values = np.append(np.random.default_rng(0).normal(0, 0.3, 999), 50.0)
    low, high = color_range(values, "size", 0.1)
    assert low == -high
    assert 0.3 < high < 2
    assert color_range(values * 1e-3, "size", 0.1) == (-0.1, 0.1)


def test_a_histogram_is_shares_of_one(judged):
    table = histogram_rows(judged.con, judged.runs[0], 1, 1, "bottom")
    assert table.groupby("step")["share"].sum().to_numpy() == pytest.approx(1.0)
    assert table["step"].tolist()[::6] == list(range(0, 160, 10))
    assert table.loc[table["step"] == 0, "share"].tolist() == pytest.approx(np.arange(10, 40, 5) / 135)


def test_the_mean_of_all_layers_is_what_the_trainer_wrote(judged):
    run = judged.runs[0]
    whole = keep_layers(run, range(len(run.layers)))
    assert whole.experts[1]["bottom_norm"] == pytest.approx(run.experts[1]["bottom_norm"])


def test_the_layer_that_drives_a_claim_is_found(judged, left):
    awake = left["awakening"]
    assert next(c for c in judged.verdict.controlled.claims if c.expert is None).status == SUPPORTED
    assert [one.claim.status for one in awake] == [SUPPORTED, REFUTED, SUPPORTED]
    assert awake[1].alone == pytest.approx(2.0, rel=0.05)
    assert awake[0].claim.estimate == pytest.approx(np.sqrt(2.0), rel=0.05)


def test_p_values_are_adjusted_for_every_layer_that_was_looked_at(left):
    raw = [one.p for one in left["awakening"]]
    assert min(raw) < 0.001
    expected = stats.false_discovery_control(raw, method="by")
    assert [one.adjusted_p for one in left["awakening"]] == pytest.approx(expected)


def test_layers_that_are_alike_are_not_told_apart(folder):
    judged = judge(*read_sources([write_layers(folder / "alike.db", gain=1.0, layers=4, steps=160, seed=3)]))
    left = ablate_layers(judged.runs[0], [], judged.verdict.controlled.claims, Thresholds())
    assert min(one.adjusted_p for one in left["awakening"]) > 0.05


def test_one_layer_cannot_be_left_out(judged):
    assert ablate_layers(keep_layers(judged.runs[0], [0]), [], [], Thresholds()) == {}


def test_rows_of_the_heatmap_are_grouped_by_tier(judged):
    cells = heatmap_frames(judged.runs[0], "size", [0, 1, 2]).at(0)
    drawn = layer_heatmap.heatmap(cells, "size", (-1.0, 1.0), (0, 1)).to_dict()
    rows = drawn["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert [row.split()[0] if row.strip() else "" for row in rows] == [
        *("bottom", "bottom", "", "middle", "middle", "", "top", "top"),
    ]
