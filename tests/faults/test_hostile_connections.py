"""Connections that misbehave below Flight: garbage, silence, half a request, a thousand idle ones."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from faults.raw_flight import RawFlight, command_descriptor
from faults.victim import Victim, start_victim, wait_until
from wire import wrapped

MIB = 1 << 20
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    started = start_victim(tmp_path_factory.mktemp("connections") / "server")
    yield started
    assert started.server.stop() == 0, "".join(started.server.log[-20:])


def frame(kind: int, flags: int, stream: int, payload: bytes, declared: int | None = None) -> bytes:
    """An HTTP/2 frame; ``declared`` is the length that it claims to have."""
    length = len(payload) if declared is None else declared
    return struct.pack(">I", length)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def open_socket(victim: Victim) -> socket.socket:
    return socket.create_connection(("127.0.0.1", victim.port), timeout=10)


def send(victim: Victim, data: bytes) -> None:
    """Send bytes and go, whatever the server thinks of it."""
    with open_socket(victim) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.settimeout(0.2)
        connection.recv(1000)


SETTINGS = frame(4, 0, 0, b"")
FLOODS: dict[str, bytes] = {
    "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
    "zeros": bytes(100_000),
    "preface_then_garbage": _PREFACE + random.Random(1).randbytes(100_000),
    "huge_frame": _PREFACE + frame(0, 0, 1, b"x" * 1000, declared=0xFFFFFF),
    "settings_flood": _PREFACE + SETTINGS * 20_000,
    "ping_flood": _PREFACE + SETTINGS + frame(6, 0, 0, b"12345678") * 20_000,
    "reset_flood": _PREFACE
    + SETTINGS
    + b"".join(frame(1, 4, i, b"\x82\x86\x84") + frame(3, 0, i, b"\0\0\0\x08") for i in range(1, 20_000, 2)),
    "header_bomb": _PREFACE
    + SETTINGS
    + frame(1, 0, 1, b"\x82")
    + frame(9, 0, 1, b"\x40\x01a\x7f\x80\x80" * 2000) * 50,
    "window_overflow": _PREFACE + SETTINGS + frame(8, 0, 0, b"\x7f\xff\xff\xff") * 100,
    "data_without_headers": _PREFACE + SETTINGS + frame(0, 0, 5, b"x" * 10_000) * 100,
    "priority_flood": _PREFACE + SETTINGS + frame(2, 0, 1, b"\x80\0\0\x01\xff") * 20_000,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_garbage_on_a_connection_harms_nobody_else(victim, flood):
    senders = [threading.Thread(target=send, args=(victim, FLOODS[flood])) for _ in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    victim.check_honest()


def test_an_encrypted_client_at_a_plain_port_is_turned_away(victim):
    context = ssl.create_default_context()
    with open_socket(victim) as connection, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(connection, server_hostname="localhost")
    victim.check_honest()


def test_a_thousand_idle_connections_take_no_threads_and_leave_nothing(victim):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        resource.prlimit(victim.server.process.pid, resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    process = victim.process
    threads, files, rss = process.num_threads(), process.num_fds(), process.memory_info().rss
    with contextlib.ExitStack() as stack:
        for number in range(1000):
            connection = stack.enter_context(open_socket(victim))
            if number % 3:
                connection.sendall(_PREFACE + SETTINGS)
            if number % 3 == 2:
                connection.sendall(frame(1, 0, 1, b"\x82"))  # headers that never end
        time.sleep(1)
        victim.check_honest()
        assert process.num_threads() < threads + 30
        assert process.memory_info().rss - rss < 300 * MIB
    wait_until(lambda: process.num_fds() <= files + 20, lambda: f"{process.num_fds()} files, {files} before")
    victim.check_honest()


def test_requests_cut_off_in_the_middle_leave_nothing(victim):
    process = victim.process
    threads = process.num_threads()
    descriptor = command_descriptor(
        wrapped("CommandStatementQuery", query="select range from range(100000000)")
    )
    for number in range(20):
        client = RawFlight(victim.port)
        answers = threading.Thread(target=client.call, args=("GetFlightInfo", [descriptor]))
        answers.start()
        time.sleep(number / 2000)
        client.close()
        answers.join()
    victim.check_honest()
    wait_until(lambda: process.num_threads() <= threads + 20, lambda: f"{process.num_threads()} threads")
