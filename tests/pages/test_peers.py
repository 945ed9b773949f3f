"""All pages with runs of peers: each shows something, and names no clean and no perturbed expert."""

import re
from dataclasses import replace

import pyarrow as pa
import pytest

from tests.support.app_pages import banner, opened, texts
from tests.support.peer_runs import peer_run, peer_study, write_peers
from ui.layout.frame import PAGES
from validation.charts import theme

WORDS_OF_PERTURBATIONS = re.compile(r"\bclean\b|perturbed|awaken|sustain|divergence|dormant|sham|clean expert")


def written(folder, runs):
    return [(write_peers(run, folder / f"{run.id}.db"), run.id) for run in runs]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return written(tmp_path_factory.mktemp("one"), [peer_run(steps=300)])


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return written(tmp_path_factory.mktemp("six"), peer_study(6, steps=300))


@pytest.mark.parametrize("page", ["app.py", *PAGES])
@pytest.mark.parametrize("kind", ["one", "six"])
def test_no_page_speaks_of_a_perturbation(page, kind, request):
    at = opened(page, *request.getfixturevalue(kind))
    assert not at.exception
    words = texts(at).replace(at.caption[0].value, "") if page == "app.py" else texts(at)  # what the app is for
    found = WORDS_OF_PERTURBATIONS.search(words)
    assert found is None, words[max(0, found.start() - 60) : found.end() + 60]
    choices = [option for group in at.get("button_group") for option in group.options]
    assert not [option for option in choices if WORDS_OF_PERTURBATIONS.search(str(option).lower())]


def test_home_says_that_the_experts_are_distinct(six):
    at = opened("app.py", *six)
    assert "The experts are distinct" in banner(at)
    assert "**Distinct**" in texts(at)
    assert "over 6 seeds" in banner(at)


def test_the_verdict_page_draws_the_direction_in_each_seed(six):
    at = opened("pages/2_Verdict.py", *six)
    assert len(at.get("vega_lite_chart")) == 1
    at.get("button_group")[0].set_value("This run alone").run()
    assert not at.exception
    assert len(at.get("vega_lite_chart")) == 1


@pytest.mark.parametrize("view", ["Tier norms", "By tier", "Together", "Routing"])
def test_every_view_of_the_dynamics_draws_eight_peers(one, view):
    at = opened("pages/1_Dynamics.py", *one)
    at.get("button_group")[0].set_value(view).run()
    assert not at.exception
    (chart,) = at.get("vega_lite_chart")
    tables = [pa.ipc.open_stream(data.data.data).read_all() for data in chart.proto.datasets]
    drawn = [table.select(["expert", "series"]) for table in tables if "series" in table.column_names]
    lines = {(*row.values(),) for table in drawn for row in table.to_pylist()}
    assert lines >= {(expert, f"peer {expert}") for expert in range(8)}
    assert {series for _, series in lines} <= {*theme.PEERS, "loss"}


def test_a_run_of_peers_in_training_is_told_when_it_is_judged(tmp_path):
    run = peer_run(steps=300)
    path = write_peers(
        replace(run, facts={**run.facts, "planned_steps": 900, "exit_state": "running"}), tmp_path / "a.db"
    )
    at = opened("app.py", (path, "a"))
    assert not at.exception
    assert "The final verdict is due after step" in texts(at)
