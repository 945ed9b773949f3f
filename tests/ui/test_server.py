"""The server's start: what it prints."""

import asyncio
import threading

import pytest

from prismatic.sandbox.walls import Layer
from ui import server


@pytest.mark.parametrize("layer", [Layer(7, True), Layer(0, False)])
def test_the_server_says_once_what_confines_the_readers(capsys, monkeypatch, layer):
    monkeypatch.setattr(server.walls, "layer", lambda: layer)
    monkeypatch.setattr(server, "PRELOAD_WITHOUT_VISITOR_SECONDS", 60.0)

    said = []

    async def start():
        async with server.lifespan(None):
            while not said:
                await asyncio.sleep(0.05)
                said.extend(capsys.readouterr().out.splitlines())

    # In a thread of its own: the browser of other tests keeps a loop running in this one.
    thread = threading.Thread(target=lambda: asyncio.run(start()))
    thread.start()
    thread.join(60)
    assert said == [f"The processes that read files are confined by {layer}"]
