"""Ports to listen on, for servers that have to be told one and take it a moment later."""

from __future__ import annotations

import itertools
import os
import socket

# Below what the system gives to those who ask for any port, so nobody gets one of these meanwhile.
_FIRST_PORT, _LAST_PORT = 20_000, 32_000
_offsets = itertools.count()


def free_ports(count: int) -> list[int]:
    """Ports that are free, and free at + 10000, where SeaweedFS listens for gRPC.

    Processes that look at once begin at different places, and none of them is told a port twice.
    """
    found: list[int] = []
    span = _LAST_PORT - _FIRST_PORT
    for offset in itertools.islice(_offsets, span):
        port = _FIRST_PORT + (os.getpid() * 97 + offset * 7) % span
        if _is_free(port) and _is_free(port + 10_000):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
