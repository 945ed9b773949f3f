"""The app's server in its own process, and visitors: pages of a real Chromium that time what is painted."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import ROOT, resident
from playwright.async_api import Browser, CDPSession, Locator, Page

HOST = "127.0.0.1"
FLAGS = [  # as in tests/browser/conftest.py: only this machine, and no DNS look-ups that would have to fail first
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}",
]
PATIENCE = 120_000  # milliseconds until a page counts as hanging
QUIET = 500  # milliseconds without a change until a page is complete; more than the brush waits (200)
# Records the time of the user's last action and of the last painting: changes in the main column and the sidebar, and
# every canvas (charts and tables). The toolbar's status icon does not count.
WATCH = """
(() => {
  const seen = (window.__seen = {did: 0, painted: 0});
  for (const event of ["pointerup", "change"])
    addEventListener(event, () => { seen.did = performance.now(); }, true);
  const stamp = () => { seen.painted = performance.now(); };
  for (const method of ["clearRect", "fillRect", "fill", "stroke", "fillText", "drawImage"]) {
    const own = CanvasRenderingContext2D.prototype[method];
    CanvasRenderingContext2D.prototype[method] = function (...all) { stamp(); return own.apply(this, all); };
  }
  // Elements inside a canvas are for screen readers only: a table writes them 0.2 seconds after it was painted.
  const inside = (node) => (node.closest ? node : node.parentElement)
    ?.closest("[data-testid=stMain], [data-testid=stSidebar], canvas")?.matches(":not(canvas)");
  new MutationObserver((changes) => { if (changes.some((change) => inside(change.target))) stamp(); })
    .observe(document, {childList: true, subtree: true, characterData: true});
})()
"""
COMPLETE = """
(quiet) => {
  const app = document.querySelector("[data-testid=stApp]"), now = performance.now(), seen = window.__seen;
  return app?.dataset.testScriptState === "notRunning" && !document.querySelector("[data-testid=stSkeleton]")
    && now - Math.max(seen.painted, seen.did) > quiet && seen;
}
"""

VERDICT = """
() => document.querySelector(".st-key-banner h2") && performance.now() - window.__seen.did
"""


class Server:
    """A `streamlit run app.py` on a free port, with its output in `log`. root: the folder of app.py."""

    def __init__(self, log: Path, runs: Path, *options: str, root: Path = ROOT) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        self.log, self.address = log, f"http://{HOST}:{port}"
        command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true", *options]
        command += [f"--server.port={port}", f"--server.address={HOST}"]
        runs.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            environment = os.environ | {"PRISMATIC_RUNS": str(runs)}
            self.started = time.perf_counter()
            self.process = subprocess.Popen(command, cwd=root, env=environment, stdout=output, stderr=output)

    async def listening(self) -> None:
        """Wait until the server accepts connections. Raises RuntimeError if it ends instead."""
        port = int(self.address.rpartition(":")[2])
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
                writer.close()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError(f"the server did not start: {self.log.read_text()}") from None
                await asyncio.sleep(0.005)

    @property
    def memory(self) -> int:
        """Return the resident bytes of the server and its children."""
        return resident(self.process.pid)

    def has_loaded(self, package: str) -> bool:
        """Return True if the process has mapped a library of that package."""
        return f"/{package}/" in Path(f"/proc/{self.process.pid}/maps").read_text()

    def complaints(self) -> list[str]:
        """Return the lines of the log that mention an error."""
        wrong = re.compile(r"error|exception|traceback|warning", re.IGNORECASE)
        return [line for line in self.log.read_text().splitlines() if wrong.search(line)]

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(20)


@asynccontextmanager
async def served(log: Path, runs: Path, *options: str, root: Path = ROOT) -> AsyncIterator[Server]:
    """Run a server until the end of the block."""
    server = Server(log, runs, *options, root=root)
    try:
        await server.listening()
        yield server
    finally:
        server.stop()


@dataclass
class Visitor:
    """A page in a private context, with the bytes it received and its errors."""

    page: Page
    address: str
    cdp: CDPSession
    received: int = 0
    """Bytes of bodies and frames as sent; websocket frames are not compressed."""
    errors: list[str] = field(default_factory=list)

    async def listen(self) -> None:
        """Begin to count bytes and to collect errors."""
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.cdp.on("Network.loadingFinished", lambda event: self._count(int(event["encodedDataLength"])))
        self.cdp.on("Network.webSocketFrameReceived", lambda event: self._frame(event["response"]))
        await self.cdp.send("Network.enable")
        await self.page.add_init_script(WATCH)

    def _count(self, size: int) -> None:
        self.received += size

    def _frame(self, frame: dict[str, Any]) -> None:
        binary = frame["opcode"] == 2
        self._count(len(base64.b64decode(frame["payloadData"]) if binary else frame["payloadData"].encode()))

    async def arrive(self) -> None:
        """Open the home page and wait for its first words."""
        await self.page.goto(self.address, wait_until="commit")
        await self.main.get_by_role("heading").first.wait_for(timeout=PATIENCE)

    @property
    def main(self) -> Locator:
        return self.page.get_by_test_id("stMain")

    async def pages(self) -> list[str]:
        """Return the names of the pages, in the order of the sidebar."""
        links = await self.page.get_by_test_id("stSidebar").get_by_role("link").all_inner_texts()
        return [text.split()[-1] for text in links]  # the name of its icon comes first

    async def visit(self, name: str) -> float:
        """Go to a page by the sidebar; return the seconds from the click until it is complete."""
        self.received = 0
        await self.page.get_by_test_id("stSidebar").get_by_role("link", name=name, exact=True).click(timeout=PATIENCE)
        return await self.complete()

    async def upload(self, *files: Path) -> tuple[float, float]:
        """Upload files; return the seconds until the verdict is shown and until the page is complete."""
        self.received = 0
        await self.page.get_by_test_id("stFileUploaderDropzoneInput").first.set_input_files(files, timeout=PATIENCE)
        return await self.verdict(), await self.complete()

    async def verdict(self) -> float:
        """Wait for the verdict; return the seconds since the user's last action."""
        handle = await self.page.wait_for_function(VERDICT, timeout=PATIENCE, polling="raf")
        return float(await handle.json_value()) / 1000

    async def follow(self, run: str) -> None:
        """Open the address of a run in the server's folder and wait for its verdict."""
        await self.page.goto(f"{self.address}/?run={run}", wait_until="commit")
        await self.verdict()

    async def brush(self, start: float) -> float:
        """Drag over a fifth of the overview; return the seconds from the release until the chart is redrawn.

        start: where the fifth begins, as a share of the width. Raises RuntimeError if the page receives nothing.
        """
        chart = self.main.locator("[class*=st-key-overview]").get_by_test_id("stVegaLiteChart")
        await chart.scroll_into_view_if_needed()
        box = await chart.bounding_box()
        assert box is not None
        y = box["y"] + 0.15 * box["height"]  # above the axis, which takes most of the chart
        await self.page.mouse.move(box["x"] + start * box["width"], y)
        await self.page.mouse.down()
        await self.page.mouse.move(box["x"] + (start + 0.2) * box["width"], y, steps=5)
        self.received = 0
        await self.page.mouse.up()
        seconds = await self.complete()
        if not self.received:
            raise RuntimeError("the page received nothing after the brush")
        return seconds

    async def choose(self, label: str, option: str) -> float:
        """Choose an option of a box in the main column; return the seconds from then until the page is complete."""
        box = self.main.get_by_test_id("stSelectbox").filter(has_text=label)
        await box.locator("input").click(timeout=PATIENCE)
        await self.page.keyboard.type(option)  # of a long list, only what is in sight exists
        await self.page.get_by_role("option", name=option, exact=True).click(timeout=PATIENCE)
        return await self.complete()

    async def complete(self) -> float:
        """Wait until the page is complete; return the seconds from the user's last action to the last painting."""
        handle = await self.page.wait_for_function(COMPLETE, arg=QUIET, timeout=PATIENCE, polling=50)
        seen = await handle.json_value()
        return max(0.0, seen["painted"] - seen["did"]) / 1000

    async def failures(self) -> int:
        """Return the number of exceptions on the page."""
        return await self.page.get_by_test_id("stException").count()


@asynccontextmanager
async def visitor(browser: Browser, server: Server) -> AsyncIterator[Visitor]:
    """Create a visitor with empty caches, who has opened no page yet."""
    context = await browser.new_context(viewport={"width": 1280, "height": 1600})
    try:
        page = await context.new_page()
        found = Visitor(page, server.address, await context.new_cdp_session(page))
        await found.listen()
        yield found
    finally:
        await context.close()
