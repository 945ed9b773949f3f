"""The Compare page in a real browser: every view is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import drawn, settle, upload, visit
from tests.support.simulated_runs import simulated_run, write


@pytest.mark.long
def test_every_view_of_compare_is_drawn(open_page: Callable[..., Page], tmp_path: Path):
    page = open_page()
    files = [
        write(
            simulated_run(seed=10 * scale + seed, steps=120),
            tmp_path / f"{scale}-{seed}.db",
            run_hash=f"{scale}{seed}" * 4,
            **{"config.seed": seed, "config.perturbation_scale": float(scale)},
        )
        for scale in range(3)
        for seed in range(2)
    ]
    upload(page, *files)
    visit(page, "Compare")
    for view in ("Forest", "Dose", "Sham runs", "Groups"):
        page.get_by_role("radio", name=view).click()
        settle(page)
        drawn(page)
    page.get_by_role("radio", name="All runs").click()
    expect(page.get_by_text("6 of 6 runs match")).to_be_visible(timeout=15_000)


def test_the_study_leads_from_its_card_to_the_forest_plot_and_the_dose_response(page: Page):
    page.get_by_role("button", name="Compare its seeds").click()
    expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible(timeout=30_000)
    expect(page.get_by_text("Gradient gain of the bottom tier")).to_be_visible(timeout=15_000)
    settle(page)
    drawn(page)
    page.get_by_role("radio", name="Divergence").click()
    expect(page.get_by_text("Direction difference from the control")).to_be_visible(timeout=15_000)
    page.get_by_role("radio", name="Dose").click()
    expect(page.get_by_text("Page's p").first).to_be_visible(timeout=15_000)
    settle(page)
    drawn(page)


def test_a_card_opens_the_study_on_home(page: Page):
    page.get_by_role("button", name="Open the study").click()
    expect(page.get_by_text("24 runs read")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("REFUTED").first).to_be_visible()
