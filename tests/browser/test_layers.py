"""The Layers page in a real browser: the heatmap plays, and a click on a cell chooses it."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import in_the_dark, settle, upload, visit
from tests.support.layered_runs import write_layers


@pytest.mark.long
@in_the_dark
def test_layers_play_when_asked_and_a_click_on_a_cell_chooses_it(page: Page, tmp_path: Path):
    upload(page, write_layers(tmp_path / "film.db", steps=3, histograms=True))
    visit(page, "Layers")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible(timeout=15_000)
    expect(page.get_by_role("button", name="Play")).to_be_visible(timeout=15_000)
    expect(page.get_by_role("slider", name="Training steps shown")).to_have_attribute("aria-valuetext", "2")
    settle(page)
    box = page.get_by_test_id("stVegaLiteChart").first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.45 * box["height"])
    page.wait_for_url(lambda url: "layer=2" in url, timeout=15_000)
    settle(page)
