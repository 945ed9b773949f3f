"""The panel "How is this decided?" and the frame in a real browser: by keyboard, on a phone, and accessible."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import settle
from tests.browser.test_every_page import assert_accessible, assert_fits


def test_the_rule_behind_a_status_opens_by_keyboard_and_then_the_whole_method(open_page: Callable[..., Page]):
    page = open_page("?run=example-as-is")
    page.get_by_role("button", name="How is this decided?").first.focus()
    page.keyboard.press("Enter")
    panel = page.get_by_test_id("stPopoverBody")
    expect(panel.get_by_text("The first line of the decision table that applies decides")).to_be_visible()
    expect(panel.get_by_text("line 5: merged gradients of all experts")).to_be_visible()
    settle(page)
    assert_accessible(page)
    panel.get_by_role("button", name="Read the whole method").click()
    whole = page.get_by_role("dialog", name="How the verdict decides")
    expect(whole.get_by_role("heading", name="What the statuses mean")).to_be_visible()
    expect(panel).to_be_hidden()
    settle(page)
    assert_accessible(page)
    page.keyboard.press("Escape")
    expect(whole).to_be_hidden()


def test_a_phone_has_the_chosen_run_and_its_status_in_the_sidebar(open_page: Callable[..., Page]):
    page = open_page("Diagnostics?run=example-positive-control", width=390, height=800)
    assert_fits(page)
    expect(page.get_by_test_id("stMain").get_by_role("heading", name="Diagnostics")).to_be_visible()
    page.get_by_test_id("stExpandSidebarButton").click()
    sidebar = page.get_by_test_id("stSidebar")
    expect(sidebar.get_by_text("self-test passed")).to_be_visible()
    expect(sidebar.get_by_text("seed 0")).to_be_visible()
    assert_accessible(page)
