"""What a worker sends arrives in order, whether a thread writes it or not."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from validation.files.sandbox.sqlite_worker import LARGE_PAGE, Sender

MESSAGES: list[tuple[dict[str, Any], list[bytes]]] = [
    ({"page": 1}, [b"a" * LARGE_PAGE, b"b"]),
    ({"page": 2}, [b"c" * LARGE_PAGE]),
    ({"drop": 3}, [b"small"]),
    ({"page": 4}, [b"d" * LARGE_PAGE]),
    ({"ok": True}, []),
]
EXPECTED = b"".join(json.dumps(message).encode() + b"\n" + b"".join(blobs) for message, blobs in MESSAGES)


class SlowPipe(io.BytesIO):
    """A pipe whose other end takes its time, and notes which threads write."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: set[threading.Thread] = set()

    def write(self, data: Any) -> int:
        self.writers.add(threading.current_thread())
        time.sleep(0.002)
        return super().write(data)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> SlowPipe:
    pipe = SlowPipe()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=pipe))
    return pipe


def send_all() -> None:
    sender = Sender()
    for message, blobs in MESSAGES:
        sender.send(message, blobs)


def test_large_pages_and_small_ones_keep_their_order(pipe: SlowPipe) -> None:
    send_all()
    assert pipe.getvalue() == EXPECTED
    assert len(pipe.writers) == 2


def test_without_threads_everything_is_written_at_once(pipe: SlowPipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    send_all()
    assert pipe.getvalue() == EXPECTED
    assert pipe.writers == {threading.current_thread()}
