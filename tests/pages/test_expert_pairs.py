"""The experts beside each other on the Layers page: the matrix, its slider, the load and its entropy."""

import pyarrow as pa
import pytest

from tests.support.app_pages import opened, texts
from tests.support.layered_runs import write_layers
from tests.support.paired_runs import direction, write_pairs

PAGE = "pages/3_Layers.py"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "eight.db", noisy=(5,))


def charts(at):
    """Return the charts of pairs."""
    return [chart for chart in at.get("vega_lite_chart") if '"other' in chart.proto.spec]


def cells(at):
    """Return the drawn values of the matrix by its two experts."""
    (chart,) = charts(at)
    tables = [pa.ipc.open_stream(data.data.data).read_all() for data in chart.proto.datasets]
    rows = [row for table in tables for row in table.to_pylist() if "other" in row]
    return {
        (row["expert"], row["other"]): row.get("value") for row in rows if row.get("state", "measured") == "measured"
    }


def test_the_page_shows_the_matrix_the_load_and_its_entropy(path):
    at = opened(PAGE, (path, "eight"))
    assert not at.exception
    assert "Experts beside each other" in [subheader.value for subheader in at.subheader]
    drawn = cells(at)
    assert len(drawn) == 8 * 7
    expected = sum(direction(0, 2, layer, (probe + 1) / 48) for layer in (0, 1) for probe in range(44, 48)) / 8
    assert drawn[0, 2] == pytest.approx(expected, rel=1e-6)
    assert "Steps 440 to 470: " in texts(at)
    assert "over 28 pairs" in texts(at)
    assert "At the end it is 0.67" in texts(at)
    assert "8 experts of all layers have no token" in texts(at)


@pytest.mark.long
def test_the_slider_shows_earlier_steps_in_the_same_colours_and_tells_noise(path):
    at = opened(PAGE, (path, "eight"))
    (first,) = charts(at)
    at.select_slider(key="pair-frame").set_value(0).run()
    assert not at.exception
    drawn = cells(at)
    assert len(drawn) == 7 * 6
    assert all(5 not in pair for pair in drawn)
    assert "Grey with a cross" in texts(at)
    assert '"domain": [0, ' in first.proto.spec.replace('"domain":[0,', '"domain": [0, ')


@pytest.mark.long
def test_each_measure_and_each_layer_is_drawn(path):
    at = opened(PAGE, (path, "eight"))
    for measure in ("direction", "weights", "outputs"):
        at.get("button_group")[-1].set_value(measure).run()
        for layer in ("all", "0", "1"):
            at.selectbox(key="pair-layer").set_value(layer).run()
            assert not at.exception, (measure, layer)
            assert len(cells(at)) == 56
    at.selectbox(key="pair-layer").set_value("1").run()
    expected = sum(direction(0, 1, 1, (probe + 1) / 48) / 2 for probe in range(44, 48)) / 4
    assert cells(at)[0, 1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.long
def test_of_many_experts_the_sample_is_told(tmp_path):
    at = opened(PAGE, (write_pairs(tmp_path / "many.db", experts=80, layers=1, probes=4), "many"))
    assert not at.exception
    assert len(cells(at)) == 64 * 63 // 2
    assert "The probe compared 64 of 80 experts" in texts(at)
    assert not [slider for slider in at.select_slider if slider.key == "pair-frame"]


@pytest.mark.long
def test_a_run_without_shares_of_tokens_shows_those_of_weight(tmp_path):
    at = opened(PAGE, (write_pairs(tmp_path / "weights.db", probes=8, counted=False), "weights"))
    assert not at.exception
    assert "its share of the router's weight" in texts(at)
    assert "did not count" in texts(at)


@pytest.mark.long
def test_a_run_without_pairs_shows_nothing_of_them(tmp_path):
    at = opened(PAGE, (write_layers(tmp_path / "plain.db", steps=5), "plain"))
    assert "Experts beside each other" not in [subheader.value for subheader in at.subheader]
