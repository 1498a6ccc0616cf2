"""A server does not stand on a network unprotected unless it is told to."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from structlog.testing import capture_logs

from flight_server.exposure import check_exposure
from lakehouse.config import Settings
from lakehouse.config.hosts import is_loopback
from lakehouse.errors import ConfigError

EVERYWHERE = {"host": "0.0.0.0", "allow_ip_literals": True}
TLS = {"tls": {"certificate": "server.pem", "key": "server.key"}}
AUTH = {"api_keys": True}


def settings(auth: dict[str, Any] | None = None, **server: Any) -> Settings:
    return Settings(server=server, auth=auth or {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_no_protection(host: str) -> None:
    check_exposure(settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1"])
def test_an_address_that_others_reach_needs_protection(host: str) -> None:
    with pytest.raises(ConfigError, match="other machines can reach"):
        check_exposure(settings(host=host, allow_ip_literals=True))
    check_exposure(settings(AUTH, host=host, allow_ip_literals=True, **TLS))


@pytest.mark.parametrize(
    ("found", "is_refused"),
    [
        (["127.0.0.1", "::1"], False),
        (["192.0.2.1"], True),
        (["127.0.0.1", "192.0.2.1"], True),
        (None, True),
    ],
)
def test_a_name_is_what_it_stands_for(
    monkeypatch: pytest.MonkeyPatch, found: list[str] | None, is_refused: bool
) -> None:
    def resolve(host: str, port: None, **_: Any) -> list[Any]:
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    if is_refused:
        with pytest.raises(ConfigError, match=r"lake\.example\.org"):
            check_exposure(settings(host="lake.example.org"))
    else:
        check_exposure(settings(host="lake.example.org"))


@pytest.mark.parametrize(
    ("given", "said", "unsaid"),
    [
        ({}, ["not encrypted and nobody is asked", "[server.tls]", "[[auth.users]]"], []),
        (TLS, ["nobody is asked who they are", "[[auth.users]]"], ["[server.tls]", "not encrypted"]),
        ({"auth": AUTH}, ["not encrypted", "[server.tls]"], ["[[auth.users]]", "nobody"]),
    ],
)
def test_the_refusal_says_what_is_missing_and_how_to_set_it_up(
    given: dict[str, Any], said: list[str], unsaid: list[str]
) -> None:
    auth = given.get("auth")
    server = {key: value for key, value in given.items() if key != "auth"}
    with pytest.raises(ConfigError) as refused:
        check_exposure(settings(auth, **EVERYWHERE, **server))
    text = str(refused.value)
    everywhere = ["lakehouse make-certificate", "lakehouse hash-password"]
    expected = {"[server.tls]": everywhere[0], "[[auth.users]]": everywhere[1]}
    said = [*said, "--insecure", *(command for part, command in expected.items() if part in said)]
    assert [part for part in said if part not in text] == []
    assert [part for part in unsaid if part in text] == []


def test_insecure_goes_without_and_says_so() -> None:
    with capture_logs() as logs:
        check_exposure(settings(**EVERYWHERE, insecure=True))
    assert [(line["log_level"], line["host"]) for line in logs] == [("warning", "0.0.0.0")]
    with capture_logs() as logs:
        check_exposure(settings(AUTH, **EVERYWHERE, **TLS, insecure=True))
    assert logs == []


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("::ffff:192.0.2.1", False), ("nonsense", False)],
)
def test_loopback_is_told_from_other_addresses(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected
