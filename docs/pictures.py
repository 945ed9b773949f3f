"""Take the pictures of the app that the documentation and the README show, in a real browser.

    make pictures

They show the examples, in about a minute. Needs a Chromium on the PATH.
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
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
READY = "[data-testid=stApp][data-test-script-state=notRunning]"
SECONDS = 60_000
STUDIES = ROOT / "examples" / "studies"
# name, name of the runs in an address, page with its view, colours, height
PICTURES = (
    ("verdict-light", "example-as-is", "", "light", 1400),
    ("dynamics-dark", "example-as-is", "Dynamics", "dark", 1000),
    ("evidence-light", "example-positive-control", "Verdict", "light", 1900),
    ("layers-light", "example-positive-control", "Layers", "light", 1050),
    ("forest-light", "example-study", "Compare", "light", 1200),
    ("dose-light", "example-study", "Compare?compare=Dose", "light", 800),
    ("diagnostics-dark", "example-zero-norms", "Diagnostics", "dark", 1100),
    ("study-dose-light", "dose", "Compare?compare=Dose", "light", 1400),
    ("study-upcycling-light", "upcycling", "Compare?compare=Outcome", "light", 1400),
    ("study-lora-light", "lora", "Compare", "light", 1700),
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


def main() -> None:
    """Take every picture."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with served(STUDIES) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for name, runs, to, colours, height in PICTURES:
            context = browser.new_context(viewport={"width": 1280, "height": height}, color_scheme=colours)
            page = context.new_page()
            page.goto(f"{address}/{to}{'&' if '?' in to else '?'}from={runs}")
            settle(page)
            page.screenshot(path=DOCS / f"{name}.png")
            context.close()
            print(f"docs/{name}.png", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
