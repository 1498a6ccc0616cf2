"""What one call says of its caller and session, as the middleware reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.flight as flight
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flight_server.middleware.authentication import AuthenticationMiddleware, AuthenticationMiddlewareFactory
from lakehouse.access.authenticator import Authenticator
from lakehouse.access.principal import Principal
from lakehouse.clock import FixedClock
from lakehouse.config import Settings
from lakehouse.storage import open_local_bucket

COOKIE = "0123456789abcdef" * 2
TOKEN = "t0ken-" * 6


@dataclass
class Call:
    """What pyarrow says of a call."""

    method: flight.FlightMethod = flight.FlightMethod.DO_GET


@dataclass
class Context:
    """What pyarrow says of who calls."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:4711"

    def peer_identity(self) -> bytes:
        return b""


Start = Callable[..., AuthenticationMiddleware]


def starter(bucket: Path, known: Any, method: flight.FlightMethod, **auth: Any) -> Start:
    authenticator = Authenticator(Settings(auth=auth), open_local_bucket("primary", bucket), FixedClock())
    factory = AuthenticationMiddlewareFactory(authenticator, known)
    return lambda **headers: factory.start_call(
        Call(method), {name: [value] for name, value in headers.items()}
    )


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Start]:
    monkeypatch.setenv("DASH", TOKEN)

    def build(known: Any = lambda *_: True, method: Any = flight.FlightMethod.DO_GET) -> Start:
        tokens = [{"name": "dash", "roles": ["reader"], "token": {"env": "DASH"}}]
        return starter(tmp_path, known, method, tokens=tokens, api_keys=True)

    return build


@pytest.fixture
def unguarded(tmp_path: Path) -> Callable[..., Start]:
    return lambda known=lambda *_: True: starter(tmp_path, known, flight.FlightMethod.DO_GET)


def cookie(value: str) -> str:
    return f"arrow_flight_session_id={value}"


def test_who_presents_no_session_is_offered_a_cookie(unguarded):
    call = unguarded()()
    assert call.principal(Context()) == Principal("anonymous", frozenset({"writer"}))
    assert call.token == ""
    assert call.sending_headers() == {"set-cookie": f"{cookie(call.offered)}; Path=/; HttpOnly"}
    assert len(call.offered) == 32
    assert unguarded()().offered != call.offered


def test_who_presents_a_session_is_offered_none(unguarded):
    call = unguarded()(cookie=f"a=b; {cookie(COOKIE)}; c=d")
    assert (call.token, call.offered, call.sending_headers()) == (COOKIE, "", {})


def test_a_cookie_that_belongs_to_no_open_session_of_the_caller_is_not_one(unguarded):
    asked = []
    call = unguarded(lambda *question: bool(asked.append(question)))(cookie=cookie(COOKIE))
    assert asked == [(Principal("anonymous", frozenset({"writer"})), COOKIE)]
    assert call.token == ""
    assert call.offered in call.sending_headers()["set-cookie"]


@pytest.mark.parametrize(
    "value",
    ["", "peer:ipv4:127.0.0.1:4711", COOKIE.upper(), COOKIE * 2, COOKIE + "x", '"' + COOKIE, "x" * 5000],
)
def test_a_cookie_names_only_what_is_given_out_as_one(unguarded, value):
    """Anonymous callers are one principal, and the address that another one calls from can be guessed."""
    assert unguarded()(cookie=cookie(value)).token == ""


@given(st.text(max_size=300))
def test_no_cookie_makes_a_call_fail(tmp_path_factory, text):
    start = starter(tmp_path_factory.getbasetemp() / "c", lambda *_: True, flight.FlightMethod.DO_GET)
    for header in (text, cookie(text), f"{text}; {cookie(COOKIE)}"):
        assert start(cookie=header).token in ("", COOKIE)


def test_a_cookie_alone_is_nobody(guarded):
    with pytest.raises(flight.FlightUnauthenticatedError):
        guarded(method=flight.FlightMethod.GET_SCHEMA)(cookie=cookie(COOKIE))
    with pytest.raises(Exception, match="UNAUTHENTICATED"):
        guarded()(cookie=cookie(COOKIE)).principal(Context())


def test_a_cookie_counts_once_its_caller_is_known(guarded, tmp_path, monkeypatch):
    authenticator_knows: list[Principal] = []

    def known(principal: Principal, token: str) -> bool:
        authenticator_knows.append(principal)
        return principal.name == "dash" and token == COOKIE

    call = guarded(known)(authorization=f"Bearer {TOKEN}", cookie=cookie(COOKIE))
    assert call.principal(Context()).name == "dash"
    assert call.token == COOKIE
    assert [principal.name for principal in authenticator_knows] == ["dash"]


def test_a_handshake_without_credentials_is_refused_at_once(guarded):
    with pytest.raises(flight.FlightUnauthenticatedError, match="it accepts an API key as a bearer token"):
        guarded(method=flight.FlightMethod.HANDSHAKE)()


def test_a_handshake_with_a_token_gives_no_other(guarded):
    headers = guarded(method=flight.FlightMethod.HANDSHAKE)(authorization=f"Bearer {TOKEN}").sending_headers()
    assert "authorization" not in headers


def test_a_defect_reaches_the_client_as_one_plain_sentence(guarded):
    def defect(*_: Any) -> bool:
        raise ZeroDivisionError("a leak")

    with pytest.raises(flight.FlightInternalError) as refused:
        guarded(defect)(authorization=f"Bearer {TOKEN}", cookie=cookie(COOKIE))
    assert "a leak" not in str(refused.value)
