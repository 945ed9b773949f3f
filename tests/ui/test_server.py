"""The server's start: what it prints."""

import asyncio

import pytest

from prismatic.sandbox.walls import Layer
from ui import server


@pytest.mark.parametrize("layer", [Layer(7, True), Layer(0, False)])
def test_the_server_says_once_what_confines_the_readers(capsys, monkeypatch, layer):
    monkeypatch.setattr(server.walls, "layer", lambda: layer)
    monkeypatch.setattr(server, "PRELOAD_WITHOUT_VISITOR_SECONDS", 60.0)

    async def start():
        async with server.lifespan(None):
            await asyncio.sleep(0.2)

    asyncio.run(start())
    assert capsys.readouterr().out == f"The processes that read files are confined by {layer}\n"
