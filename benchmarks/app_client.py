"""A session of the app without a browser: it speaks Streamlit's websocket protocol and draws nothing.

Twenty browsers on two cores would measure themselves. The server runs the same scripts and sends the same bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests
from app_browser import PATIENCE, Server
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect

DONE = {
    ForwardMsg.FINISHED_SUCCESSFULLY,
    ForwardMsg.FINISHED_WITH_COMPILE_ERROR,
}  # after other ends the script runs again


@dataclass
class Client:
    """A session: its page, its widgets, its errors, and words of other sessions that it received."""

    server: Server
    socket: ClientConnection
    foreign: Collection[bytes] = ()
    """Ids of other sessions' runs."""
    seen: set[bytes] = field(default_factory=set)
    """Those ids that a frame of this session contained."""
    errors: list[str] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)
    """Hashes of the pages by name."""
    frames: list[bytes] = field(default_factory=list)
    """Frames of the last script run."""
    session: str = ""
    page: str = ""
    buttons: dict[str, str] = field(default_factory=dict)
    """Ids of the page's buttons by label."""
    uploader: str = ""

    async def visit(self, name: str) -> float:
        """Go to a page; return the seconds until its script has ended."""
        self.page = self.pages[name]
        return await self.run()

    async def press(self, label: str) -> float:
        """Press a button of this page."""
        return await self.run(WidgetState(id=self.buttons[label], trigger_value=True))

    async def upload(self, *files: Path) -> float:
        """Upload files; return the seconds from the first byte until the page with the judged files is there."""
        started = time.perf_counter()
        asked = BackMsg()
        asked.file_urls_request.request_id = "files"
        asked.file_urls_request.session_id = self.session
        asked.file_urls_request.file_names.extend(file.name for file in files)
        await self.socket.send(asked.SerializeToString())
        while (answer := await self._next()).WhichOneof("type") != "file_urls_response":
            pass
        state = WidgetState(id=self.uploader)
        for file, urls in zip(files, answer.file_urls_response.file_urls, strict=True):
            await asyncio.to_thread(self._put, file, urls.upload_url)
            info = state.file_uploader_state_value.uploaded_file_info.add()
            info.name, info.size, info.file_id = file.name, file.stat().st_size, urls.file_id
            info.file_urls.CopyFrom(urls)
        await self.run(state)
        return time.perf_counter() - started

    def _put(self, file: Path, url: str) -> None:
        """Send a file as the uploader does, with the XSRF token from the cookie."""
        with requests.Session() as session:
            session.get(f"{self.server.address}/_stcore/health", timeout=PATIENCE / 1000)
            token = {"X-Xsrftoken": session.cookies["_streamlit_xsrf"]}
            body = {"file": (file.name, file.read_bytes())}
            sent = session.put(self.server.address + url, files=body, headers=token, timeout=PATIENCE / 1000)
            sent.raise_for_status()

    async def run(self, *states: WidgetState) -> float:
        """Run the page's script with these widget states; return the seconds until its end."""
        asked = BackMsg()
        asked.rerun_script.page_script_hash = self.page
        asked.rerun_script.widget_states.widgets.extend(states)
        self.frames.clear()
        started = time.perf_counter()
        await self.socket.send(asked.SerializeToString())
        while True:
            message = await self._next()
            kind = message.WhichOneof("type")
            if kind == "new_session":
                self._begin(message)
            elif kind == "delta":
                self._element(message)
            elif kind == "script_finished" and message.script_finished in DONE:
                if message.script_finished != ForwardMsg.FINISHED_SUCCESSFULLY:
                    self.errors.append("a script could not be compiled")
                return time.perf_counter() - started

    def shows(self, *words: str) -> bool:
        """Return True if the frames of the last run contain all the words."""
        return all(any(word.encode() in frame for frame in self.frames) for word in words)

    async def _next(self) -> ForwardMsg:
        frame = await asyncio.wait_for(self.socket.recv(decode=False), PATIENCE / 1000)
        self.frames.append(frame)
        self.seen |= {word for word in self.foreign if word in frame}
        message = ForwardMsg()
        message.ParseFromString(frame)
        return message

    def _begin(self, message: ForwardMsg) -> None:
        new = message.new_session
        self.session = new.initialize.session_id or self.session
        self.pages = {page.page_name: page.page_script_hash for page in new.app_pages} or self.pages
        self.page = new.page_script_hash
        self.buttons.clear()

    def _element(self, message: ForwardMsg) -> None:
        element = message.delta.new_element
        kind = element.WhichOneof("type")
        if kind == "exception":
            self.errors.append(f"an exception: {element.exception.message[:200]}")
        elif kind == "button":
            self.buttons[element.button.label] = element.button.id
        elif kind == "file_uploader":
            self.uploader = element.file_uploader.id


@asynccontextmanager
async def client(server: Server, foreign: Collection[bytes] = ()) -> AsyncIterator[Client]:
    """Open a session and load the home page."""
    address = server.address.replace("http", "ws", 1) + "/_stcore/stream"
    async with connect(address, subprotocols=["streamlit"], max_size=None, compression=None) as socket:
        found = Client(server, socket, foreign)
        await found.run()
        yield found
