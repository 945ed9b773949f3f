"""The server around the pages: security headers, preloading, and removal of the uploads of ended sessions.

The content security policy allows Streamlit's one inline script by its hash, 'unsafe-eval' because Vega compiles its
expressions, and 'unsafe-inline' styles because Streamlit's components set them. A page loads nothing from another host
and sends nothing to one.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import gc
import hashlib
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import streamlit
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config
from streamlit.runtime import get_instance

from prismatic.sandbox import walls
from ui.gate import Gate, bytes_held
from ui.layout.frame import FIRST_WORDS_SENT
from ui.memory import limit_arenas
from ui.settings import parse_arguments, settings
from validation.files.temporary import remove_leftovers, remove_temporary_folder

SESSION_CHECK_SECONDS = 2.0  # between two searches for ended sessions
PRELOAD_WITHOUT_VISITOR_SECONDS = 5.0  # from the start to preloading, without a visitor
PRELOAD_AFTER_VISITOR_SECONDS = 1.0  # from the first visitor's first words to preloading


def content_security_policy() -> str:
    """Return the Content-Security-Policy header of every page."""
    page = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    inline = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    allowed = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", "'unsafe-eval'", *(f"'sha256-{found}'" for found in hashes)]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "worker-src": "'self' blob:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'self'",
    }
    return "; ".join(f"{directive} {sources}" for directive, sources in allowed.items())


class SecurityHeaders:
    """Middleware that adds the security headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers = [
            (b"content-security-policy", content_security_policy().encode()),
            (b"referrer-policy", b"same-origin"),  # the address of a page contains names of runs
            (b"x-content-type-options", b"nosniff"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in self.headers}
                others = [header for header in message["headers"] if header[0].lower() not in known]
                message = {**message, "headers": [*others, *self.headers]}
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


@contextlib.asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[None]:
    """Preload and watch sessions while the server runs; close all libraries and remove all uploads at its end."""
    await asyncio.to_thread(remove_leftovers)
    watching = asyncio.create_task(_preload_and_close_sessions())
    try:
        yield
    finally:
        watching.cancel()
        from ui.session import library

        library.close_all()
        remove_temporary_folder()


async def _preload_and_close_sessions() -> None:
    """Preload modules, then close the libraries of ended sessions every few seconds."""
    await asyncio.to_thread(lambda: print(f"The processes that read files are confined by {walls.layer()}", flush=True))
    # Not at once: loading keeps the server busy, and the first visitor's first words must not wait for it.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PRELOAD_WITHOUT_VISITOR_SECONDS):
            while not FIRST_WORDS_SENT.is_set():
                await asyncio.sleep(0.05)
            await asyncio.sleep(PRELOAD_AFTER_VISITOR_SECONDS)
    await asyncio.to_thread(_preload)
    from ui.session import library

    seconds = float(config.get_option("server.disconnectedSessionTTL")) + SESSION_CHECK_SECONDS
    while True:
        await asyncio.sleep(SESSION_CHECK_SECONDS)
        await asyncio.to_thread(library.close_disconnected, get_instance().is_active_session, seconds)


def _preload() -> None:
    """Import what the pages need, before a visitor waits for it.

    Freeze the imported objects: Streamlit collects garbage after each script run, and they would be scanned each time.
    """
    from altair.utils import schemapi

    import ui.sections.compare.page
    import ui.sections.dynamics
    import ui.sections.home
    import ui.sections.layers
    import ui.sections.verdict  # noqa: F401

    schemapi.disable_debug_mode()  # Altair validates each part of a chart; only the tests need that
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # otherwise some libraries report the frozen objects as leaks at exit


def middleware() -> list[Middleware]:
    """Return what stands before Streamlit's routes."""
    gate = Middleware(Gate, held=lambda: bytes_held(get_instance()), limit=lambda: settings().session_megabytes << 20)
    return [Middleware(SecurityHeaders), gate]


def app_options(script: str) -> dict[str, Any]:
    """Return the arguments of `st.App` for this script. Raises ConfigError for an invalid setting: no server starts."""
    limit_arenas()
    parse_arguments(sys.argv[1:])
    return {"script_path": script, "middleware": middleware(), "lifespan": lifespan}
