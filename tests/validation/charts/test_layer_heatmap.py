"""Rows of the heatmap of layers."""

import pytest

from tests.support.layered_runs import write_layers
from validation.charts import layer_heatmap
from validation.files.sources import read_sources
from validation.frames.layer_heatmap import heatmap_frames
from validation.judgement.judge import judge


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Judge a run of three layers whose bottom tier gains in layer 1 only."""
    path = tmp_path_factory.mktemp("layers") / "three.db"
    return judge(*read_sources([write_layers(path, gaining=1, gain=2.0, steps=160, histograms=True)]))


def test_rows_of_the_heatmap_are_grouped_by_tier(judged):
    cells = heatmap_frames(judged.runs[0], "size", [0, 1, 2]).at(0)
    drawn = layer_heatmap.heatmap(cells, "size", (-1.0, 1.0), (0, 1)).to_dict()
    rows = drawn["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert [row.split()[0] if row.strip() else "" for row in rows] == [
        *("bottom", "bottom", "", "middle", "middle", "", "top", "top"),
    ]
