"""The Dynamics page in a real browser: views, the switch of the norms, labels, brush, and zooming with the wheel."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import LAYERED, downloaded, drawn, in_the_dark, settle, upload, visit
from tests.support.app_pages import EXAMPLES
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
    chart = page.get_by_label("Tier norms over training step", exact=True)
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


def text_boxes(chart: Locator) -> list[dict[str, float]]:
    """Return the boxes of the labels beside the lines."""
    labels = chart.locator("text", has_text=re.compile(r"^expert \d+ \w+, \w+$"))
    boxes = [labels.nth(place).bounding_box() for place in range(labels.count())]
    return [dict(box) for box in boxes if box is not None]


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    """Return True if two boxes share more than the white space around letters."""
    wide = min(one["x"] + one["width"], other["x"] + other["width"]) - max(one["x"], other["x"])
    high = min(one["y"] + one["height"], other["y"] + other["height"]) - max(one["y"], other["y"])
    return wide > 0 and high > 0.35 * min(one["height"], other["height"])


@pytest.mark.parametrize("width", [1280, 390])
def test_the_switch_changes_the_chart_whose_labels_do_not_collide(open_page: Callable[..., Page], width: int):
    page = open_page(width=width, height=2400)
    upload(page, EXAMPLES / "as-is.db")
    chart = page.get_by_label("Tier norms over training step", exact=True)
    title = chart.locator(".role-axis-title", has_text="(loss / weight)")
    expect(title).to_have_text("Norm divided by routing share (loss / weight)", timeout=15_000)
    boxes, frame = text_boxes(chart), chart.bounding_box()
    assert frame is not None
    assert len(boxes) == 9
    assert not [1 for one, other in itertools.combinations(boxes, 2) if overlap(one, other)]
    assert all(
        frame["x"] - 1 <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"] + 1 for box in boxes
    )
    assert all(box["y"] + box["height"] <= frame["y"] + frame["height"] + 1 for box in boxes)
    beyond = lines_drawn(chart)
    page.get_by_role("radio", name="As logged").click()
    expect(title).to_have_text("Gradient norm as logged (loss / weight)", timeout=15_000)
    assert lines_drawn(chart) != beyond
    expect(page.get_by_text("As logged, bottom norms are")).to_be_visible()
    page.wait_for_url(re.compile("norms=As"))


def lines_drawn(chart: Locator) -> list[str | None]:
    """Return the paths of the lines."""
    lines = chart.locator(".mark-line path")
    return [lines.nth(place).get_attribute("d") for place in range(lines.count())]
