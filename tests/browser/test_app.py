"""The main job in a real browser: upload, see the chart, read the verdict, take it away."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import drawn, in_the_dark, settle, upload, visit
from tests.support.simulated_runs import simulated_run, with_norms, write

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def downloaded(page: Page, button: str) -> bytes:
    """What the browser saves at a click."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    settle(page)
    return Path(download.value.path()).read_bytes()


def test_an_uploaded_file_gives_a_verdict_charts_diagnostics_and_reports(page: Page):
    upload(page, EXAMPLES / "as-is.db")
    expect(page.get_by_role("heading", name="Verdict: confounded")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("one common gradient").first).to_be_visible()
    visit(page, "Dynamics")
    drawn(page)
    page.get_by_role("button", name="Export").click()
    assert b"step" in downloaded(page, "Rows as CSV").splitlines()[0]
    assert pq.read_table(io.BytesIO(downloaded(page, "Rows as Parquet"))).num_rows > 100
    assert downloaded(page, "Picture as SVG").startswith(b"<svg")
    assert Image.open(io.BytesIO(downloaded(page, "Picture as PNG"))).width > 900
    page.keyboard.press("Escape")
    visit(page, "Verdict")
    assert b'"schema": "prismatic-verdict/1"' in downloaded(page, "Download the verdict (JSON)")
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
    expect(page.get_by_role("heading", name="Verdict: supported")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("put in by hand").first).to_be_visible()
    main = page.get_by_test_id("stMain")
    for path in bad:
        expect(main.get_by_text(f"The file {path.name} cannot be read as a run")).to_be_visible()
    # The words of a file become no link, no picture and no emphasis.
    expect(main.get_by_text("http://evil.example/a www.evil.example").first).to_be_visible()
    assert main.locator("a[href*=evil], img[src*=evil], em").count() == 0


@in_the_dark
def test_each_view_of_the_dynamics_is_drawn_and_zeros_are_seen_below_the_axis(page: Page, tmp_path: Path):
    run = simulated_run(steps=200)
    holed = run.experts[1]["bottom_norm"].copy()
    holed[50:150] = 0.0
    upload(page, write(with_norms(run, 1, bottom_norm=holed), tmp_path / "zeros.db"))
    visit(page, "Dynamics")
    drawn(page)
    page.mouse.move(0, 0)
    chart = page.get_by_label("Tier norms over training step", exact=True)
    plot = chart.screenshot(path=tmp_path / "chart.png")
    assert red_pixels_near_the_bottom(plot)
    for view in ("By tier", "Divergence", "Routing"):
        page.get_by_role("radio", name=view).click()
        settle(page)
        chart = page.get_by_label(f"{view} over training step", exact=True)
        expect(chart.locator("canvas, svg").first).to_be_visible(timeout=15_000)


def red_pixels_near_the_bottom(picture: bytes) -> bool:
    """Marks of the perturbed expert in the lowest tenth of the plot, where no line of this run reaches."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    low = pixels[int(0.615 * len(pixels)) : int(0.67 * len(pixels)), : int(0.75 * pixels.shape[1])]
    return bool((low[:, :, 0] - low[:, :, 2] > 60).sum() > 20)


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_the_whole_way_can_be_gone_by_keyboard(page: Page):
    reach(page, "Example: as is")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Verdict: confounded")).to_be_visible(timeout=15_000)
    settle(page)
    reach(page, "Verdict")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Evidence")).to_be_visible(timeout=15_000)
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
    expect(page.get_by_role("button", name="Example: as is")).to_be_visible(timeout=15_000)


def reach(page: Page, name: str) -> None:
    """Press Tab until the focus is on what has this name."""
    said = "(() => { const at = document.activeElement; return at.ariaLabel || at.innerText || '' })()"
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate(said).strip() == name:
            return
    raise AssertionError(f"{name!r} cannot be reached")


def test_a_brush_draws_its_steps_anew_and_nothing_else_of_the_page(page: Page, tmp_path: Path):
    frames: list[bytes] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(frame)))
    page.reload()
    settle(page)
    upload(page, write(simulated_run(steps=1200), tmp_path / "long.db"))
    visit(page, "Dynamics")
    drawn(page)
    frames.clear()
    box = page.locator("[class*=st-key-overview]").get_by_test_id("stVegaLiteChart").bounding_box()
    assert box is not None
    y = box["y"] + 0.15 * box["height"]
    page.mouse.move(box["x"] + 0.4 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=5)
    page.mouse.up()
    for _ in range(150):  # at most 15 seconds
        page.wait_for_timeout(100)
        if any(b"data-0" in frame for frame in frames):
            break
    settle(page)
    assert any(b"data-0" in frame for frame in frames)
    assert not any(b"Divergence score" in frame for frame in frames)
    page.get_by_role("button", name="Export").click()
    rows = downloaded(page, "Rows as CSV").decode().splitlines()
    place = rows[0].split(",").index("step")
    steps = [int(row.split(",")[place]) for row in rows[1:]]
    assert 300 < min(steps) < max(steps) < 900


def test_a_threshold_can_be_changed_and_its_table_stays_open(page: Page):
    page.get_by_role("button", name="Example: as is").click()
    expect(page.get_by_role("heading", name="Verdict: confounded")).to_be_visible(timeout=15_000)
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
    expect(table).to_be_visible()
    page.get_by_role("button", name="Back to what was registered").click()
    expect(page.get_by_text("As registered before the first step").first).to_be_visible(timeout=15_000)
    expect(table).to_be_visible()
