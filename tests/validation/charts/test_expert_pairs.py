"""Charts of experts beside each other: they are valid, tell noise from values, and keep one scale and one order."""

import math

import pandas as pd
import pytest

from validation.charts import theme
from validation.charts.expert_pairs import expert_loads, pair_matrix, routing_evenness
from validation.frames.expert_pairs import MEASURED, MISSING, NOISE
from validation.frames.routing_load import RoutingLoad

ORDER = [2, 0, 1]
CELLS = pd.DataFrame(
    [(0, 1, 0.0, MEASURED), (1, 0, 0.0, MEASURED), (0, 2, math.nan, NOISE), (2, 1, math.nan, MISSING)],
    columns=["expert", "other", "value", "state"],
)
LOAD = RoutingLoad(
    pd.DataFrame(
        {"step": [0, 0, 10, 10], "last_step": [5, 5, 15, 15], "expert": [0, 1] * 2, "load": [1.0, 1.0, 2.0, 0.0]}
    ),
    pd.DataFrame(
        {"step": [0, 10], "last_step": [5, 15], "entropy": [1.0, 0.0], "violation": [0.0, 1.0], "unused": [0.0, 1.0]}
    ),
    of_tokens=True,
)


def rows_of(layer):
    return pd.DataFrame(layer.data)


def test_a_measured_zero_is_a_cell_and_noise_has_a_cross_and_no_colour():
    chart = pair_matrix(CELLS, ORDER, "direction", 0.5)
    measured, grey, crosses = chart.layer
    assert rows_of(measured)["value"].tolist() == [0.0, 0.0]
    assert rows_of(grey)["state"].tolist() == rows_of(crosses)["state"].tolist() == [NOISE]
    drawn = chart.to_dict()  # which validates it
    rect, noise, _ = drawn["layer"]
    assert rect["encoding"]["color"]["scale"] == {"clamp": True, "domain": [0, 0.5], "range": theme.RAMP}
    assert "color" not in noise["encoding"]
    assert rect["encoding"]["x"]["scale"]["domain"] == rect["encoding"]["y"]["scale"]["domain"] == ORDER


@pytest.mark.parametrize(("experts", "named"), [(8, 8), (64, 16), (128, 16)])
def test_of_many_experts_some_are_named(experts, named):
    axis = pair_matrix(CELLS, range(experts), "weights", 1.0).to_dict()["layer"][0]["encoding"]["x"]["axis"]
    assert len(axis["values"]) == named


@pytest.mark.parametrize(("experts", "drawn"), [(32, 32 * 31), (33, 33 * 32 // 2)])
def test_of_many_experts_each_pair_is_drawn_once_below_the_diagonal(experts, drawn):
    order = [*range(experts)][::-1]
    pairs = [(e, f, 0.1, MEASURED) for e in order for f in order if e != f]
    rows = rows_of(pair_matrix(pd.DataFrame(pairs, columns=CELLS.columns), order, "weights", 1.0).layer[0])
    assert len(rows) == drawn
    assert (
        len({frozenset(pair) for pair in zip(rows["expert"], rows["other"], strict=True)})
        == experts * (experts - 1) / 2
    )
    if experts > 32:
        assert (rows["expert"] < rows["other"]).all()  # later in this order


def test_loads_are_centred_on_an_even_share_and_no_token_is_said():
    chart = expert_loads(LOAD, [1, 0], (10, 15))
    rows = rows_of(chart.layer[0])
    assert rows["text"].tolist() == ["1×", "1×", "2×", "no token"]
    assert rows["value"].tolist() == pytest.approx([0.0, 0.0, math.log(2), -math.log(2)])
    assert rows["until"].tolist() == [10, 10, 20, 20]
    domain = chart.to_dict()["layer"][0]["encoding"]["color"]["scale"]["domain"]
    assert domain == pytest.approx([-math.log(2), 0, math.log(2)])


def test_the_entropy_has_the_same_axis_whatever_its_values():
    drawn = routing_evenness(LOAD, (0, 5)).to_dict()
    assert drawn["layer"][0]["encoding"]["y"]["scale"]["domain"] == [0, 1]
    assert drawn["layer"][0]["encoding"]["x"]["scale"]["domain"] == [0.0, 20.0]
