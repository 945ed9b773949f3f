"""The main job in a real browser: upload, see the chart, read the verdict."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import settle
from tests.simulate import simulated_run, with_norms, write

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def visit(page: Page, name: str) -> None:
    page.get_by_test_id("stSidebar").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible(timeout=15_000)
    settle(page)


def upload(page: Page, *files: Path) -> None:
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(files)
    expect(page.get_by_role("button", name="Start over")).to_be_visible(timeout=15_000)
    settle(page)


def test_an_uploaded_file_gives_a_verdict_a_chart_and_diagnostics(page: Page):
    upload(page, EXAMPLES / "as-is.db")
    expect(page.get_by_role("heading", name="Verdict: confounded")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("one common gradient").first).to_be_visible()
    visit(page, "Dynamics")
    chart = page.get_by_test_id("stVegaLiteChart").first
    expect(chart.locator("canvas, svg").first).to_be_visible(timeout=15_000)
    visit(page, "Diagnostics")
    expect(page.get_by_text("All experts share one gradient").first).to_be_visible()


@pytest.mark.parametrize("page", ["dark"], indirect=True)
def test_bad_files_of_an_upload_are_told_beside_the_verdict_of_the_good_one(page: Page, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("these are notes")
    (tmp_path / "empty.db").touch()
    (tmp_path / "short.db").write_bytes((EXAMPLES / "as-is.db").read_bytes()[:70_000])
    upload(page, EXAMPLES / "positive-control.db", *sorted(tmp_path.iterdir()))
    expect(page.get_by_role("heading", name="Verdict: supported")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("put in by hand").first).to_be_visible()
    for name in ("notes.txt", "empty.db", "short.db"):
        expect(page.get_by_text(f"The file {name} cannot be read as a run")).to_be_visible()


def test_the_words_of_a_file_become_no_link_no_picture_and_no_emphasis(page: Page, tmp_path: Path):
    words = "http://evil.example/a www.evil.example mail@evil.example _soft_ *loud* :material/home: <b>x</b> ![x](http://evil.example/b)"
    (tmp_path / "www.evil.example.db").write_text(words)
    upload(page, tmp_path / "www.evil.example.db")
    main = page.get_by_test_id("stMain")
    expect(main.get_by_text("The file www.evil.example.db cannot be read as a run")).to_be_visible(timeout=15_000)
    expect(main.get_by_text("http://evil.example/a www.evil.example").first).to_be_visible()
    assert main.locator("a[href*=evil], img[src*=evil], em").count() == 0


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_zeros_are_seen_on_a_rail_below_the_logarithmic_axis(page: Page, tmp_path: Path):
    run = simulated_run(steps=200)
    holed = run.experts[1]["bottom_norm"].copy()
    holed[50:150] = 0.0
    upload(page, write(with_norms(run, 1, bottom_norm=holed), tmp_path / "zeros.db"))
    visit(page, "Dynamics")
    chart = page.get_by_test_id("stVegaLiteChart").first
    expect(chart.locator("canvas, svg").first).to_be_visible(timeout=15_000)
    page.mouse.move(0, 0)
    box = chart.bounding_box()
    assert box is not None
    plot = chart.screenshot(path=tmp_path / "chart.png")
    assert red_pixels_near_the_bottom(plot)


def red_pixels_near_the_bottom(picture: bytes) -> bool:
    """Marks of the perturbed expert in the lowest tenth of the plot, where no line of this run reaches."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    low = pixels[int(0.74 * len(pixels)) : int(0.84 * len(pixels)), : int(0.75 * pixels.shape[1])]
    return bool((low[:, :, 0] - low[:, :, 2] > 60).sum() > 20)


def test_an_example_is_one_click_away_and_start_over_forgets_it(page: Page):
    page.get_by_role("button", name="Example: zero norms").click()
    expect(page.get_by_role("heading", name="Verdict: invalid")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("zero_grad").first).to_be_visible()
    page.get_by_role("button", name="Start over").click()
    expect(page.get_by_role("button", name="Example: zero norms")).to_be_visible(timeout=15_000)


@pytest.mark.parametrize("page", ["dark"], indirect=True)
def test_each_view_of_the_dynamics_is_drawn(page: Page):
    upload(page, EXAMPLES / "positive-control.db")
    visit(page, "Dynamics")
    for view in ("By tier", "Divergence", "Routing"):
        page.get_by_role("radio", name=view).or_(page.get_by_role("button", name=view, exact=True)).first.click()
        settle(page)
        expect(page.get_by_test_id("stVegaLiteChart").first.locator("canvas, svg").first).to_be_visible(timeout=15_000)


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_the_verdict_can_be_downloaded(page: Page):
    upload(page, EXAMPLES / "as-is.db")
    visit(page, "Verdict")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the verdict (JSON)").click()
    assert '"schema": "prismatic-verdict/1"' in Path(download.value.path()).read_text()
