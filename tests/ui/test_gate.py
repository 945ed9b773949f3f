"""The gate of the server: uploads within a limit, for a session and for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ui.gate import Gate, bytes_held

LIMIT = 1000


class Storing:
    """An app that keeps uploads as Streamlit does."""

    def __init__(self) -> None:
        self.uploaded_file_mgr = SimpleNamespace(file_storage={})

    async def put(self, request: Request) -> PlainTextResponse:
        data = await request.body()
        files = self.uploaded_file_mgr.file_storage.setdefault(request.path_params["session"], {})
        files[request.path_params["file"]] = SimpleNamespace(data=data)
        return PlainTextResponse("", 204)


@pytest.fixture
def client() -> Iterator[TestClient]:
    store = Storing()
    routes = [
        Route("/_stcore/upload_file/{session}/{file}", store.put, methods=["PUT"]),
        Route("/_stcore/metrics", lambda _: PlainTextResponse("sessions 3")),
        Route("/_stcore/health", lambda _: PlainTextResponse("ok")),
    ]
    app = Gate(Starlette(routes=routes), held=lambda: bytes_held(store), limit=lambda: LIMIT)
    with TestClient(app) as found:
        yield found


def put(client: TestClient, session: str, file: str, size: int) -> int:
    return client.put(f"/_stcore/upload_file/{session}/{file}", content=b"x" * size).status_code


def test_a_session_holds_no_more_than_its_limit(client: TestClient):
    assert put(client, "a", "1", 600) == 204
    assert put(client, "a", "2", 401) == 413
    assert put(client, "a", "3", 400) == 204
    assert put(client, "a", "4", 1) == 413
    assert put(client, "b", "1", 1000) == 204  # another session has its own


def test_all_sessions_together_hold_no_more_than_two(client: TestClient):
    assert [put(client, session, "1", 900) for session in "ab"] == [204, 204]
    assert put(client, "c", "1", 201) == 413
    assert put(client, "c", "1", 200) == 204


def test_an_upload_of_unknown_length_is_refused(client: TestClient):
    chunks = (b"x" * 10 for _ in range(3))
    assert client.put("/_stcore/upload_file/a/1", content=chunks).status_code == 411


def test_statistics_are_closed_and_all_else_is_open(client: TestClient):
    assert client.get("/_stcore/metrics").status_code == 404
    assert client.get("/base/_stcore/metrics/").status_code == 404
    assert client.get("/_stcore/health").text == "ok"
