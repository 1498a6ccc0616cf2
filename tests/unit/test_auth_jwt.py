"""Signed tokens: which are accepted, as whom, and with which keys."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.access.jwt_tokens import JwtTokens
from lakehouse.access.principal import Principal
from lakehouse.clock import FixedClock, SystemClock
from lakehouse.config import JwtSettings
from lakehouse.errors import ConfigError

SECRET = "a shared secret of more than 64 bytes, which is what HS512 asks for at least"
ISSUER, AUDIENCE = "https://id.example.org", "lakehouse"
ROLES = ("reader", "writer", "admin", "analyst")

RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
ED = ed25519.Ed25519PrivateKey.generate()


def public(key: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    kind = {rsa.RSAPrivateKey: "RSA", ec.EllipticCurvePrivateKey: "EC", ed25519.Ed25519PrivateKey: "Ed"}
    name = next(name for base, name in kind.items() if isinstance(key, base))
    algorithm = {"RSA": "RS256", "EC": "ES256", "Ed": "EdDSA"}[name]
    document = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    document.pop("key_ops", None)
    return {**document, **({} if kid is None else {"kid": kid}), **more}


def claims(**changed: Any) -> dict[str, Any]:
    now = time.time()
    usual = {"sub": "ann", "iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "roles": ["reader"]}
    return {name: value for name, value in {**usual, **changed}.items() if value is not None}


def signed(key: Any, algorithm: str, kid: str | None = None, **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm, headers={} if kid is None else {"kid": kid})


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., JwtTokens]:
    monkeypatch.setenv("SHARED", SECRET)

    def build(*keys: dict[str, Any], clock: Any = None, **settings: Any) -> JwtTokens:
        if keys:
            file = tmp_path / "jwks.json"
            file.write_text(json.dumps({"keys": keys}))
            settings["jwks"] = str(file)
        usual = {"issuer": ISSUER, "audience": AUDIENCE}
        return JwtTokens(JwtSettings(**{**usual, **settings}), clock or SystemClock(), ROLES)

    return build


@pytest.fixture
def shared(tokens) -> Callable[..., JwtTokens]:
    return lambda **more: tokens(algorithms=["HS256"], secret={"env": "SHARED"}, **more)


# -- signatures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        *((name, SECRET) for name in ("HS256", "HS384", "HS512")),
        *((name, RSA) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ("ES256", P256), ("ES384", P384), ("ES512", P521), ("EdDSA", ED),
    ],
)  # fmt: skip
def test_every_algorithm_that_is_allowed_is_accepted_and_no_other(tokens, algorithm, key):
    secret = {"env": "SHARED"}
    keys = [public(k, str(n)) for n, k in enumerate((RSA, P256, P384, P521, ED))]
    kid = next((str(n) for n, k in enumerate((RSA, P256, P384, P521, ED)) if k is key), None)
    token = signed(key, algorithm, kid)
    found = tokens(*keys, algorithms=[algorithm], secret=secret).verify(token)
    assert (found, found.method) == (Principal("ann", frozenset({"reader"})), "jwt")
    without_kid = tokens(*keys, algorithms=[algorithm], secret=secret).verify(signed(key, algorithm))
    assert without_kid == found
    others = [name for name in ("HS256", "RS256", "PS256", "ES256", "EdDSA") if name != algorithm]
    assert tokens(*keys, algorithms=others, secret=secret).verify(token) is None


def test_a_token_without_a_signature_is_none(tokens):
    verifier = tokens(public(RSA, "a"), algorithms=["RS256", "HS256"], secret={"env": "SHARED"})
    for name in ("none", "None", "NONE", "nOnE"):
        header = base64.urlsafe_b64encode(json.dumps({"alg": name, "typ": "JWT"}).encode()).rstrip(b"=")
        body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
        assert verifier.verify(f"{header.decode()}.{body.decode()}.") is None


def test_a_public_key_is_no_shared_secret(tokens):
    """The attack by which a token is signed with what everybody can read."""
    pem = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    forged = jwt.api_jws.encode(json.dumps(claims()).encode(), SECRET, "HS256", {"kid": "a"})
    head, body, _ = forged.split(".")
    tag = jwt.get_algorithm_by_name("HS256").sign(f"{head}.{body}".encode(), pem)
    forged = f"{head}.{body}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}"
    both = tokens(public(RSA, "a"), algorithms=["RS256", "HS256"], secret={"env": "SHARED"})
    assert both.verify(forged) is None
    assert tokens(public(RSA, "a")).verify(forged) is None


def test_a_shared_secret_among_the_public_keys_is_not_taken(tokens):
    oct_key = {"kty": "oct", "k": base64.urlsafe_b64encode(b"k" * 64).rstrip(b"=").decode(), "kid": "a"}
    verifier = tokens(oct_key, public(RSA, "b"), algorithms=["RS256", "HS256"], secret={"env": "SHARED"})
    assert verifier.verify(signed(b"k" * 64, "HS256", "a")) is None


def test_a_key_serves_only_what_it_is_for(tokens):
    assert tokens(public(RSA, "a", alg="RS512")).verify(signed(RSA, "RS256", "a")) is None
    assert tokens(public(RSA, "a", use="enc")).verify(signed(RSA, "RS256", "a")) is None
    assert tokens(public(RSA, "a", alg="RS256", use="sig")).verify(signed(RSA, "RS256", "a")) is not None
    assert tokens(public(P256, "a"), algorithms=["ES384"]).verify(signed(P384, "ES384", "a")) is None


def test_a_token_of_another_key_is_none(tokens):
    verifier = tokens(public(RSA, "a"))
    assert verifier.verify(signed(OTHER_RSA, "RS256", "a")) is None
    assert verifier.verify(signed(OTHER_RSA, "RS256")) is None
    assert verifier.verify(signed(RSA, "RS256", "b")) is None


def test_a_token_says_not_where_its_key_is(tokens):
    mine = public(OTHER_RSA, "a")
    header = {"kid": "a", "jwk": mine, "jku": "https://evil.example.org/jwks.json", "x5c": ["AAAA"]}
    assert tokens(public(RSA, "a")).verify(jwt.encode(claims(), OTHER_RSA, "RS256", headers=header)) is None


def test_a_key_too_short_to_be_safe_is_not_used(tokens, recwarn):
    weak = rsa.generate_private_key(65537, 1024)
    assert tokens(public(weak, "a")).verify(jwt.encode(claims(), weak, "RS256", headers={"kid": "a"})) is None
    recwarn.clear()


def test_a_secret_too_short_to_be_safe_is_refused_at_the_start(tokens, monkeypatch):
    monkeypatch.setenv("SHARED", "short")
    with pytest.raises(ConfigError, match="has 5 bytes, expected at least 32"):
        tokens(algorithms=["HS256"], secret={"env": "SHARED"})


# -- claims ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://evil.example.org"}, {"iss": None}, {"aud": "other"}, {"aud": None}, {"aud": []},
        {"exp": None}, {"exp": 1}, {"exp": "soon"}, {"exp": time.time() - 31}, {"nbf": time.time() + 86_400},
        {"iat": time.time() + 86_400}, {"sub": None}, {"sub": ""}, {"sub": 7}, {"sub": "a\nb"},
        {"sub": "x" * 201}, {"sub": " "}, {"exp": 1e300}, {"exp": float("inf")}, {"exp": 10**18},
    ],
)  # fmt: skip
def test_a_token_with_a_wrong_claim_is_none(shared, wrong):
    assert shared().verify(signed(SECRET, "HS256", **wrong)) is None


def test_clocks_may_differ_by_the_leeway(shared):
    for fine in ({"exp": time.time() - 20}, {"nbf": time.time() + 20}, {"aud": ["x", AUDIENCE]}):
        assert shared(leeway_seconds=30).verify(signed(SECRET, "HS256", **fine)) is not None
    assert shared(leeway_seconds=0).verify(signed(SECRET, "HS256", exp=time.time() - 20)) is None


@pytest.mark.parametrize(
    ("claim", "value", "expected"),
    [
        ("roles", ["reader", "writer"], {"reader", "writer"}),
        ("roles", "reader writer", {"reader", "writer"}),
        ("roles", "reader", {"reader"}),
        ("roles", ["unknown", "reader", 7, None, ["admin"], {"admin": 1}], {"reader"}),
        ("roles", {"admin": True}, set()),
        ("roles", None, set()),
        ("realm_access.roles", {"roles": ["reader"]}, {"reader"}),
        ("realm_access.roles", ["reader"], set()),
        ("https://example.org/roles", ["reader"], {"reader"}),
    ],
)
def test_roles_come_from_the_claim_as_providers_write_it(shared, claim, value, expected):
    name = claim if "/" in claim else claim.partition(".")[0]
    found = shared(roles_claim=claim).verify(signed(SECRET, "HS256", **{"roles": None, name: value}))
    assert found.roles == expected


def test_groups_become_roles_and_everybody_can_have_some(shared):
    verifier = shared(
        roles_claim="groups", role_map={"data team": "writer", "reader": "analyst"}, default_roles=["reader"]
    )
    found = verifier.verify(signed(SECRET, "HS256", groups=["data team", "reader"]))
    assert found.roles == {"writer", "analyst", "reader"}


def test_the_principal_comes_from_the_claim_that_is_configured(shared):
    found = shared(principal_claim="email").verify(signed(SECRET, "HS256", email="ann@example.org"))
    assert found.name == "ann@example.org"


@given(st.one_of(st.text(max_size=100), st.binary(max_size=100).map(lambda raw: raw.decode("latin-1"))))
def test_no_garbage_is_a_token(text):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SHARED", SECRET)
        verifier = JwtTokens(
            JwtSettings(issuer=ISSUER, audience=AUDIENCE, algorithms=["HS256"], secret={"env": "SHARED"}),
            SystemClock(),
            ROLES,
        )
    good = signed(SECRET, "HS256")
    for token in (
        text,
        f"{text}.{text}.{text}",
        f"{good}{text or 'x'}",
        text + good if text else "..",
        good[:-3],
    ):
        assert verifier.verify(token) is None


@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "crit", "b64", "typ", "zip"]),
        st.one_of(
            st.none(),
            st.integers(),
            st.text(max_size=5),
            st.lists(st.text(max_size=3)),
            st.dictionaries(st.text(max_size=3), st.none()),
        ),
    )
)
def test_no_header_fails_otherwise_than_by_refusal(header):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SHARED", SECRET)
        verifier = JwtTokens(
            JwtSettings(issuer=ISSUER, audience=AUDIENCE, algorithms=["HS256"], secret={"env": "SHARED"}),
            SystemClock(),
            ROLES,
        )
    parts = (json.dumps(header).encode(), json.dumps(claims()).encode(), b"x" * 32)
    token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    assert verifier.verify(token) is None


# -- what is remembered ---------------------------------------------------------------------------------


def test_a_token_found_right_is_remembered_until_it_expires(shared):
    clock = FixedClock()
    verifier = shared(clock=clock)
    expires = int(time.time()) + 600
    token = signed(SECRET, "HS256", exp=expires)
    assert verifier.recall(token) is None
    found = verifier.verify(token)
    assert verifier.recall(token) is found
    assert found.expires_at.timestamp() == expires + 30
    clock.time = found.expires_at
    assert verifier.recall(token) is None


def test_a_token_that_was_refused_is_not_remembered(shared):
    verifier = shared()
    token = signed("another secret of more than 32 bytes in all", "HS256")
    assert verifier.verify(token) is None
    assert verifier.recall(token) is None


# -- keys of a provider ---------------------------------------------------------------------------------


@dataclass
class Provider:
    """An identity provider's key endpoint over https."""

    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    body: bytes | None = None
    location: str = ""
    asked: int = 0


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    authority = trustme.CA()
    found = Provider()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked += 1
            body = json.dumps({"keys": found.keys}).encode() if found.body is None else found.body
            self.send_response(found.status)
            if found.location:
                self.send_header("Location", found.location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found.url = f"https://localhost:{server.server_port}/jwks.json"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def test_keys_come_from_the_provider_and_are_kept(tokens, provider):
    provider.keys = [public(RSA, "a")]
    verifier = tokens(jwks=provider.url, clock=FixedClock())
    assert provider.asked == 0
    for name in ("ann", "ben", "cyd"):
        assert verifier.verify(signed(RSA, "RS256", "a", sub=name)).name == name
    assert provider.asked == 1


def test_a_new_key_is_found_but_unknown_ones_do_not_make_a_flood(tokens, provider):
    clock = FixedClock()
    provider.keys = [public(RSA, "a")]
    verifier = tokens(jwks=provider.url, clock=clock)
    assert verifier.verify(signed(RSA, "RS256", "a")) is not None
    provider.keys = [public(OTHER_RSA, "b")]
    for _ in range(20):
        assert verifier.verify(signed(OTHER_RSA, "RS256", "b")) is None
    assert provider.asked == 1
    clock.elapsed_s += 15
    assert verifier.verify(signed(OTHER_RSA, "RS256", "b")) is not None
    assert verifier.verify(signed(RSA, "RS256", "a", sub="x")) is None
    assert provider.asked == 2


def test_a_key_that_the_provider_took_back_is_none_after_the_refresh(tokens, provider):
    clock = FixedClock()
    provider.keys = [public(RSA, "a"), public(OTHER_RSA, "b")]
    verifier = tokens(jwks=provider.url, clock=clock, refresh_seconds=300)
    assert verifier.verify(signed(RSA, "RS256", "a")) is not None
    provider.keys = [public(OTHER_RSA, "b")]
    clock.elapsed_s += 300
    assert verifier.verify(signed(RSA, "RS256", "a", sub="x")) is None


@pytest.mark.parametrize(
    "outage",
    [{"status": 503}, {"body": b"<html>"}, {"body": b"{}"}, {"body": b'{"keys": []}'}, {"body": b"[1]"},
     {"status": 302, "location": "http://localhost/"}],
)  # fmt: skip
def test_the_last_keys_hold_while_the_provider_gives_none(tokens, provider, outage):
    clock = FixedClock()
    provider.keys = [public(RSA, "a")]
    verifier = tokens(jwks=provider.url, clock=clock)
    assert verifier.verify(signed(RSA, "RS256", "a")) is not None
    for name, value in outage.items():
        setattr(provider, name, value)
    for number in range(3):
        clock.elapsed_s += 1000
        assert verifier.verify(signed(RSA, "RS256", "a", sub=f"user {number}")) is not None
    assert provider.asked == 4


def test_a_provider_that_is_not_who_it_says_is_not_believed(tokens, provider, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    provider.keys = [public(RSA, "a")]
    assert tokens(jwks=provider.url).verify(signed(RSA, "RS256", "a")) is None
    assert provider.asked == 0


def test_a_missing_or_broken_key_file_lets_nobody_in(tokens, tmp_path):
    file = tmp_path / "keys.json"
    for content in (None, "", "[", "[]", "7"):
        if content is not None:
            file.write_text(content)
        assert tokens(jwks=str(file)).verify(signed(RSA, "RS256", "a")) is None


def test_keys_of_kinds_that_are_not_known_harm_no_other(tokens):
    odd = [
        {"kty": "RSA", "kid": "a"},
        {"kty": "XYZ"},
        {"kid": "a"},
        {"kty": 7},
        {"kty": "EC", "crv": "P-1", "kid": "a"},
    ]
    assert tokens(*odd, public(RSA, "a")).verify(signed(RSA, "RS256", "a")) is not None
