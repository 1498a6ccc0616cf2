"""Servers that ask who is calling, and credentials for them: right ones and wrong ones of every sort."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pyarrow.flight as flight
import trustme
from argon2 import PasswordHasher
from conftest import Server, start_server
from cryptography.hazmat.primitives.asymmetric import ec, rsa

PASSWORD = "p@ss wörd:/?#%"
TOKEN = "dashboard-token-" * 3
_SECRET = "a secret that both sides know, long enough"
_ISSUER, _AUDIENCE = "https://id.example.org", "lakehouse"

_AUTH = """
[auth]
failures_per_minute = 1_000_000
handshakes_per_minute = 1_000_000
api_keys = true

[[auth.users]]
name = "alice"
roles = ["reader"]
password_hash = { env = "ALICE_PASSWORD_HASH" }

[[auth.users]]
name = "root"
roles = ["admin"]
password_hash = { env = "ALICE_PASSWORD_HASH" }

[[auth.tokens]]
name = "dashboard"
roles = ["reader"]
token = { env = "DASHBOARD_TOKEN" }

[auth.jwt]
issuer = "https://id.example.org"
audience = "lakehouse"
algorithms = ["RS256", "ES256", "HS256"]
jwks = "JWKS"
secret = { env = "JWT_SECRET" }
"""
_TLS = """
[server.tls]
certificate = "CERTIFICATE"
key = "KEY"
"""
_CLIENT_AUTHORITIES = 'client_authorities = "AUTHORITY"\n'
_CERTIFICATES = """
[[auth.certificates]]
subject = "etl.example.org"
name = "etl"
roles = ["writer"]
"""
# What a server is set up with.
_CONFIG = {
    "plain": _AUTH,
    "tls": _AUTH + _TLS,
    "mutual": _AUTH + _TLS + _CLIENT_AUTHORITIES + _CERTIFICATES,
    # Certificates as a second lock: they open the connection and say nothing about who is calling.
    "double": _AUTH + _TLS + _CLIENT_AUTHORITIES,
}


@dataclass(frozen=True)
class Credential:
    """What a client says about itself; empty is what it does not say."""

    user: str = ""
    secret: str = field(default="", repr=False)
    certificate: Path | None = None
    key: Path | None = None

    @property
    def basic(self) -> str:
        """User and password as a header's value."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


@dataclass(frozen=True)
class Door:
    """A server, and the file with the authority to trust where connections are encrypted."""

    port: int
    authority: Path | None

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"grpc{'+tls' if self.authority else ''}://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Street:
    """The servers by the way they are set up, and the credentials by name."""

    doors: dict[str, Door]
    credentials: dict[str, Credential]
    servers: tuple[Server, ...]

    def credential(self, name: str, door: str) -> Credential:
        """A credential; ``session`` is the token of a login made now, as leaving a session ends its login."""
        if name != "session":
            return self.credentials[name]
        with connected(self.doors[door]) as client:
            _, header = client.authenticate_basic_token("alice", PASSWORD)
        return Credential(secret=header.decode().removeprefix("Bearer "))


def connected(door: Door) -> flight.FlightClient:
    """A client of a server that asks for no certificate."""
    trust = {} if door.authority is None else {"tls_root_certs": door.authority.read_bytes()}
    return flight.connect(door.uri, **trust)


class Certificates:
    """Files of an authority that the servers trust, and of a stranger."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        authority, stranger = trustme.CA(), trustme.CA()
        self.authority = directory / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        self.server = self._write("server", authority.issue_cert("127.0.0.1", "localhost"))
        self.clients = {
            "etl": self._write("etl", authority.issue_cert("etl.example.org")),
            "unlisted": self._write("unlisted", authority.issue_cert("unlisted.example.org")),
            "stranger": self._write("stranger", stranger.issue_cert("etl.example.org")),
        }

    def _write(self, name: str, made: trustme.LeafCert) -> Credential:
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        key.touch(mode=0o600)
        made.private_key_pem.write_to_path(str(key))
        return Credential(certificate=certificate, key=key)


class IdentityProvider:
    """Signs tokens, and publishes its keys in a file."""

    def __init__(self, directory: Path) -> None:
        self._keys = {
            "RS256": rsa.generate_private_key(65537, 2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
        }
        self._forger = rsa.generate_private_key(65537, 2048)
        self.jwks = directory / "jwks.json"
        shown = [
            jwt.algorithms.RSAAlgorithm.to_jwk(self._keys["RS256"].public_key(), as_dict=True),
            jwt.algorithms.ECAlgorithm.to_jwk(self._keys["ES256"].public_key(), as_dict=True),
        ]
        named = [
            {**key, "kid": name, "alg": name} for key, name in zip(shown, ("RS256", "ES256"), strict=True)
        ]
        self.jwks.write_text(json.dumps({"keys": named}))

    def tokens(self) -> dict[str, Credential]:
        """Tokens by what is right or wrong about them."""
        now = datetime.now(UTC)
        good = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": "carol",
            "roles": ["reader"],
            "exp": now + timedelta(hours=1),
        }
        signed = {
            "jwt_rs256": self._sign("RS256", good),
            "jwt_es256": self._sign("ES256", good),
            "jwt_hs256": jwt.encode(good, _SECRET, "HS256"),
            "jwt_expired": self._sign("RS256", {**good, "exp": now - timedelta(hours=1)}),
            "jwt_wrong_audience": self._sign("RS256", {**good, "aud": "another"}),
            "jwt_wrong_issuer": self._sign("RS256", {**good, "iss": "https://id.example.com"}),
            "jwt_forged": jwt.encode(good, self._forger, "RS256", headers={"kid": "RS256"}),
            "jwt_unsigned": jwt.encode(good, None, "none"),
        }
        return {name: Credential(secret=text) for name, text in signed.items()}

    def _sign(self, algorithm: str, claims: dict[str, object]) -> str:
        return jwt.encode(claims, self._keys[algorithm], algorithm, headers={"kid": algorithm})


@contextmanager
def open_street(directory: Path, *names: str) -> Iterator[Street]:
    """Start a server for each way of setting it up, or those named, and make credentials for them."""
    certificates, provider = Certificates(directory), IdentityProvider(directory)
    files = {
        "JWKS": str(provider.jwks),
        "CERTIFICATE": str(certificates.server.certificate),
        "KEY": str(certificates.server.key),
        "AUTHORITY": str(certificates.authority),
    }
    environment = {
        # Cheap, because every client logs in many times; the strength of real ones is tested elsewhere.
        "ALICE_PASSWORD_HASH": PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD),
        "DASHBOARD_TOKEN": TOKEN,
        "JWT_SECRET": _SECRET,
    }
    servers: dict[str, Server] = {}
    try:
        for name in names or tuple(_CONFIG):
            template = _CONFIG[name]
            config = re.sub(r'"([A-Z]+)"', lambda found: json.dumps(files[found[1]]), template)
            servers[name] = start_server(directory / name, config, **environment)
        authority = certificates.authority
        doors = {n: Door(s.port, None if n == "plain" else authority) for n, s in servers.items()}
        yield Street(doors, _credentials(doors, certificates, provider), tuple(servers.values()))
    finally:
        for server in servers.values():
            server.stop()


def _credentials(
    doors: dict[str, Door], certificates: Certificates, provider: IdentityProvider
) -> dict[str, Credential]:
    right = {"alice": Credential("alice", PASSWORD), "token": Credential(secret=TOKEN)}
    wrong = {
        "wrong_password": Credential("alice", PASSWORD.upper()),
        "unknown_user": Credential("mallory", PASSWORD),
        "unknown_token": Credential(secret=TOKEN.upper()),
    }
    with_certificate = {
        "etl_and_token": replace(certificates.clients["etl"], secret=TOKEN),
        "etl_and_alice": replace(certificates.clients["etl"], user="alice", secret=PASSWORD),
    }
    made = right | wrong | provider.tokens() | certificates.clients | with_certificate
    for prefix, door in (("", "plain"), ("tls_", "tls")):
        if door not in doors:
            continue
        with connected(doors[door]) as client:
            made |= {f"{prefix}{name}": key for name, key in _api_keys(client).items()}
    return made | {"nothing": Credential()}


def _api_keys(client: flight.FlightClient) -> dict[str, Credential]:
    root = flight.FlightCallOptions(headers=[client.authenticate_basic_token("root", PASSWORD)])

    def call(name: str, /, **request: object) -> dict[str, Any]:
        [answer] = client.do_action(flight.Action(name, json.dumps(request).encode()), root)
        return dict(json.loads(answer.body.to_pybytes()))

    keys = {
        "api_key": call("auth.keys.create", name="reporting", roles=["reader"]),
        "expired_key": call("auth.keys.create", name="old", roles=["reader"], expires_in_seconds=1),
        "revoked_key": call("auth.keys.create", name="lost", roles=["reader"]),
    }
    call("auth.keys.revoke", id=keys["revoked_key"]["id"])
    while "expired" not in {key["state"] for key in call("auth.keys.list")["keys"]}:
        time.sleep(0.1)
    return {name: Credential(secret=key["key"]) for name, key in keys.items()}


def environment_of_clients() -> dict[str, str]:
    """The environment of a client's process, without what would tell it of credentials of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    return {**kept, "PYTHONWARNINGS": "error", "NO_COLOR": "1"}
