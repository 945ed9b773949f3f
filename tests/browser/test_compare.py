"""The Compare page in a real browser: every view is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import drawn, settle, upload, visit
from tests.support.simulated_runs import simulated_run, write


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
    for view in ("Groups", "Dose", "Sham runs"):
        page.get_by_role("radio", name=view).click()
        settle(page)
        drawn(page)
    page.get_by_role("radio", name="All runs").click()
    expect(page.get_by_text("6 of 6 runs match")).to_be_visible(timeout=15_000)
