"""The messages of a worker arrive in order, whether a thread writes them or not."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from validation.files.sandbox.sqlite_columns import LARGE_PAGE, Sender

MESSAGES: list[tuple[dict[str, Any], list[bytes]]] = [
    ({"page": 1}, [b"a" * LARGE_PAGE, b"b"]),
    ({"page": 2}, [b"c" * LARGE_PAGE]),
    ({"drop": 3}, [b"small"]),
    ({"page": 4}, [b"d" * LARGE_PAGE]),
    ({"ok": True}, []),
]
EXPECTED = hashlib.sha256(
    b"".join(json.dumps(message).encode() + b"\n" + b"".join(blobs) for message, blobs in MESSAGES)
).digest()


class SlowPipe(io.BytesIO):
    """A pipe whose other end takes its time, and notes which threads write."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: set[threading.Thread] = set()

    def write(self, data: Any) -> int:
        self.writers.add(threading.current_thread())
        time.sleep(0.002)
        return super().write(data)


def sent(monkeypatch: pytest.MonkeyPatch) -> SlowPipe:
    """Send all messages. A fixture could not: pytest sets stdout anew for each part of a test."""
    pipe = SlowPipe()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", SimpleNamespace(buffer=pipe))
        sender = Sender()
        for message, blobs in MESSAGES:
            sender.send(message, blobs)
    return pipe


def test_large_pages_and_small_ones_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sent(monkeypatch)
    assert hashlib.sha256(pipe.getvalue()).digest() == EXPECTED
    assert len(pipe.writers) == 2


def test_without_threads_everything_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pipe = sent(monkeypatch)
    assert hashlib.sha256(pipe.getvalue()).digest() == EXPECTED
    assert pipe.writers == {threading.current_thread()}
