"""Browser tests: one server and one real Chromium for all, a new context for each, no request to other hosts."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.support.layered_runs import write_layers
from tests.support.simulated_runs import simulated_run, write

ROOT = Path(__file__).parent.parent.parent
# The browser must not look up other hosts itself: each test would wait until that fails.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
LAYERED, SEEDS = "abcdef000", ("abcdef001", "abcdef002")
ColorScheme = Literal["light", "dark"]
in_the_dark = pytest.mark.parametrize("page", ["dark"], indirect=True)
# The browser's layout shift score: what moves inside a page without a click, from 0 (nothing); above 0.1 it disturbs a
# reader. The page as a whole is not counted: Streamlit's sidebar moves it before it has content.
SHIFTS = """
window.shifted = 0;
new PerformanceObserver(list => {
  const ours = node => node?.parentElement?.closest("[data-testid=stMainBlockContainer]");
  for (const entry of list.getEntries())
    if (!entry.hadRecentInput && entry.sources.some(source => ours(source.node))) window.shifted += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's folder of runs: one with layers, and two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for name in (LAYERED, *SEEDS):
        (folder / name).mkdir()
    facts = {"config.perturbation_scale": 1.0, "config.merge": "example"}
    write_layers(folder / LAYERED / "dynamics.db", steps=120, histograms=True, run_hash=LAYERED, **facts)
    for seed, name in enumerate(SEEDS):
        own = {"run_hash": name, "config.seed": seed}
        write(simulated_run(seed=seed, steps=120), folder / name / "dynamics.db", **facts, **own)
    return folder


@pytest.fixture(scope="session")
def server(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the running app."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true"]
    command += [f"--server.port={port}", "--server.address=127.0.0.1"]
    environment = os.environ | {"PRISMATIC_RUNS": str(runs)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            wait_for(f"http://127.0.0.1:{port}/_stcore/health", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text()}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium on the PATH; without one the tests are skipped, but fail in CI."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs a chromium: .ci/run installs it")
        pytest.skip("no chromium on the PATH; install it with `apt-get install chromium`")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(autouse=True)
def outside(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test if a page sends a request to another host."""
    asked: list[str] = []
    new_context = browser.new_context

    def watched(**options: Any) -> BrowserContext:
        context = new_context(**options)
        context.on("request", lambda sent: asked.append(sent.url))
        context.on("page", lambda page: page.on("websocket", lambda socket: asked.append(socket.url)))
        return context

    monkeypatch.setattr(browser, "new_context", watched)
    yield
    assert asked
    assert not [
        url for url in asked if urlsplit(url).hostname not in ("127.0.0.1", None)
    ]  # data: and blob: have no host


@pytest.fixture
def open_page(browser: Browser, server: str) -> Iterator[Callable[..., Page]]:
    """Open an address of the app in a private context: `open_page("Verdict?run=...", width=390)`.

    Errors on the console fail the test.
    """
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def opened(address: str = "", *, scheme: ColorScheme = "light", width: int = 1280, height: int = 1600) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        context.add_init_script(SHIFTS)
        context.on("console", lambda message: errors.append(message.text) if is_error(message) else None)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        page = context.new_page()
        page.goto(f"{server}/{address}")
        settle(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture
def page(request: pytest.FixtureRequest, open_page: Callable[..., Page]) -> Page:
    """The home page; in the dark with `@in_the_dark`."""
    return open_page(scheme=getattr(request, "param", "light"))


def is_error(message: ConsoleMessage) -> bool:
    """Return True for a console error of our own.

    Streamlit looks for its server below the page's address first (/Layers/_stcore/health), and logs that error itself.
    """
    looked = re.search(r"/[A-Z]\w+/_stcore/(health|host-config)$", message.location["url"])
    return message.type == "error" and not looked


def settle(page: Page) -> None:
    """Wait until the page's script has ended."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=30_000)


def visit(page: Page, name: str) -> None:
    """Go to a page by its link in the sidebar."""
    page.get_by_test_id("stSidebar").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible(timeout=15_000)
    settle(page)


def upload(page: Page, *files: Path) -> None:
    """Upload files on the home page."""
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(files)
    expect(page.get_by_role("button", name="Start over")).to_be_visible(timeout=15_000)
    settle(page)


def drawn(page: Page) -> None:
    """Wait until the first chart is drawn."""
    chart = page.get_by_test_id("stVegaLiteChart").first
    expect(chart.locator("canvas, svg").first).to_be_visible(timeout=15_000)


def downloaded(page: Page, button: str) -> bytes:
    """Return the bytes that the browser saves after a click."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    settle(page)
    return Path(download.value.path()).read_bytes()
