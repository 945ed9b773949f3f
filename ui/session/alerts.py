"""Alerts posted to the operator's address: once per run and diagnostic, from their own thread.

A failure never reaches a page: alerts that cannot be sent are counted and logged.
"""

from __future__ import annotations

import html
import http.client
import json
import logging
import queue
import threading
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from validation.diagnostics import Finding

LOG = logging.getLogger("prismatic.alerts")
TIMEOUT = 5.0  # seconds for one attempt
ATTEMPTS, PAUSE = 3, 5.0  # seconds between two attempts
MAX_WAITING = 1000


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: an alert goes to the operator's address and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Alerts:
    """Sends alerts to one address, in order; `failed` counts those that did not arrive."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT, pause: float = PAUSE) -> None:
        self.failed = 0
        self._url, self._timeout, self._pause = url, timeout, pause
        self._sent: set[tuple[str, str]] = set()
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._opener = urllib.request.build_opener(_NoRedirect)
        threading.Thread(target=self._send_all, name="prismatic-alerts", daemon=True).start()

    def send_once(self, run: str, finding: Finding) -> None:
        """Send an alert once for each run and diagnostic of this server. run: unique for each training."""
        with self._lock:
            if (run, finding.id) in self._sent:
                return
            self._sent.add((run, finding.id))
        try:
            self._waiting.put_nowait(payload(finding))
        except queue.Full:
            self._fail("too many alerts are waiting")

    def wait(self) -> None:
        """Wait until each alert was sent or given up."""
        self._waiting.join()

    def _send_all(self) -> None:
        while True:
            body = self._waiting.get()
            try:
                self._send(body)
            except Exception as error:
                self._fail(f"{type(error).__name__}: {error}")
            finally:
                self._waiting.task_done()

    def _send(self, body: dict[str, Any]) -> None:
        """Send, with retries after errors that may pass. Raises the error of the last attempt."""
        request = urllib.request.Request(
            self._url, json.dumps(body).encode(), {"Content-Type": "application/json", "User-Agent": "prismatic"}
        )
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._opener.open(request, timeout=self._timeout):
                    return
            except (OSError, http.client.HTTPException) as error:
                refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if refused or attempt == ATTEMPTS:
                    raise
            threading.Event().wait(self._pause)

    def _fail(self, reason: str) -> None:
        self.failed += 1
        # Only the host: the rest of the address may be secret.
        LOG.warning("alert not sent to %s (%d so far): %s", urlsplit(self._url).hostname, self.failed, reason)


def payload(finding: Finding) -> dict[str, Any]:
    """Return the JSON of an alert. `text` is for chat programs, so their markup (<, > and &) is escaped."""
    text = f"Prismatic: run {finding.run}: {finding.symptom}. {finding.evidence}. Fix: {finding.fix}."
    return {
        "schema": "prismatic-alert/1",
        "text": html.escape(text, quote=False),
        "run": finding.run,
        "diagnostic": finding.id,
        "severity": finding.severity,
        "symptom": finding.symptom,
        "evidence": finding.evidence,
        "cause": finding.cause,
        "fix": finding.fix,
    }
