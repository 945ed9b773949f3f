"""The pages in a real browser follow a run in training."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import LAYERED, ROOT, visit
from ui.layout.frame import PAGES

OPTIONS = ["hidden_size=16", "num_heads=2", "num_layers=1", "sequence_length=16", "steps=100000", "log_freq=20"]
LOGGED = "Number((document.body.innerText.match(/([\\d,]+) logged steps/)?.[1] ?? '').replaceAll(',', ''))"
GROWN = f"before => {LOGGED} > before"


@pytest.fixture
def training(runs: Path) -> Iterator[str]:
    """The hash of a run in training in the server's folder."""
    known = set(runs.iterdir())
    command = [sys.executable, "-m", "prismatic", "train", "--config", "experiments/prismatic.yml"]
    command += ["--runs", str(runs), "--overwrite", "--set", *OPTIONS]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (found := {*runs.glob("*/dynamics.db")} - {path / "dynamics.db" for path in known}):
            assert process.poll() is None
            time.sleep(0.1)
        (path,) = found
        while path.stat().st_size < 100_000:
            assert process.poll() is None
            time.sleep(0.1)
        yield path.parent.name
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.long
def test_every_page_follows_a_run_while_it_is_trained(open_page: Callable[..., Page], training: str):
    page = open_page(height=700)
    page.get_by_role("button", name=f"Follow {training}").click(timeout=30_000)
    expect(page.get_by_text("training", exact=True).first).to_be_visible(timeout=15_000)
    expect(page.get_by_text("provisional", exact=True).first).to_be_visible()
    for name in PAGES.values():
        if name == "Compare":  # shows several runs
            continue
        if name != "Home":
            visit(page, name)
        main = page.get_by_test_id("stMain")
        main.evaluate("main => main.scrollTo(0, 100)")
        assert_grows(page)
        assert main.evaluate("main => main.scrollTop") == 100
    assert_grows(open_page(f"Compare?from={training}&from={LAYERED}&compare=All+runs"))


def assert_grows(page: Page) -> None:
    """Assert that the page shows more logged steps after a while, by itself."""
    page.wait_for_function(f"{LOGGED} > 0", timeout=30_000)
    page.wait_for_function(GROWN, arg=page.evaluate(LOGGED), timeout=30_000)
