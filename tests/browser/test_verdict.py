"""The Verdict page in a real browser: a threshold is changed in its table."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import settle, visit


@pytest.mark.long
def test_a_threshold_can_be_changed_and_its_table_stays_open(page: Page):
    page.get_by_role("button", name="Open the documented run").click()
    expect(page.get_by_role("heading", name="all experts share one gradient")).to_be_visible(timeout=15_000)
    for name in ("Verdict", "Dynamics", "Verdict"):
        visit(page, name)
    page.get_by_text("See or change the thresholds").click()
    table = page.locator(".st-key-see-thresholds").get_by_test_id("stDataFrame")
    expect(table).to_be_visible(timeout=15_000)
    table.scroll_into_view_if_needed()
    table.click(position={"x": 30, "y": 35 * 3.5})  # the third threshold: awakening_ratio
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator("#portal input").fill("1.5")
    page.keyboard.press("Enter")
    expect(page.get_by_text("changed after the fact").first).to_be_visible(timeout=15_000)
    settle(page)
    expect(table).to_be_visible()
    page.get_by_role("button", name="Restore the registered thresholds").click()
    expect(page.get_by_text("As registered before the first step").first).to_be_visible(timeout=15_000)
    settle(page)
    expect(table).to_be_visible()
