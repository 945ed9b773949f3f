"""A server for several people: sessions are separate, their uploads are removed, and the security policy holds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute, expect

from tests.browser.conftest import ROOT, drawn, free_port, settle, upload, visit, wait_for

EXAMPLES = ROOT / "examples"
LOG_VIOLATIONS = (
    "document.addEventListener('securitypolicyviolation', e => console.error(`CSP: ${e.violatedDirective}`))"
)


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for the uploads of all sessions."""
    return tmp_path_factory.mktemp("spool")


@contextmanager
def server(spool: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a server that closes a session four seconds after it ended; yield its address and its process."""
    port, log = free_port(), spool / "log"
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true", f"--server.port={port}"]
    command += ["--server.address=127.0.0.1", "--server.disconnectedSessionTTL=4"]
    with log.open("wb") as output:
        environment = os.environ | {"TMPDIR": str(spool), "PRISMATIC_RUNS": str(EXAMPLES)}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            wait_for(f"http://127.0.0.1:{port}/_stcore/health", process, log)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def served(spool: Path) -> Iterator[str]:
    """The address of a server."""
    log = spool / "log"
    with server(spool) as (address, _):
        yield address
    assert not [*spool.glob("prismatic-*")]  # a server that ends leaves nothing
    assert "Traceback" not in log.read_text()
    assert "The processes that read files are confined by" in log.read_text()


def folders(spool: Path) -> list[Path]:
    """Return the folders of sessions."""
    return [path for path in spool.glob("prismatic-*/session-*") if path.is_dir()]


def until(holds: Callable[[], bool], page: Page) -> None:
    """Wait until a condition outside the page holds."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        page.wait_for_timeout(200)


def opened(browser: Browser, address: str) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 1600}).new_page()
    page.goto(address)
    settle(page)
    return page


@pytest.mark.long
def test_uploads_are_one_sessions_own_and_go_with_it(browser: Browser, served: str, spool: Path):
    mine, other = opened(browser, served), opened(browser, served)
    upload(mine, EXAMPLES / "as-is.db")
    expect(mine.get_by_role("heading", name="all experts share one gradient")).to_be_visible(timeout=15_000)
    (own,) = folders(spool)
    assert own.stat().st_mode & 0o077 == 0
    for name in ("Dynamics", "Home"):
        other.get_by_test_id("stSidebar").get_by_role("link", name=name).click()
        settle(other)
    expect(other.get_by_text("Drop run files here")).to_be_visible(timeout=15_000)
    expect(other.get_by_text("07bfa2d26")).to_have_count(0)
    mine.context.close()
    until(lambda: not folders(spool), other)
    other.context.close()


@pytest.mark.long
def test_what_a_killed_server_left_is_gone_when_it_is_started_again(browser: Browser, tmp_path: Path):
    with server(tmp_path) as (address, process):
        page = opened(browser, address)
        upload(page, EXAMPLES / "as-is.db")
        expect(page.get_by_role("heading", name="all experts share one gradient")).to_be_visible(timeout=15_000)
        process.kill()
        process.wait(20)
    page.context.close()
    assert folders(tmp_path)
    with server(tmp_path) as (address, _):
        opened(browser, address).context.close()
        assert not folders(tmp_path)
    assert not [*tmp_path.glob("prismatic-*")]


@pytest.mark.long
def test_a_connection_that_breaks_for_a_moment_costs_no_upload(browser: Browser, served: str, spool: Path):
    page = browser.new_context(viewport={"width": 1280, "height": 1600}).new_page()
    sockets: list[WebSocketRoute] = []

    def join(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    page.route_web_socket("**/_stcore/stream", join)
    page.goto(served)
    settle(page)
    upload(page, EXAMPLES / "as-is.db")
    before = len(sockets)
    sockets[-1].close()
    until(lambda: len(sockets) > before, page)
    settle(page)
    assert [path for folder in folders(spool) for path in folder.glob("*.db")]
    visit(page, "Verdict")
    expect(page.get_by_role("heading", name="Awakening")).to_be_visible(timeout=15_000)
    page.context.close()


def test_the_pages_keep_to_a_policy_that_the_browser_enforces(browser: Browser, served: str):
    with urllib.request.urlopen(served) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    page = browser.new_context(viewport={"width": 1280, "height": 1600}).new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.add_init_script(LOG_VIOLATIONS)
    page.goto(served)
    settle(page)
    upload(page, EXAMPLES / "as-is.db")
    visit(page, "Dynamics")
    drawn(page)
    assert not errors
    page.evaluate("eval('1'); const s = document.createElement('script'); s.text = '1'; document.body.append(s)")
    assert errors  # the browser enforces the policy
    page.context.close()
