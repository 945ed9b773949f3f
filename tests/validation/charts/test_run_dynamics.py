"""Lines of a run: running medians, gaps, and one axis and one pointer for stacked panels."""

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import simulated_run, with_norms, write_spiked_run
from validation.analysis.effects import levels_of
from validation.analysis.load import load_runs
from validation.analysis.run import Expert, Run
from validation.charts import run_dynamics
from validation.files.read_files import read_files
from validation.frames.bins import verdict_bins
from validation.frames.downsample import chart_series, gaps, median_rows, min_max_rows
from validation.frames.run_dynamics import TIER_METRICS, Style


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Return the file and the arrays of a run with one spike."""
    files, _ = read_files([write_spiked_run(tmp_path_factory.mktemp("runs") / "dynamics.db")])
    return files[0], load_runs(files)[0]


def test_a_smooth_line_is_the_running_median_and_hides_no_raw_one(read):
    run = read[1]
    over = median_rows(run, 400, metrics=["bottom_norm"])
    style = Style(smooth=over)
    drawn_layers = run_dynamics.tier_norms(chart_series(read[0], 400).to_pandas(), style).to_dict()["layer"]
    raw, medians = (layer for layer in drawn_layers if layer["mark"]["type"] == "line")
    assert raw["encoding"]["strokeWidth"] == {"value": 0.7}
    assert medians["mark"]["strokeWidth"] == 2.2
    values = run.experts[1]["bottom_norm"]
    at = over[over["expert"] == 1].set_index("step")["value"]
    for step in (0, 1500, 2999):
        row = min(at.index, key=lambda logged, step=step: abs(logged - step))
        assert at[row] == pytest.approx(np.median(values[max(0, row - 12) : row + 13]), rel=1e-6)
    assert at.max() < values.max() / 20  # the spike is in no median


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


def test_means_of_bins_and_skipped_steps_are_drawn():
    run = simulated_run(steps=1000)
    levels = levels_of(run, Thresholds())
    style = Style(bins=verdict_bins(run, levels, metrics=[*TIER_METRICS], experts=[*run.experts]))
    drawn_layers = run_dynamics.tier_norms(min_max_rows(run, 200), style).to_dict()["layer"]
    assert {"rect", "rule", "text"} <= {layer["mark"]["type"] for layer in drawn_layers}


def test_one_step_axis_and_one_pointer_serve_all_panels(read):
    run = read[1]
    long = min_max_rows(run, 200, metrics=[*TIER_METRICS, "divergence", "routing_weight"])
    chart = run_dynamics.together(long, supported=0.05, refuted=0.01)

    spec = chart.to_dict()
    assert spec["resolve"]["scale"] == {"x": "shared"}
    assert [len(one["views"]) for one in spec["params"]] == [3, 3]
    names = [tip["title"] for tip in spec["vconcat"][0]["layer"][-1]["encoding"]["tooltip"]]
    assert len(set(names)) == len(names) == 1 + 6 + 1 + 2
