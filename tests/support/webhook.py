"""A real web server that keeps the alerts posted to it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hook(ThreadingHTTPServer):
    """A web server that keeps what is posted to it; `answers` are its next status codes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.got, self.answers, self.goes_on = [], [], threading.Event()
        self.goes_on.set()
        self.url = f"http://127.0.0.1:{self.server_port}/hook/secret"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.server.goes_on.wait(20)
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    """The server at the operator's address."""
    server = Hook()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.goes_on.set()
    server.shutdown()
    server.server_close()
    thread.join()
