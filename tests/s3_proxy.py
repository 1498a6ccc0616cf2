"""A proxy before an S3 store that counts, delays, breaks off or spoils what passes, as a test wants it."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What the store said to one request; ``body`` is what is sent, of ``length`` bytes as is announced."""

    method: str
    path: str
    range: str
    status: int
    body: bytes
    length: int
    headers: tuple[tuple[str, str], ...]


_OWN_HEADERS = ("content-length", "transfer-encoding", "connection")
Fault = Callable[[Answer], Answer | None]
"""Gives what is answered instead; None closes the connection without an answer."""


def _asks(method: str, path: str) -> Answer | None:
    return None


def _unchanged(answer: Answer) -> Answer | None:
    return answer


@dataclass
class S3Proxy:
    """A running proxy: ``fault`` decides about every answer, ``seen`` holds what the store answered.

    What ``instead`` gives for method and path is answered without asking the store.
    """

    endpoint: str
    fault: Fault = _unchanged
    instead: Callable[[str, str], Answer | None] = _asks
    seen: list[Answer] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    def reads_of_data(self) -> list[Answer]:
        """The requests for (parts of) data files."""
        return [
            a for a in self.seen if a.method == "GET" and "/data/" in a.path and "list-type" not in a.path
        ]

    def stop(self) -> None:
        """Answer nobody any more."""
        assert self.server is not None
        self.server.shutdown()
        self.server.server_close()


def start_proxy(endpoint: str) -> S3Proxy:
    """Start a proxy before the store at ``endpoint``; requests keep their Host, which is signed."""
    proxy = S3Proxy("")
    store = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._reply(proxy.instead(self.command, self.path) or self._asked(body))

        def _asked(self, body: bytes) -> Answer:
            # A store that is killed meanwhile leaves no socket behind, of which the next test would be told.
            with closing(http.client.HTTPConnection(store, timeout=60)) as connection:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                found = connection.getresponse()
                content = found.read()
            length = int(found.getheader("Content-Length") or len(content))
            asked = self.headers.get("Range", "")
            headers = tuple(h for h in found.getheaders() if h[0].lower() not in _OWN_HEADERS)
            told = Answer(self.command, self.path, asked, found.status, content, length, headers)
            proxy.seen.append(told)
            return told

        def _reply(self, told: Answer) -> None:
            answer = proxy.fault(told)
            if answer is None:
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(answer.length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
                self.close_connection = len(answer.body) < answer.length

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler._pass)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # clients that go away are part of the tests

    proxy.server = Server(("127.0.0.1", 0), Handler)
    proxy.endpoint = f"http://127.0.0.1:{proxy.server.server_address[1]}"
    threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return proxy


def slowly(seconds: float) -> Fault:
    """Every answer to a read of data takes so long."""

    def fault(answer: Answer) -> Answer | None:
        if answer.method == "GET" and "/data/" in answer.path:
            time.sleep(seconds)
        return answer

    return fault
