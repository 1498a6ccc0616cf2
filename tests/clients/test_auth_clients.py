"""Every way to say who one is, with every real client.

``CASES`` is what is tried; every client tries every case, but for those that it has no means for (``CANNOT``)
and those in which it fails whatever the server does (``LIMITS``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import need
from doors import Street, open_street
from logins import (
    BUILD,
    IN_PROCESS,
    JDBC_VERSIONS,
    Login,
    Outcome,
    attempt,
    by_command,
    by_flightsql_dbapi,
    by_go,
    by_grafana,
    by_jdbc,
    make_trust_store,
)

HERE = Path(__file__).parent
CLIENTS = (*IN_PROCESS, "command", "flightsql_dbapi", "go", "grafana", *(f"jdbc_{v}" for v in JDBC_VERSIONS))

# What clients say of a server that does not know them, and of a connection that does not come about.
REFUSED = r"UNAUTHENTICATED"
NO_CONNECTION = (
    r"(?i)tls|handshake|certificate|unavailable|io exception|connection (reset|closed)|broken pipe|EOF"
    r"|could not finish writing"
)


@dataclass(frozen=True)
class Case:
    """One login.

    Attributes:
        principal: Who the server should say is calling; empty where the login should fail.
        failure: What the client should say then.
    """

    door: str
    way: str
    credential: str
    principal: str = ""
    failure: str = REFUSED
    trusts_anybody: bool = False

    @property
    def id(self) -> str:
        """The name of the case."""
        return "-".join(
            (self.door, self.way, self.credential, *(["unverified"] if self.trusts_anybody else []))
        )


CASES = (
    Case("plain", "password", "alice", "alice"),
    Case("plain", "basic", "alice", "alice"),
    Case("plain", "bearer", "session", "alice"),
    Case("plain", "bearer", "api_key", "reporting"),
    Case("plain", "bearer", "token", "dashboard"),
    Case("plain", "bearer", "jwt_rs256", "carol"),
    Case("plain", "bearer", "jwt_es256", "carol"),
    Case("plain", "bearer", "jwt_hs256", "carol"),
    Case("plain", "password", "wrong_password"),
    Case("plain", "password", "unknown_user"),
    Case("plain", "basic", "wrong_password"),
    Case("plain", "bearer", "expired_key"),
    Case("plain", "bearer", "revoked_key"),
    Case("plain", "bearer", "unknown_token"),
    Case("plain", "bearer", "jwt_expired"),
    Case("plain", "bearer", "jwt_wrong_audience"),
    Case("plain", "bearer", "jwt_wrong_issuer"),
    Case("plain", "bearer", "jwt_forged"),
    Case("plain", "bearer", "jwt_unsigned"),
    Case("plain", "nothing", "nothing"),
    Case("tls", "password", "alice", "alice"),
    Case("tls", "password", "alice", "alice", trusts_anybody=True),
    Case("tls", "basic", "alice", "alice"),
    Case("tls", "bearer", "session", "alice"),
    Case("tls", "bearer", "tls_api_key", "reporting"),
    Case("tls", "bearer", "token", "dashboard"),
    Case("tls", "bearer", "jwt_rs256", "carol"),
    Case("tls", "bearer", "jwt_es256", "carol"),
    Case("tls", "bearer", "jwt_hs256", "carol"),
    Case("tls", "password", "wrong_password"),
    Case("tls", "bearer", "tls_revoked_key"),
    Case("tls", "bearer", "jwt_expired"),
    Case("tls", "nothing", "nothing"),
    Case("mutual", "certificate", "etl", "etl"),
    # Who says more than a certificate does is who that says.
    Case("mutual", "bearer", "etl_and_token", "dashboard"),
    Case("mutual", "basic", "etl_and_alice", "alice"),
    Case("mutual", "certificate", "unlisted"),
    Case("mutual", "certificate", "stranger", failure=NO_CONNECTION),
    Case("mutual", "nothing", "nothing", failure=NO_CONNECTION),
    Case("double", "password", "etl_and_alice", "alice"),
    Case("double", "bearer", "etl_and_token", "dashboard"),
    Case("double", "certificate", "etl"),
    Case("double", "password", "alice", failure=NO_CONNECTION),
)
_BY_ID = {case.id: case for case in CASES}

# What a client has no means for: clients, cases, why.
CANNOT: tuple[tuple[str, str, str], ...] = (
    (r"lakehouse_client|command|flightsql_dbapi|go|grafana", r".*-basic-.*", "logs in with a handshake"),
    (r"polars_address", r"(?!plain-(password|nothing)).*", "an address has room for user and password only"),
    (r"sqlalchemy", r".*-password-.*", "takes the password of an address for a bearer token"),
    (r"lakehouse_client|command|grafana", r".*-unverified", "never trusts anybody"),
    (r"jdbc_(15.0.2|12.0.1)|grafana", r"(mutual|double)-.*", "knows no client certificates"),
)
# What a client does in which no server can help it: clients, cases, what it says, why.
LIMITS: tuple[tuple[str, str, str, str], ...] = (
    (
        "polars_address",
        "plain-password-alice",
        "asks who is calling",
        "the driver reads no user from an address",
    ),
    (
        "flightsql_dbapi",
        "mutual-certificate-etl",
        "credentials are wrong",
        "sends 'Bearer None' without a token",
    ),
    # While certificates tell who is calling there are no handshakes: see docs/security.md.
    (
        r"jdbc_(18\.3\.0|17\.0\.0)",
        "mutual-bearer-etl_and_token",
        "UNIMPLEMENTED",
        "sends a token through a handshake; as a header, authorization=Bearer…, it would get in",
    ),
)
# A process for every login takes long, and lakehouse_client, on which the command stands, tries all of them.
FEW = {
    "command": (
        "plain-password-alice",
        "plain-bearer-api_key",
        "plain-bearer-expired_key",
        "plain-password-wrong_password",
        "plain-nothing-nothing",
        "tls-bearer-token",
        "mutual-certificate-etl",
        "mutual-certificate-stranger",
    )
}


def cannot(client: str, case: Case) -> bool:
    """Whether a client has no means for a case, or is not to try it."""
    if case.id not in FEW.get(client, _BY_ID):
        return True
    return any(re.fullmatch(who, client) and re.fullmatch(what, case.id) for who, what, _ in CANNOT)


def limit(client: str, case: Case) -> str | None:
    """What a client says in a case in which it fails; None where it must not."""
    for who, what, said, _ in LIMITS:
        if re.fullmatch(who, client) and re.fullmatch(what, case.id):
            return said
    return None


PAIRS = [(client, case.id) for client in CLIENTS for case in CASES if not cannot(client, case)]


def _logins(client: str, street: Street) -> list[Login]:
    return [
        Login(c.id, street.doors[c.door], c.way, street.credential(c.credential, c.door), c.trusts_anybody)
        for c in CASES
        if not cannot(client, c)
    ]


def _skip(reason: str) -> None:
    if os.environ.get("LAKEHOUSE_TEST_NO_SKIP"):
        pytest.fail(f"{reason}, and nothing may be skipped here")
    pytest.skip(reason)


class Clients:
    """What the clients experienced; each is let in when it is asked for, and once."""

    def __init__(self, street: Street, directory: Path) -> None:
        self._street = street
        self._directory = directory
        self._outcomes: dict[str, dict[str, Outcome]] = {}

    def outcome(self, client: str, case: str) -> Outcome:
        """The outcome of one login."""
        if client not in self._outcomes:
            self._outcomes[client] = self._run(client, _logins(client, self._street))
        return self._outcomes[client][case]

    def _run(self, client: str, logins: Sequence[Login]) -> dict[str, Outcome]:
        if client in IN_PROCESS:
            return {login.id: attempt(IN_PROCESS[client], login) for login in logins}
        if client == "command":
            with ThreadPoolExecutor(2) as pool:
                return dict(zip((x.id for x in logins), pool.map(by_command, logins), strict=True))
        if client == "flightsql_dbapi":
            python = BUILD / "flightsql-dbapi" / "bin" / "python"
            if not python.exists():
                _skip("flightsql-dbapi is not installed: make install")
            return by_flightsql_dbapi(python, logins)
        if client == "go":
            return by_go(self._go(), logins)
        if client == "grafana":
            return by_grafana(self._go(), self._authority(), logins)
        return self._jdbc(client.removeprefix("jdbc_"), logins)

    def _authority(self) -> Path:
        authority = self._street.doors["tls"].authority
        assert authority is not None
        return authority

    def _go(self) -> Path:
        """The program, compiled. Go is not asked of a bare machine, so this is skipped there."""
        go, program = shutil.which("go"), self._directory / "login"
        if go is None:
            pytest.skip("go is not installed")
        built = subprocess.run(
            [go, "build", "-o", program, "."], cwd=HERE / "go", check=False, capture_output=True, text=True
        )
        if built.returncode != 0:
            pytest.skip(f"the modules cannot be fetched: {built.stderr[-300:]}")
        return program

    def _jdbc(self, version: str, logins: Sequence[Login]) -> dict[str, Outcome]:
        java, keytool = need("java"), need("keytool")
        jar, store = BUILD / "jdbc" / f"flight-sql-jdbc-driver-{version}.jar", self._directory / "store"
        if not jar.is_file() or not (BUILD / "jdbc" / "classes" / "AuthChecks.class").is_file():
            _skip(f"make jdbc has not made {jar.name} and AuthChecks.class")
        if not store.exists():
            make_trust_store(keytool, self._authority(), store)
        return by_jdbc(java, BUILD / "jdbc" / "classes", jar, store, logins)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """The clients, before the doors of the servers."""
    with open_street(tmp_path_factory.mktemp("street")) as street:
        yield Clients(street, tmp_path_factory.mktemp("clients"))


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(("client", "case"), PAIRS)
def test_login(clients: Clients, client: str, case: str) -> None:
    outcome, expected = clients.outcome(client, case), _BY_ID[case]
    assert "Traceback" not in outcome.error
    said = limit(client, expected)
    if said is not None:
        assert outcome.error, f"{client} can do this now: take it out of LIMITS"
        assert re.search(said, outcome.error)
    elif expected.principal:
        assert outcome == Outcome(expected.principal)
    else:
        assert outcome.principal == ""
        assert re.search(expected.failure, outcome.error)


def test_every_line_of_what_clients_cannot_do_is_needed() -> None:
    pairs = [(client, case.id) for client in CLIENTS for case in CASES]
    lines = [(who, what) for who, what, _ in CANNOT] + [(who, what) for who, what, _, _ in LIMITS]
    for who, what in lines:
        assert any(re.fullmatch(who, client) and re.fullmatch(what, case) for client, case in pairs)
