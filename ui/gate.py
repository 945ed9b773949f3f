"""The gate before Streamlit's routes: what a server holds of uploads has a limit, and it publishes no statistics.

Streamlit keeps an upload in memory until its page has stored it. It takes files that no page asked for, and any number
of them, so the bytes of a session, and of all sessions together, are counted before they arrive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

UPLOAD = re.compile(r".*/_stcore/upload_file/([^/]+)/[^/]+")
METRICS = re.compile(r".*/_stcore/metrics/?")
FULL_SESSIONS = 2  # that together may hold as much as each of them may

Held = Callable[[], Mapping[str, int]]
"""A function that returns the bytes in memory by session."""


class Gate:
    """Middleware that refuses uploads over the limit with status 413, and requests for statistics with 404."""

    def __init__(self, app: ASGIApp, held: Held, limit: Callable[[], int]) -> None:
        """limit: returns the bytes that one session may hold."""
        self.app, self._held, self._limit = app, held, limit
        self._arriving: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and METRICS.fullmatch(path):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "PUT" and (upload := UPLOAD.fullmatch(path)):
            await self._receive(upload[1], scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _receive(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        size = _content_length(scope)
        if size is None:
            await PlainTextResponse("An upload must declare its length.", 411)(scope, receive, send)
        elif self._is_too_much(session, size):
            await PlainTextResponse("The server holds too many uploads; try again later.", 413)(scope, receive, send)
        else:
            self._arriving[session] = self._arriving.get(session, 0) + size
            try:
                await self.app(scope, receive, send)
            finally:
                self._arriving[session] -= size
                if not self._arriving[session]:
                    del self._arriving[session]

    def _is_too_much(self, session: str, size: int) -> bool:
        held, most = self._held(), self._limit()
        own = held.get(session, 0) + self._arriving.get(session, 0)
        every = sum(held.values()) + sum(self._arriving.values())
        return own + size > most or every + size > FULL_SESSIONS * most


def _content_length(scope: Scope) -> int | None:
    """Return the length that the request declares, which the server does not let it exceed; None without one."""
    found = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(found) if found.isdigit() else None


def bytes_held(runtime: Any) -> dict[str, int]:
    """Return the bytes of the uploads that a runtime of Streamlit holds, by session."""
    storage = runtime.uploaded_file_mgr.file_storage
    return {session: sum(len(file.data) for file in [*files.values()]) for session, files in [*storage.items()]}
