"""Take the pictures of the app that the documentation and the README show, in a real browser.

    make pictures

Trains the runs of the dose-response under build/pictures on the first call (minutes); the other pictures
show the example runs. Needs a Chromium on the PATH.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SWEEP = ROOT / "build" / "pictures"
WORDS = "sweep --config experiments/per-example.yml --grid perturbation_scale=0.5,1 --with-controls"
WORDS += " --set hidden_size=32 sequence_length=48 steps=600 log_freq=10 probe_freq=10"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
READY = "[data-testid=stApp][data-test-script-state=notRunning]"
SECONDS = 60_000
# name, example, page, colours, height, view to choose
PICTURES = (
    ("verdict-light", "as is", None, "light", 1400, None),
    ("dynamics-dark", "as is", "Dynamics", "dark", 1000, None),
    ("evidence-light", "positive control", "Verdict", "light", 1900, None),
    ("layers-light", "positive control", "Layers", "light", 1050, None),
    ("dose-light", None, "Compare", "light", 1050, "Dose"),
    ("diagnostics-dark", "zero norms", "Diagnostics", "dark", 1100, None),
)


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """Run the app and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true", f"--server.port={port}"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PRISMATIC_RUNS": str(runs)})
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def settle(page: Page) -> None:
    """Wait until the page and its charts stand still."""
    page.wait_for_selector(READY, timeout=SECONDS)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=SECONDS)
    page.wait_for_timeout(1500)  # fonts and the animation of charts


def take(page: Page, address: str, example: str | None, to: str | None, view: str | None) -> None:
    """Choose runs, go to the page, and choose the view."""
    page.goto(address)
    settle(page)
    if example:
        page.get_by_role("button", name=f"Example: {example}").click()
    else:
        page.get_by_test_id("stFileUploaderDropzoneInput").first.set_input_files(
            [str(file) for file in sorted(SWEEP.rglob("dynamics.db"))]
        )
    expect(page.get_by_role("button", name="Start over")).to_be_visible(timeout=SECONDS)
    settle(page)
    if to:
        page.get_by_test_id("stSidebar").get_by_role("link", name=to).click()
        settle(page)
    if view:
        page.get_by_role("radio", name=view).click()
        settle(page)


def main() -> None:
    """Take every picture."""
    if not list(SWEEP.rglob("dynamics.db")):
        words = [*WORDS.split(), "--runs", str(SWEEP)]
        subprocess.run([sys.executable, "-m", "prismatic", *words], cwd=ROOT, check=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with served(ROOT / "build" / "no-runs") as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for name, example, to, colours, height, view in PICTURES:
            context = browser.new_context(viewport={"width": 1280, "height": height}, color_scheme=colours)
            page = context.new_page()
            take(page, address, example, to, view)
            page.screenshot(path=DOCS / f"{name}.png")
            context.close()
            print(f"docs/{name}.png", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
