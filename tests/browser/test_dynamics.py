"""The Dynamics page in a real browser: every view, the range of steps under the brush, and zooming with the wheel."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import LAYERED, downloaded, drawn, in_the_dark, settle, upload, visit
from tests.support.simulated_runs import simulated_run, with_norms, write


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
    """Return True for the perturbed expert's marks in the lowest tenth of the plot, which no line reaches."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    low = pixels[int(0.615 * len(pixels)) : int(0.67 * len(pixels)), : int(0.75 * pixels.shape[1])]
    return bool((low[:, :, 0] - low[:, :, 2] > 60).sum() > 20)


def test_a_brush_redraws_its_steps_and_nothing_else_of_the_page(page: Page, tmp_path: Path):
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


def test_lines_are_zoomed_with_the_wheel_and_all_seen_again(open_page: Callable[..., Page]):
    page = open_page(f"Dynamics?run={LAYERED}")
    chart = page.get_by_test_id("stVegaLiteChart").last
    whole = chart.locator(".role-axis-label").first
    expect(whole).to_contain_text("100")
    chart.hover()
    page.keyboard.down("Alt")
    for _ in range(6):
        page.mouse.wheel(0, -200)
    page.keyboard.up("Alt")
    expect(whole).not_to_contain_text("100")
    chart.dblclick()
    expect(whole).to_contain_text("100")
