"""What a reader can ask of the Dynamics page: another axis, smooth lines, a range of steps, something to take away."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from streamlit.dataframe_util import convert_anything_to_arrow_bytes
from streamlit.testing.v1 import AppTest

from prismatic.contract.thresholds import Thresholds
from prismatic.runfile.logger import DynamicsLogger
from tests.support.app_pages import EXAMPLES, opened
from tests.support.simulated_runs import simulated_run, with_norms, write
from ui.sections.dynamics import VIEWS, _parquet, _picture
from ui.session.library import Library, Source
from ui.widgets.charts import slim
from validation.analysis.run import Expert, Run, load_runs
from validation.charts import run_dynamics
from validation.files.read_files import read_files
from validation.frames.batches import verdict_batches
from validation.frames.downsample import MAX_POINTS, chart_series, gaps, hover_rows, median_rows, min_max_rows
from validation.frames.run_dynamics import TIER_METRICS, Style
from validation.frames.x_axis import rows_on_axis

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    run = simulated_run(steps=3000)
    spiked = run.experts[1]["bottom_norm"].copy()
    spiked[1777] *= 100
    return write(with_norms(run, 1, bottom_norm=spiked), tmp_path_factory.mktemp("runs") / "dynamics.db")


@pytest.fixture(scope="module")
def read(file):
    files, _ = read_files([file])
    return files[0], load_runs(files)[0]


def dynamics_page(file, **chosen):
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    page.session_state["library"] = Library([Source(file, "dynamics.db")])
    for name, value in chosen.items():
        page.session_state[name] = value
    return page.run().switch_page("pages/1_Dynamics.py").run()


def test_a_range_of_steps_is_drawn_at_full_resolution(read):
    run, _ = read
    part = chart_series(run, 2000, (1700.0, 1800.0)).to_pandas()
    one = part[(part["expert"] == 1) & (part["metric"] == "bottom_norm")]
    assert one["step"].tolist() == list(range(1700, 1801))
    whole = chart_series(run, 200).to_pandas()
    assert whole["value"].max() == one["value"].max()  # the spike, however little is drawn


def test_a_range_without_a_row_is_empty(read):
    assert chart_series(read[0], 2000, (5000.0, 6000.0)).num_rows == 0


def spec(page):
    """The largest chart of the page."""
    return max((json.loads(one.proto.spec) for one in page.get("vega_lite_chart")), key=lambda one: len(str(one)))


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_has_its_overview_its_axis_and_its_export(file, view):
    page = dynamics_page(file, view=view, axis="Hours", smooth=True, batches=True)
    assert not page.exception
    if view not in ("Direction", "Loss"):  # which this file does not log
        assert page.get("popover")
        assert len(page.get("vega_lite_chart")) == 3  # with the scores and the overview
        panels = {"By tier": 3, "Together": 3}.get(view, 1)  # together without the loss
        assert len(spec(page).get("vconcat", [None])) == panels


def test_a_short_run_needs_no_overview(tmp_path):
    short = write(simulated_run(steps=200), tmp_path / "dynamics.db")
    page = dynamics_page(short)
    assert not page.exception
    assert len(page.get("vega_lite_chart")) == 2


def test_of_many_experts_the_first_are_drawn_until_others_are_asked_for(tmp_path):
    run = simulated_run(steps=50)
    experts = {0: run.experts[0]} | {i: Expert(i, "perturbed", run.experts[1].columns) for i in range(1, 16)}
    many = write(Run(**{**vars(run), "experts": experts}), tmp_path / "dynamics.db")
    page = dynamics_page(many)
    assert not page.exception
    assert page.multiselect[0].value == [0, 1, 2, 3]
    assert page.metric[0].label == "Divergence scores, 15 experts"
    page.multiselect[0].set_value([0, 15]).run()
    assert not page.exception


def test_a_run_of_one_expert_alone_is_drawn(tmp_path):
    run = simulated_run(steps=50)
    page = dynamics_page(write(Run(**{**vars(run), "experts": {0: run.experts[0]}}), tmp_path / "dynamics.db"))
    assert not page.exception
    assert len(page.get("vega_lite_chart")) == 1


def test_hours_and_tokens_stand_in_place_of_the_step(read):
    run = read[1]
    tokens = type(run)(**{**vars(run), "facts": {"config.batch_size": 8, "config.sequence_length": 96}})
    long = pd.DataFrame({"step": [0, 10], "value": [1.0, 2.0]})
    assert rows_on_axis(long, tokens, "Tokens")["step"].tolist() == [768, 11 * 768]
    assert rows_on_axis(long, run, "Steps") is long
    hours = rows_on_axis(long, run, "Hours")["step"]
    assert hours[0] == 0
    assert 0 <= hours[1] < 1


def test_a_smooth_line_is_the_running_median_and_hides_no_raw_one(read):
    run = read[1]
    over = median_rows(run, 400, metrics=["bottom_norm"])
    style = Style(smooth=over)
    drawn_layers = run_dynamics.tier_norms(chart_series(read[0], 400).to_pandas(), style).to_dict()["layer"]
    marks = [layer["mark"] for layer in drawn_layers if layer["mark"]["type"] == "line"]
    assert [mark["strokeWidth"] for mark in marks] == [0.7, 2.2]
    values = run.experts[1]["bottom_norm"]
    at = over[over["expert"] == 1].set_index("step")["value"]
    for step in (0, 1500, 2999):
        row = min(at.index, key=lambda logged, step=step: abs(logged - step))
        assert at[row] == pytest.approx(np.median(values[max(0, row - 12) : row + 13]), rel=1e-6)
    assert at.max() < values.max() / 20  # the spike is in no median


def test_what_is_drawn_of_a_run_is_what_is_drawn_of_its_file(read):
    file, run = read
    long = chart_series(file, 400).to_pandas()
    own = min_max_rows(run, 400)
    for metric in ("bottom_norm", "divergence", "routing_weight"):
        a, b = (one[(one["expert"] == 1) & (one["metric"] == metric)] for one in (long, own))
        assert a["step"].tolist() == b["step"].tolist()
        np.testing.assert_allclose(b["value"], a["value"], rtol=1e-6)


def test_twelve_series_of_a_long_run_travel_in_less_than_300_kilobytes():
    short = simulated_run(steps=20_000)
    run = Run(**{**vars(short), "experts": {i: Expert(i, "perturbed", short.experts[1].columns) for i in range(4)}})
    chosen = {"metrics": TIER_METRICS, "experts": range(4)}
    style = Style(hover=hover_rows(run, 400, **chosen))
    chart = run_dynamics.tier_norms(min_max_rows(run, MAX_POINTS, **chosen), style)
    words = {"step", "value", "series", "expert", *(f"v{place}" for place in range(12))}
    frames = {id(layer.data): slim(layer.data, words) for layer in chart.layer}
    assert sum(len(convert_anything_to_arrow_bytes(frame)) for frame in frames.values()) < 300_000


def test_no_line_is_drawn_across_zeros_holes_and_gaps():
    run = simulated_run(steps=300)
    norm = run.experts[1]["bottom_norm"].copy()
    norm[50:60], norm[100:110] = 0.0, np.nan
    rows = np.r_[0:200, 230:300]
    run = with_norms(run, 1, bottom_norm=norm)
    experts = {n: Expert(n, e.role, {m: v[rows] for m, v in e.columns.items()}) for n, e in run.experts.items()}
    run = Run(**{**vars(run), "steps": run.steps[rows], "experts": experts})
    holes = gaps(run.steps)
    assert holes.tolist() == [199]
    style = Style(gaps=[(199.0, 230.0)])
    lines = run_dynamics.tier_norms(min_max_rows(run, 2000), style).layer[0].data
    own = lines[lines["series"].eq("perturbed bottom")].sort_values("step").set_index("step")["value"]
    assert own[50:59].isna().all()
    assert own[100:109].isna().all()
    assert own[199.5:229.5].isna().all()
    assert own.notna().sum() == 250


def test_a_run_that_is_logged_more_rarely_later_has_no_gap():
    assert not len(gaps(np.r_[0:100, 100:10_000:100]))
    assert gaps(np.r_[0:100, 105:200]).tolist() == [99]
    assert not len(gaps(np.array([0, 10])))


def test_batches_are_the_means_that_the_verdict_takes():
    run = simulated_run(steps=1000)
    known = verdict_batches(run, Thresholds())
    assert known.skipped == ((0.0, 100.0, "warm-up"),)
    own = known.means[(known.means["expert"] == 1) & (known.means["metric"] == "bottom_norm")]
    logs = np.log(run.experts[1]["bottom_norm"][100:]).reshape(20, 45)
    np.testing.assert_allclose(own["value"], np.exp(logs.mean(axis=1)))
    assert own[["step", "last"]].iloc[[0, -1]].to_numpy().tolist() == [[100, 144], [955, 999]]
    drawn_layers = run_dynamics.tier_norms(min_max_rows(run, 200), Style(batches=known)).to_dict()["layer"]
    assert {"rect", "rule", "text"} <= {layer["mark"]["type"] for layer in drawn_layers}


def test_what_fills_no_batch_and_what_is_not_judged_yet_is_shaded_too():
    known = verdict_batches(simulated_run(steps=405, facts={"planned_steps": 2000}), Thresholds())
    assert [why for _, _, why in known.skipped] == ["warm-up", "not judged yet"]
    odd = verdict_batches(simulated_run(steps=155), Thresholds())
    assert [why for _, _, why in odd.skipped] == ["warm-up", "too few rows to fill a batch"]


def test_one_step_axis_and_one_pointer_serve_all_panels(read):
    run = read[1]
    long = min_max_rows(run, 200, metrics=[*TIER_METRICS, "divergence", "routing_weight"])
    chart = run_dynamics.together(long, supported=0.05, refuted=0.01)

    told = chart.to_dict()
    assert told["resolve"]["scale"] == {"x": "shared"}
    assert [len(one["views"]) for one in told["params"]] == [3, 3]
    names = [tip["title"] for tip in told["vconcat"][0]["layer"][-1]["encoding"]["tooltip"]]
    assert len(set(names)) == len(names) == 1 + 6 + 1 + 2


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A run with a probe: alone, every expert's norms are ten times what they are in the merge."""
    path = tmp_path_factory.mktemp("probed") / "dynamics.db"
    tiers = dict.fromkeys(TIER_METRICS, 1.0)
    with DynamicsLogger(path, num_experts=2, flush_seconds=1e9) as logger:
        for step in range(60):
            rows = [
                {"step": step, "layer": 0, "expert": e, "source": source, **{m: v * scale for m, v in tiers.items()}}
                for source, scale in (("merged", 1.0), ("isolated", 10.0))
                for e in range(2)
                if source == "merged" or step % 10 == 0
            ]
            gradients = {f"expert_{e}": tiers for e in range(2)}
            logger.log(step, {"expert_gradients": gradients, "layers": rows, "loss": 3.0})
    return path


def test_gradients_of_each_expert_alone_can_be_drawn(probed):
    run = load_runs(read_files([probed])[0])[0]
    alone = min_max_rows(run.isolated, 2000, metrics=["top_norm"])
    assert alone["step"].tolist() == [*range(0, 60, 10)] * 2
    assert set(alone["value"]) == {10.0}
    for view in ("Together", "Routing"):
        page = dynamics_page(probed, view=view, gradients="isolated")
        assert not page.exception
    assert "routing shares of isolated gradients" in page.info[0].value


def test_rows_and_pictures_can_be_taken_away(read):
    long = chart_series(read[0], 500).to_pandas()
    table = pq.read_table(io.BytesIO(_parquet(long)))
    assert table.num_rows == len(long)
    chart = run_dynamics.tier_panels(long)
    assert b"<svg" in _picture(chart, "svg")[:200]
    picture = np.asarray(Image.open(io.BytesIO(_picture(chart, "png"))).convert("L"))
    assert picture.std() > 5  # not an empty sheet


def test_a_metric_that_is_not_logged_is_said_and_not_drawn(tmp_path):
    at = opened("pages/1_Dynamics.py", (write(simulated_run(), tmp_path / "x.db"), "x"))
    group = at.get("button_group")[0]
    group.set_value(["Direction"] if isinstance(group.value, list) else "Direction").run()
    assert "does not log direction" in at.info[0].value
    assert len(at.get("vega_lite_chart")) == 1  # the scores


@pytest.mark.parametrize("view", ["Tier norms", "By tier", "Together", "Divergence", "Direction", "Routing", "Loss"])
def test_each_view_of_the_dynamics_draws(view):
    at = opened("pages/1_Dynamics.py", (EXAMPLES / "positive-control.db", "positive"))
    at.get("button_group")[0].set_value([view] if isinstance(at.get("button_group")[0].value, list) else view).run()
    assert not at.exception
    assert at.get("vega_lite_chart")


def test_the_header_of_the_dynamics_has_each_experts_divergence():
    at = opened("pages/1_Dynamics.py", (EXAMPLES / "as-is.db", "as-is"))
    assert [metric.label for metric in at.metric][:2] == ["Divergence score, expert 1", "Divergence score, expert 2"]
