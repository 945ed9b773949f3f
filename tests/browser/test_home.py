"""The home page and the way from it in a real browser: upload, verdict, charts, downloads, and all by keyboard."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import downloaded, drawn, in_the_dark, settle, upload, visit

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_an_uploaded_file_gives_a_verdict_charts_diagnostics_and_reports(page: Page):
    upload(page, EXAMPLES / "as-is.db")
    expect(page.get_by_role("heading", name="all experts share one gradient")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("12 runs, about").first).to_be_visible()
    drawn(page)
    visit(page, "Dynamics")
    drawn(page)
    page.get_by_role("button", name="Export").click()
    assert b"step" in downloaded(page, "Rows as CSV").splitlines()[0]
    assert pq.read_table(io.BytesIO(downloaded(page, "Rows as Parquet"))).num_rows > 100
    assert downloaded(page, "Picture as SVG").startswith(b"<svg")
    assert Image.open(io.BytesIO(downloaded(page, "Picture as PNG"))).width > 900
    page.keyboard.press("Escape")
    visit(page, "Verdict")
    assert b'"schema": "prismatic-verdict/2"' in downloaded(page, "Download the verdict (JSON)")
    assert b"</html>" in downloaded(page, "Report (HTML)")
    assert b"confounded" in downloaded(page, "Report (Markdown)")
    visit(page, "Diagnostics")
    expect(page.get_by_text("All experts share one gradient").first).to_be_visible()


@in_the_dark
def test_bad_files_of_an_upload_are_told_beside_the_verdict_of_the_good_one(page: Page, tmp_path: Path):
    words = "http://evil.example/a www.evil.example mail@evil.example _soft_ *loud* :material/home: <b>x</b> ![x](http://evil.example/b)"
    (tmp_path / "www.evil.example.db").write_text(words)
    (tmp_path / "empty.db").touch()
    (tmp_path / "short.db").write_bytes((EXAMPLES / "as-is.db").read_bytes()[:70_000])
    bad = sorted(tmp_path.iterdir())
    upload(page, EXAMPLES / "positive-control.db", *bad)
    expect(page.get_by_role("heading", name="The verdict found the effect")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("SELF-TEST PASSED").first).to_be_visible()
    main = page.get_by_test_id("stMain")
    main.get_by_text("Not read: ").click()
    for path in bad:
        expect(main.get_by_text(f"The file {path.name} cannot be read as a run")).to_be_visible()
    # Words from a file become no link, picture or emphasis.
    expect(main.get_by_text("http://evil.example/a www.evil.example").first).to_be_visible()
    assert main.locator("a[href*=evil], img[src*=evil], em").count() == 0


@pytest.mark.parametrize("page", ["light", pytest.param("dark", marks=pytest.mark.long)], indirect=True)
def test_the_whole_way_can_be_gone_by_keyboard(page: Page):
    reach(page, "Open the documented run")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="all experts share one gradient")).to_be_visible(timeout=15_000)
    settle(page)
    reach(page, "Verdict")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Sustainment")).to_be_visible(timeout=15_000)
    settle(page)
    reach(page, "Download the verdict (JSON)")
    with page.expect_download():
        page.keyboard.press("Enter")
    reach(page, "Home")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Start over")).to_be_visible(timeout=15_000)
    settle(page)
    reach(page, "Start over")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Open the documented run")).to_be_visible(timeout=15_000)


def test_another_run_is_picked_in_the_table_by_keyboard_and_its_chart_is_below(page: Page):
    page.get_by_role("button", name="Open the study").click()
    expect(page.get_by_text("24 runs read")).to_be_visible(timeout=30_000)
    settle(page)
    for _ in range(2):  # Tab finds the way out of the table, and back into it
        picked = page.get_by_role("combobox", name="Run").input_value()
        reach(page, "Fullscreen: All runs, each judged by itself")
        for key in ("Tab", "ArrowDown", "ArrowDown", "Shift+Space"):
            page.keyboard.press(key)
        combobox = page.get_by_role("combobox", name="Run")
        expect(combobox).not_to_have_value(picked, timeout=15_000)
        settle(page)
        other = combobox.input_value()
        expect(page.get_by_text(f"Run {other}, one of 6 seeds")).to_be_visible()
        marked = page.locator("[data-testid=data-grid-canvas] tr", has_text="▶")
        expect(marked).to_have_count(1)
        expect(marked).to_contain_text(other)
        assert page.evaluate("document.activeElement.closest('[data-testid=stDataFrame]') !== null")


def reach(page: Page, name: str) -> None:
    """Press Tab until the element with this name has the focus."""
    label = "(() => { const at = document.activeElement; return at.ariaLabel || at.innerText || '' })()"
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate(label).strip().split("\n")[-1] == name:  # the name of an icon stands before
            return
    raise AssertionError(f"{name!r} cannot be reached")
