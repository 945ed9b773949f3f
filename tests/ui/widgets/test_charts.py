"""Charts on a page: valid specs, narrow rows, and no slow guesses by Altair."""

import json

import altair as alt
import numpy as np
import pandas as pd
import pytest
from altair.utils.schemapi import SchemaBase
from altair.vegalite.v6.schema.core import Root
from streamlit.testing.v1 import AppTest

from tests.support.layered_runs import write_layers
from tests.support.simulated_runs import simulated_run, write
from ui.layout.frame import PAGES
from ui.session.library import Library, Source
from ui.settings import ROOT
from ui.widgets.charts import slim


def a_chart():
    import altair as alt
    import pandas as pd

    from ui.widgets.charts import draw

    rows = pd.DataFrame(
        {"step": [1, 2], "value": [0.5, None], "series": ["a", "b"], "unused": ["x", "y"]}, index=[7, 3]
    )
    first = alt.Chart(rows).mark_line().encode(x=alt.X("step:Q"), y=alt.Y("value:Q"), color=alt.Color("series:N"))
    second = alt.Chart(rows).mark_point().transform_filter("datum.value > 0").encode(x=alt.X("step:Q"))
    draw(alt.LayerChart(layer=[first, second], height=120), key="chart", alt="two layers")


def test_a_chart_keeps_its_description_and_layers_share_their_rows():
    at = AppTest.from_function(a_chart).run()
    assert not at.exception
    proto = at.get("vega_lite_chart")[0].proto
    assert proto.alt == "two layers"
    assert [dataset.name for dataset in proto.datasets] == ["data-0"]
    spec = json.loads(proto.spec)
    assert {layer["mark"]["type"] for layer in spec["layer"]} == {"line", "point"}
    assert spec["height"] == 120
    assert "config" not in spec or "view" not in spec["config"]  # Altair's own size of a chart


def test_rows_travel_narrow_and_without_what_is_not_drawn():
    data = pd.DataFrame(
        {
            "step": np.array([1, 2, 3]),
            "long": np.array([1, 2, 2**40]),
            "value": [0.1, np.nan, 0.2],
            "infinite": [0.1, np.inf, 1e30],
            "near": [1.0, 1.0 + 1e-9, 1.0 + 2e-9],
            "series": ["a", "b", "a"],
            "unused": [1, 2, 3],
        },
        index=[5, 6, 9],
    )
    narrow = slim(data, set(data.columns) - {"unused"})
    assert narrow.dtypes.astype(str).to_dict() == {
        "step": "int32",
        "long": "int64",
        "value": "float32",
        "infinite": "float32",
        "near": "float64",
        "series": "category",
    }
    pd.testing.assert_frame_equal(
        narrow.astype(data[narrow.columns].dtypes), data[narrow.columns].reset_index(drop=True), rtol=1e-6
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    seeds = [write(simulated_run(seed=s, steps=60), folder / f"{s}.db", run_hash=f"{s}" * 9) for s in (1, 2)]
    return [write_layers(folder / "layers.db", steps=40, histograms=True), *seeds]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "app.py" and not page.endswith("Runs.py")])
def test_charts_are_in_the_grammar_and_none_leaves_altair_to_guess_what_a_channel_is(page, files, monkeypatch):
    """A guess reads Altair's whole grammar: `y="value:Q"` costs more than the chart around it."""
    guessed = []
    monkeypatch.setattr(SchemaBase, "from_dict", classmethod(lambda cls, found, validate=True: guessed.append(found)))
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    at.session_state["library"] = Library([Source(file, file.name) for file in files])
    at.run()
    at.switch_page(page).run()
    assert not at.exception
    assert not guessed
    charts = at.get("vega_lite_chart")
    assert charts
    for chart in charts:
        Root.validate(json.loads(chart.proto.spec))


def test_drawing_leaves_the_settings_of_altair_alone():
    before = alt.data_transformers.active, alt.theme.active
    AppTest.from_function(a_chart).run()
    assert (alt.data_transformers.active, alt.theme.active) == before
