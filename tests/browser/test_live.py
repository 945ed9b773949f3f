"""A run that is being trained is followed by every page that shows it."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ROOT, visit
from ui.shell import PAGES

OPTIONS = ["hidden_size=16", "num_heads=2", "num_layers=1", "sequence_length=16", "steps=100000", "log_freq=20"]
GROWN = "before => Number(document.body.innerText.match(/(\\d+) logged steps/)?.[1]) > before"


@pytest.fixture
def training(runs: Path) -> Iterator[str]:
    """The hash of a run that is being trained on the app's machine."""
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


def logged_steps(page: Page) -> int:
    told = page.get_by_text(re.compile(r"^run \w+ · \d+ logged steps")).first
    return int(re.search(r"(\d+) logged steps", told.inner_text())[1])


def test_every_page_follows_a_run_while_it_is_trained(open_page: Callable[..., Page], training: str):
    page = open_page(height=700)
    page.get_by_role("button", name=f"Follow {training}").click(timeout=30_000)
    expect(page.get_by_text("training", exact=True).first).to_be_visible(timeout=15_000)
    expect(page.get_by_text("provisional", exact=True).first).to_be_visible()
    for name in PAGES.values():
        if name == "Compare":  # is about several runs, and says so
            continue
        if name != "Home":
            visit(page, name)
        main = page.get_by_test_id("stMain")
        main.evaluate("main => main.scrollTo(0, 100)")
        page.wait_for_function(GROWN, arg=logged_steps(page), timeout=30_000)
        assert main.evaluate("main => main.scrollTop") == 100
