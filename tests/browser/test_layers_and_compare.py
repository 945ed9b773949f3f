"""The pages about layers and about several runs, in a real browser: what only a browser can click, play and draw."""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import drawn, in_the_dark, settle, upload, visit
from tests.support.layered_runs import write_layers
from tests.support.simulated_runs import simulated_run, write


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


def test_every_view_of_compare_is_drawn(open_page: Callable[..., Page], tmp_path: Path):
    page = open_page()
    files = [
        write(
            simulated_run(seed=seed, steps=120),
            tmp_path / f"{scale}-{seed}.db",
            run_hash=f"{scale}{seed}" * 4,
            **{"config.seed": seed, "config.perturbation_scale": float(scale)},
        )
        for scale in range(3)
        for seed in range(2)
    ]
    upload(page, *files)
    visit(page, "Compare")
    for view in ("Groups", "Dose", "Sham runs"):
        page.get_by_role("radio", name=view).click()
        settle(page)
        drawn(page)
    page.get_by_role("radio", name="All runs").click()
    expect(page.get_by_text("6 of 6 runs match")).to_be_visible(timeout=15_000)
