"""All pages in a real browser: a link restores them, nothing jumps, they fit a phone, axe-core finds no violation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import LAYERED, SEEDS, drawn, settle, visit
from ui.layout.frame import PAGES

WCAG = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
OF_COLOUR = ("color-contrast", "link-in-text-block")  # rules whose result depends on the theme
ALL = f"from={LAYERED}&from={SEEDS[0]}&from={SEEDS[1]}&run={SEEDS[1]}"
LINKS = {  # of pages that restore more than a run
    "Dynamics": f"run={LAYERED}&view=Divergence",
    "Verdict": f"run={LAYERED}&see-thresholds=true&see-claims=true&see-facts=true",
    "Layers": f"run={LAYERED}&measure=Norm&layer=2",
    "Compare": f"{ALL}&compare=Groups&shown=A",
    "Diagnostics": ALL,
    "Runs": ALL,
}
CHOSEN = {"Dynamics": "Divergence", "Layers": "Norm", "Compare": "Groups"}
DISTURBING = 0.1  # layout shift score


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "Home" else pytest.mark.long) for n in PAGES.values()]
)
def test_a_link_restores_the_run_and_the_view(open_page: Callable[..., Page], name: str):
    link = LINKS.get(name, f"run={LAYERED}")
    page = open_page(f"{'' if name == 'Home' else name}?{link}", width=390)
    run = SEEDS[1] if link == ALL else LAYERED
    if name == "Compare":
        expect(page.get_by_text("A: ")).to_be_visible(timeout=15_000)
    else:
        expect(page.get_by_text(f"run {run} · 120 logged steps")).to_be_visible(timeout=15_000)
    if name in CHOSEN:
        expect(page.get_by_role("radio", name=CHOSEN[name])).to_be_checked()
        drawn(page)
    if name == "Verdict":
        for part in ("thresholds", "claims", "facts"):
            expect(page.locator(f".st-key-see-{part}").get_by_test_id("stDataFrame")).to_be_visible()
    if name == "Layers":
        expect(page.get_by_role("combobox", name="Layer")).to_have_value("2")
    settle(page)
    assert page.evaluate("window.shifted") <= DISTURBING
    assert_fits(page)
    page.set_viewport_size({"width": 1280, "height": 1600})
    assert_accessible(page)


@pytest.mark.long
def test_pages_without_a_run_are_accessible_too(page: Page):
    for name in PAGES.values():
        if name != "Home":
            visit(page, name)
        assert_accessible(page)
    page.set_viewport_size({"width": 390, "height": 800})
    assert_fits(page)


def assert_fits(page: Page) -> None:
    """Assert that nothing is wider than the window."""
    wide = (
        "(() => { const m = document.querySelector('[data-testid=stMain]'); return m.scrollWidth - m.clientWidth })()"
    )
    assert page.evaluate(wide) <= 0


def assert_accessible(page: Page) -> None:
    """Assert that axe-core finds no violation of WCAG A and AA in either theme."""
    page.add_style_tag(content="* { transition: none !important; animation: none !important }")
    expect(page.locator("[data-stale=true]")).to_have_count(0)  # Streamlit fades what it is about to replace
    assert not violations(page, runOnly=WCAG)
    app = page.get_by_test_id("stApp")
    light = app.evaluate("app => getComputedStyle(app).backgroundColor")
    page.emulate_media(color_scheme="dark")
    expect(app).not_to_have_css("background-color", light)
    assert not violations(page, runOnly=OF_COLOUR)
    page.emulate_media(color_scheme="light")
    expect(app).to_have_css("background-color", light)


def violations(page: Page, **options: Any) -> list[str]:
    """Return axe-core's violations: rule, element and reason."""
    found = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [f"{one['id']} {node['target']}: {node['failureSummary']}" for one in found for node in one["nodes"]]
