"""The Dynamics page: views, axes, ranges of steps, isolated gradients and exports."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from streamlit.dataframe_util import convert_anything_to_arrow_bytes
from streamlit.testing.v1 import AppTest

from prismatic.runfile.logger import DynamicsLogger
from tests.support.app_pages import EXAMPLES, opened
from tests.support.simulated_runs import simulated_run, write, write_spiked_run
from ui.sections.dynamics import VIEWS, _parquet, _picture
from ui.session.library import Library, Source
from ui.widgets.charts import slim
from validation.analysis.load import load_runs
from validation.analysis.run import Expert, Run
from validation.charts import run_dynamics
from validation.files.read_files import read_files
from validation.frames.downsample import MAX_POINTS, chart_series, hover_rows, min_max_rows
from validation.frames.run_dynamics import TIER_METRICS, Style

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_spiked_run(tmp_path_factory.mktemp("runs") / "dynamics.db")


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


def spec(page):
    """Return the spec of the largest chart on the page."""
    return max((json.loads(one.proto.spec) for one in page.get("vega_lite_chart")), key=lambda one: len(str(one)))


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_has_its_overview_its_axis_and_its_export(file, view):
    page = dynamics_page(file, view=view, axis="Hours", smooth=True, batches=True)
    assert not page.exception
    if view not in ("Direction", "Loss"):  # which this run did not log
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
    assert page.metric[0].label == "Divergence scores, 15 perturbed experts"
    page.multiselect[0].set_value([0, 15]).run()
    assert not page.exception
    views = page.get("button_group")[0]
    views.set_value(["Loss"] if isinstance(views.value, list) else "Loss").run()
    assert not page.multiselect  # the loss belongs to no expert


def test_a_run_of_one_expert_alone_is_drawn(tmp_path):
    run = simulated_run(steps=50)
    page = dynamics_page(write(Run(**{**vars(run), "experts": {0: run.experts[0]}}), tmp_path / "dynamics.db"))
    assert not page.exception
    assert len(page.get("vega_lite_chart")) == 1


def test_twelve_series_of_a_long_run_travel_in_less_than_300_kilobytes():
    short = simulated_run(steps=20_000)
    run = Run(**{**vars(short), "experts": {i: Expert(i, "perturbed", short.experts[1].columns) for i in range(4)}})
    chosen = {"metrics": TIER_METRICS, "experts": range(4)}
    style = Style(hover=hover_rows(run, 400, **chosen))
    chart = run_dynamics.tier_norms(min_max_rows(run, MAX_POINTS, **chosen), style)
    words = {"step", "value", "series", "expert", *(f"v{place}" for place in range(12))}
    frames = {id(layer.data): slim(layer.data, words) for layer in chart.layer}
    assert sum(len(convert_anything_to_arrow_bytes(frame)) for frame in frames.values()) < 300_000


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """Write a run with a probe, whose isolated norms are ten times the merged ones."""
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
    assert "did not log direction" in at.info[0].value
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


def switch(page):
    """Return the switch of the norms; None if the page has none."""
    return next((group for group in page.get("button_group") if group.key == "norms"), None)


def bottom_norms(page):
    """Return the bottom norms that the chart draws, by expert."""
    chart = max(page.get("vega_lite_chart"), key=lambda one: len(one.proto.spec))
    rows = next(pa.ipc.open_stream(data.data.data).read_all() for data in chart.proto.datasets if data.name == "data-0")
    rows = rows.to_pandas()
    return {e: own["value"].to_numpy() for e, own in rows[rows["series"].str.endswith("bottom")].groupby("expert")}


def y_title(page):
    return spec(page)["layer"][0]["encoding"]["y"]["axis"]["title"]


@pytest.mark.parametrize("page", ["app.py", "pages/1_Dynamics.py"])
def test_where_experts_share_one_gradient_the_lines_fall_on_each_other_until_switched(page):
    at = opened(page, (EXAMPLES / "as-is.db", "as-is"))
    assert switch(at).value == "Beyond routing"
    assert "divided by routing share" in y_title(at)
    assert any("experts 0, 1 and 2 agree within 0.1" in one.value for one in at.markdown)
    norms = bottom_norms(at)
    assert np.allclose(norms[1], norms[0], rtol=1e-3)
    switch(at).set_value("As logged").run()
    assert not at.exception
    assert "as logged" in y_title(at)
    norms = bottom_norms(at)
    assert np.median(norms[1] / norms[0]) > 5
    assert any("As logged, bottom norms are" in one.value for one in at.markdown)


def test_the_view_of_the_norms_stays_when_another_run_is_picked():
    files = ((EXAMPLES / f"{name}.db", name) for name in ("as-is", "per-example"))
    at = opened("pages/1_Dynamics.py", *files)
    assert switch(at).value == "Beyond routing"
    switch(at).set_value("As logged").run()
    picker = at.selectbox[0]
    picker.set_value(next(value for value in picker.options if "2d76f873e" in value or "per-example" in value)).run()
    assert not at.exception
    assert switch(at).value == "As logged"
    assert any("As logged, bottom norms are" in one.value for one in at.markdown)


def test_norms_without_shares_have_no_switch(tmp_path):
    at = opened("pages/1_Dynamics.py", (EXAMPLES / "zero-norms.db", "zero"))
    assert switch(at) is None
    assert "nothing to draw" in at.info[0].value
    assert not at.get("vega_lite_chart")
    assert not at.metric
    at = opened("pages/1_Dynamics.py", (write(simulated_run(steps=50, shares=False), tmp_path / "x.db"), "x"))
    assert switch(at) is None
    assert any("did not log its routing shares" in one.value for one in at.markdown)


def test_isolated_gradients_have_no_switch(probed):
    page = dynamics_page(probed, gradients="isolated")
    assert switch(page) is None
    assert any("each expert alone" in one.value for one in page.markdown)


@pytest.mark.parametrize("view", ["By tier", "Together"])
def test_the_switch_holds_for_every_view_of_norms(view):
    at = opened("pages/1_Dynamics.py", (EXAMPLES / "as-is.db", "as-is"))
    at.get("button_group")[0].set_value(view).run()
    assert not at.exception
    assert "divided by routing share" in spec(at)["vconcat"][0]["title"]["text"]


def test_the_home_page_says_what_its_chart_is_a_picture_of():
    at = opened("app.py", (EXAMPLES / "per-example.db", "per-example"))
    assert any(one.value == "Gradient norms over training" for one in at.subheader)
    assert any("4 experts of 7 drawn" in one.value.replace("&#46;", ".") for one in at.caption)
