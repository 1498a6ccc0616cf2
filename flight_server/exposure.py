"""Refuses to stand on a network unprotected, and says how to protect."""

from __future__ import annotations

import socket

import structlog

from lakehouse.config import Settings
from lakehouse.config.hosts import is_loopback
from lakehouse.errors import ConfigError

log = structlog.get_logger(__name__)

_TLS = """\
  encrypt connections (`lakehouse make-certificate {host}` makes a certificate to try it with):
    [server.tls]
    certificate = "tls/server.pem"
    key = "tls/server.key"
"""
_AUTH = """\
  say who gets in (`lakehouse hash-password` gives the hash to put into that variable):
    [[auth.users]]
    name = "alice"
    roles = ["writer"]
    password_hash = { env = "ALICE_PASSWORD_HASH" }
"""
_OTHERWISE = """\
docs/security.md tells of API keys, signed tokens and client certificates. --host 127.0.0.1 serves this
machine alone; --insecure, or server.insecure = true, serves everybody who can reach it."""


def check_exposure(settings: Settings) -> None:
    """Refuse to listen where other machines can reach, unless connections are encrypted and callers known.

    Raises:
        ConfigError: Says what is missing, and what to write for it.
    """
    server = settings.server
    if _stays_here(server.host):
        return
    missing, recipe = [], ""
    if not server.tls.is_enabled:
        missing.append("connections are not encrypted")
        recipe += _TLS.replace("{host}", _name_of(server.host))
    if not settings.auth.is_enabled:
        missing.append("nobody is asked who they are")
        recipe += _AUTH
    if missing and server.insecure:
        log.warning("other machines can reach this server unprotected", host=server.host, missing=missing)
    elif missing:
        raise ConfigError(
            f"other machines can reach server.host = {server.host!r}, but {' and '.join(missing)}. "
            f"In the configuration,\n{recipe}{_OTHERWISE}"
        )


def _stays_here(host: str) -> bool:
    """Whether everything that a name stands for is this machine. A name that nobody knows is not."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(is_loopback(str(address[0])) for *_, address in found)


def _name_of(host: str) -> str:
    return socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - told apart, not listened on
