"""Labels at the ends of lines: one for each line, inside the plot, without overlap; legends beside too many lines."""

import numpy as np
import pytest

from tests.support.app_pages import EXAMPLES
from tests.support.simulated_runs import simulated_run, with_norms
from validation.analysis.load import load_runs
from validation.analysis.run import Run
from validation.charts import run_dynamics
from validation.charts.end_labels import LINE_PIXELS
from validation.charts.lines import AXIS_PIXELS
from validation.charts.theme import LINES_HEIGHT
from validation.files.read_files import read_files
from validation.frames.downsample import min_max_rows
from validation.frames.norms import experts_drawn
from validation.frames.run_dynamics import TIER_METRICS

PLOT = LINES_HEIGHT - AXIS_PIXELS


def drawn(run: Run, experts: list[int]):
    return run_dynamics.tier_norms(min_max_rows(run, 200, metrics=[*TIER_METRICS, "norm"], experts=experts))


def labels_of(chart):
    """Return the rows of the labels."""
    return next(layer.data for layer in chart.layer if layer.to_dict()["mark"]["type"] == "text")


@pytest.mark.parametrize("example", ["as-is", "per-example", "positive-control", "zero-norms"])
def test_each_line_has_its_label_inside_the_plot_and_no_two_overlap(example):
    run = load_runs(read_files([EXAMPLES / f"{example}.db"])[0])[0]
    chart = drawn(run, experts_drawn(run))
    labels, (low, high) = labels_of(chart), chart.layer[1].data["value"]
    assert len(labels) == 3 * len(experts_drawn(run))
    assert "expert 1 perturbed, bottom" in set(labels["label"])
    scaled = np.asarray if example == "zero-norms" else np.log
    pixels = PLOT * (scaled(labels["placed"]) - scaled(low)) / (scaled(high) - scaled(low))
    assert np.diff(np.sort(pixels)).min() > 0.99 * LINE_PIXELS
    assert LINE_PIXELS / 2 - 1e-6 <= pixels.min() <= pixels.max() <= PLOT - LINE_PIXELS / 2 + 1e-6


def test_a_label_stands_at_the_last_value_of_its_line():
    run = simulated_run(steps=50)
    norm = run.experts[1]["bottom_norm"].copy()
    norm[-3:] = (0.5, 0.0, np.nan)
    labels = labels_of(drawn(with_norms(run, 1, bottom_norm=norm), [0, 1])).set_index("label")
    assert labels.loc["expert 1 perturbed, bottom", "value"] == 0.5
    assert labels.loc["expert 0 clean, top", "value"] == run.experts[0]["top_norm"][-1]


def test_labels_have_the_colours_of_their_lines_and_replace_the_legends():
    spec = drawn(simulated_run(steps=50, control=1), [0, 1, 2]).to_dict()
    text = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "text")
    line = spec["layer"][0]
    assert text["encoding"]["color"] == line["encoding"]["color"]
    assert line["encoding"]["color"]["legend"] is None
    assert line["encoding"]["strokeDash"]["legend"] is None
    assert text["mark"]["clip"] is False  # else a chart that zooms cuts them off


def test_more_lines_than_labels_fit_have_legends():
    run = simulated_run(steps=20, perturbed=9)
    spec = drawn(run, [*run.experts]).to_dict()
    assert "text" not in {layer["mark"]["type"] for layer in spec["layer"]}
    assert spec["layer"][0]["encoding"]["color"]["legend"]["values"]
