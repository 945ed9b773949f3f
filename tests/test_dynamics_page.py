"""What a reader can ask of the Dynamics page: another axis, smooth lines, a range of steps, something to take away."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from tests.simulate import simulated_run, with_norms, write
from ui.dynamics import VIEWS, _parquet, _picture, on_axis
from ui.shell import Library, Source
from validation import charts
from validation.envelope import chart_series
from validation.runs import read_files
from validation.series import load_runs

ROOT = Path(__file__).parent.parent


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


def opened(file, **chosen):
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


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_has_its_overview_its_axis_and_its_export(file, view):
    page = opened(file, view=view, axis="Hours", smooth=True)
    assert not page.exception
    if view not in ("Direction", "Loss"):  # which this file does not log
        assert page.get("popover")
        assert len(page.get("vega_lite_chart")) == (4 if view == "By tier" else 2)  # with the overview


def test_a_short_run_needs_no_overview(tmp_path):
    short = write(simulated_run(steps=200), tmp_path / "dynamics.db")
    page = opened(short)
    assert not page.exception
    assert len(page.get("vega_lite_chart")) == 1


def test_hours_and_tokens_stand_in_place_of_the_step(read):
    run = read[1]
    tokens = type(run)(**{**vars(run), "facts": {"config.batch_size": 8, "config.sequence_length": 96}})
    long = pd.DataFrame({"step": [0, 10], "value": [1.0, 2.0]})
    assert on_axis(long, tokens, "Tokens")["step"].tolist() == [768, 11 * 768]
    assert on_axis(long, run, "Steps") is long
    hours = on_axis(long, run, "Hours")["step"]
    assert hours[0] == 0
    assert 0 <= hours[1] < 1


def test_a_smooth_line_is_the_running_median_and_hides_no_raw_one(read):
    long = chart_series(read[0], 400).to_pandas()
    drawn = charts.tier_norms(long, charts.Style(smooth=25)).to_dict()["layer"]
    marks = [layer["mark"] for layer in drawn if layer["mark"]["type"] == "line"]
    assert [mark["strokeWidth"] for mark in marks] == [0.7, 2.2]
    one = long[(long["expert"] == 1) & (long["metric"] == "bottom_norm")]["value"]
    smooth = one.rolling(25, center=True, min_periods=1).median()
    assert smooth.max() < one.max() / 20


def test_rows_and_pictures_can_be_taken_away(read):
    long = chart_series(read[0], 500).to_pandas()
    table = pq.read_table(io.BytesIO(_parquet(long)))
    assert table.num_rows == len(long)
    drawn = charts.tier_panels(long)
    assert b"<svg" in _picture(drawn, "svg")[:200]
    picture = np.asarray(Image.open(io.BytesIO(_picture(drawn, "png"))).convert("L"))
    assert picture.std() > 5  # not an empty sheet
