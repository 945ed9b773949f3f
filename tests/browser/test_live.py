"""A run that is being trained is followed by the page that shows it."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ROOT, settle

OPTIONS = ["hidden_size=16", "num_heads=2", "num_layers=1", "sequence_length=16", "steps=100000", "log_freq=20"]


def logged_steps(page: Page) -> int:
    told = page.get_by_text(re.compile(r"^run \w+ · \d+ logged steps")).first
    return int(re.search(r"(\d+) logged steps", told.inner_text())[1])


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_a_page_follows_a_run_while_it_is_trained(page: Page, runs: Path):
    command = [sys.executable, "-m", "prismatic", "train", "--config", "experiments/prismatic.yml"]
    command += ["--runs", str(runs), "--overwrite", "--set", *OPTIONS]
    training = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (found := list(runs.glob("*/dynamics.db"))) or found[0].stat().st_size < 100_000:
            assert training.poll() is None
            time.sleep(0.2)
        page.reload()
        settle(page)
        page.get_by_role("button", name=f"Follow {found[0].parent.name}").click(timeout=30_000)
        expect(page.get_by_text("training", exact=True).first).to_be_visible(timeout=15_000)
        expect(page.get_by_text("provisional", exact=True).first).to_be_visible()
        before = logged_steps(page)
        page.wait_for_function(
            "before => Number(document.body.innerText.match(/(\\d+) logged steps/)?.[1]) > before",
            arg=before,
            timeout=30_000,
        )
    finally:
        training.terminate()
        training.wait(20)
