"""The Layers page in a real browser: the heatmap plays, and a click on a cell chooses it."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import in_the_dark, settle, upload, visit
from tests.browser.test_every_page import assert_accessible, assert_fits
from tests.support.layered_runs import write_layers
from tests.support.paired_runs import write_pairs


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


@pytest.mark.long
def test_the_matrix_of_experts_follows_its_slider_by_keyboard_and_is_accessible(page: Page, tmp_path: Path):
    upload(page, write_pairs(tmp_path / "pairs.db", noisy=(5,)))
    visit(page, "Layers")
    slider = page.get_by_role("slider", name="Training steps of the comparison")
    expect(slider).to_have_attribute("aria-valuetext", "440 to 470", timeout=15_000)
    expect(page.get_by_text("Steps 440 to 470: ").first).to_be_visible()
    for _ in range(11):
        slider.press("ArrowLeft")
        settle(page)
    expect(slider).to_have_attribute("aria-valuetext", "0 to 30", timeout=15_000)
    expect(page.get_by_text("Steps 0 to 30: ").first).to_be_visible()
    page.get_by_role("radio", name="Outputs").press("Enter")
    expect(page.get_by_text("0 for equal outputs").first).to_be_visible(timeout=15_000)
    settle(page)
    assert_accessible(page)
    page.set_viewport_size({"width": 390, "height": 800})
    settle(page)
    assert_fits(page)
