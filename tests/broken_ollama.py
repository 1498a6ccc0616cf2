"""A service at the address of an Ollama that answers as it is told to: for what no healthy one would say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request, and ways to answer it."""

    protocol_version = "HTTP/1.1"
    asked: dict[str, Any]

    def do_GET(self) -> None:
        self._answered({})

    def do_POST(self) -> None:
        self._answered(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _answered(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        server = self.server
        assert isinstance(server, _Server)
        with server.lock:
            server.told.requests.append((self.path, asked, dict(self.headers)))
            server.told.under_way += 1
            server.told.most_under_way = max(server.told.most_under_way, server.told.under_way)
        try:
            server.told.answer(self)
        except (BrokenPipeError, ConnectionResetError):
            server.told.hung_up.set()
        finally:
            with server.lock:
                server.told.under_way -= 1

    def say(self, body: Any, status: int = 200) -> None:
        """A whole answer: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin(self) -> None:
        """An answer of lines."""
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def line(self, body: Any) -> None:
        """One of them."""
        data = (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def end(self) -> None:
        """The last of them was said."""
        self.wfile.write(b"0\r\n\r\n")

    def hang_up(self) -> None:
        """Cut the connection."""
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class BrokenOllama:
    """What the service is told to answer, and what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.url = ""
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.under_way = self.most_under_way = 0
        self.hung_up = threading.Event()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    told: BrokenOllama
    lock = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """A connection that was cut."""


@contextmanager
def broken_ollama(answer: Answer) -> Iterator[BrokenOllama]:
    """Serve until the end of the ``with``."""
    server = _Server(("127.0.0.1", 0), Exchange)
    server.told = BrokenOllama(answer)
    server.told.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
