"""Runs of many experts on the pages: a picker in place of a line for each, and cells that neighbours share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.app_pages import opened, texts
from tests.support.packed_runs import log_packed

ROLES = ["clean", *["perturbed"] * 36, *["control"] * 3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return log_packed(tmp_path_factory.mktemp("many") / "many.db", roles=ROLES, steps=20, layers=3)


@pytest.mark.long
@pytest.mark.parametrize("page", sorted(Path("pages").glob("*.py")), ids=lambda page: page.stem)
def test_a_page_opens(run: Path, page: Path):
    assert not opened(str(page), (run, "many")).exception


@pytest.mark.long
def test_layers_share_cells_and_each_expert_can_be_chosen(run: Path):
    at = opened("pages/3_Layers.py", (run, "many"))
    assert "A cell is the mean over up to 5 neighbouring experts" in texts(at)
    experts = next(box for box in at.selectbox if box.label == "Expert")
    assert len(experts.options) == 39  # all but the clean one, which is compared with no other
    experts.set_value(17).run()
    assert not at.exception
    assert "Expert 17 is perturbed." in texts(at)


@pytest.mark.long
def test_the_layers_are_left_out_when_that_is_asked_for(run: Path):
    at = opened("pages/3_Layers.py", (run, "many"))
    drawn = len(at.get("vega_lite_chart"))
    next(toggle for toggle in at.toggle if toggle.label == "Judge again without each layer").set_value(True).run()
    assert not at.exception
    assert len(at.get("vega_lite_chart")) == drawn + 2
    assert "The run is judged again without each layer" in texts(at)


@pytest.mark.long
def test_dynamics_draws_a_few_experts_until_others_are_chosen(run: Path):
    at = opened("pages/1_Dynamics.py", (run, "many"))
    (picker,) = at.multiselect
    assert (len(picker.options), len(picker.value)) == (40, 4)
