"""The server around the pages: headers that tell browsers what a page may do, and an end for what sessions leave.

Streamlit's own page has one inline script, which is allowed by its hash. Vega compiles its expressions ('unsafe-eval'),
and Streamlit's components set styles in place ('unsafe-inline' for styles); nothing comes from another host, and
nothing goes to one.
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

from ui.layout.frame import FIRST_WORDS_SENT
from ui.settings import parse_arguments

SESSION_CHECK_SECONDS = 2.0  # between two looks for sessions that are gone
PRELOAD_WITHOUT_VISITOR_SECONDS = 5.0  # after which everything is loaded for the one who will come
PRELOAD_AFTER_VISITOR_SECONDS = 1.0  # that the first one has for himself


def content_security_policy() -> str:
    """The policy of every page."""
    page = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    inline = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    allowed = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", "'unsafe-eval'", *(f"'sha256-{own}'" for own in hashes)]),
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
    """Adds the security headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers = [
            (b"content-security-policy", content_security_policy().encode()),
            (b"referrer-policy", b"same-origin"),  # the address of a page names runs
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
    """From the server's start to its end."""
    watching = asyncio.create_task(_preload_and_close_sessions())
    try:
        yield
    finally:
        watching.cancel()
        from ui.session import library

        library.close_all()


async def _preload_and_close_sessions() -> None:
    """First load what the pages need; then remove the uploads of sessions that Streamlit has forgotten too."""
    # Not at once: loading takes all the time that the server has, and a browser that waits for its first words some.
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
    """All that pages need, before somebody asks for them.

    What is there then stays, so that the collection of garbage after each run of a script need not look at it again.
    """
    from altair.utils import schemapi

    import ui.sections.compare
    import ui.sections.dynamics
    import ui.sections.home
    import ui.sections.layers
    import ui.sections.verdict  # noqa: F401

    schemapi.disable_debug_mode()  # Altair checks each piece of a chart as it is made; the tests let it
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or some libraries take what is still there at the end for leaked


def app_options(script: str) -> dict[str, Any]:
    """What `st.App` needs for this script. Raises ConfigError for a setting that cannot be: no server starts then."""
    parse_arguments(sys.argv[1:])
    return {"script_path": script, "middleware": [Middleware(SecurityHeaders)], "lifespan": lifespan}
