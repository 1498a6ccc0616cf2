"""Getting in over the wire: what each kind of credentials gives, and that nothing gets in without."""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import jwt
import pyarrow as pa
import pyarrow.flight as flight
import pytest
import trustme
from adbc_driver_flightsql import DatabaseOptions
from argon2 import PasswordHasher
from conftest import ROOT, Server, start_server
from lakehouse_client import LakehouseClientError, connect
from wire import bare_action, cookie_options, query

from flight_server.protocol.messages import flight_class

ALICE, BOB = ("alice", "pass:wörd €"), ("bob", "b")
ADMIN_TOKEN = "admin-" * 8
SECRET = "a shared secret of at least 32 bytes"
CONFIG = """
[auth]
api_keys = true
failures_per_minute = 20
[[auth.users]]
name = "alice"
roles = ["writer"]
password_hash = { env = "ALICE" }
[[auth.users]]
name = "bob"
roles = ["writer"]
password_hash = { env = "BOB" }
[[auth.tokens]]
name = "root"
roles = ["admin"]
token = { env = "ROOT_TOKEN" }
[auth.jwt]
issuer = "https://id.example.org"
audience = "lakehouse"
algorithms = ["HS256"]
secret = { env = "JWT_SECRET" }
"""


def environment() -> dict[str, str]:
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return {
        "ALICE": cheap.hash(ALICE[1]),
        "BOB": cheap.hash(BOB[1]),
        "ROOT_TOKEN": ADMIN_TOKEN,
        "JWT_SECRET": SECRET,
    }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("guarded"), CONFIG, **environment())
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])
    log = "".join(running.log)
    assert "Traceback" not in log
    assert [secret for secret in (ALICE[1], ADMIN_TOKEN, SECRET, "lh_") if secret in log] == []


def options(header: str | bytes) -> flight.FlightCallOptions:
    value = header.encode() if isinstance(header, str) else header
    return flight.FlightCallOptions(headers=[(b"authorization", value)], timeout=30)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


ROOT_OPTIONS = options(f"Bearer {ADMIN_TOKEN}")


def act(client: flight.FlightClient, name: str, with_: Any = None, /, **body: Any) -> dict[str, Any]:
    (result,) = client.do_action(flight.Action(name, json.dumps(body).encode()), with_)
    return json.loads(result.body.to_pybytes())


def whoami(client: flight.FlightClient, header: str) -> str:
    return act(client, "auth.whoami", options(header))["name"]


def eventually(ask: Callable[[], str]) -> str:
    """The answer when there is one: who is unknown may have been looked for a moment before."""
    until = time.monotonic() + 30
    while True:
        try:
            return ask()
        except flight.FlightUnauthenticatedError:
            if time.monotonic() > until:
                raise
        time.sleep(0.2)


def login(client: flight.FlightClient, user: str, password: str) -> flight.FlightCallOptions:
    _, value = client.authenticate_basic_token(user, password)
    return options(value)


# -- nothing gets in without ----------------------------------------------------------------------------

EXCHANGE = flight.FlightDescriptor.for_command(b"x")


def put(client: flight.FlightClient, with_: Any) -> None:
    writer, reader = client.do_put(EXCHANGE, pa.schema([("a", pa.int64())]), with_)
    with writer:
        writer.done_writing()
        reader.read()


def exchange(client: flight.FlightClient, with_: Any) -> None:
    writer, _ = client.do_exchange(EXCHANGE, with_)
    with writer:
        writer.begin(pa.schema([("a", pa.int64())]))
        writer.done_writing()


CALLS: dict[str, Callable[[flight.FlightClient, Any], Any]] = {
    "GetFlightInfo": lambda client, with_: client.get_flight_info(EXCHANGE, with_),
    "GetSchema": lambda client, with_: client.get_schema(EXCHANGE, with_),
    "DoGet": lambda client, with_: client.do_get(flight.Ticket(b"x"), with_).read_all(),
    "DoPut": put,
    "DoExchange": exchange,
    "DoAction": lambda client, with_: list(client.do_action("server.status", with_)),
    "DoAction of the protocol": lambda client, with_: list(client.do_action("BeginTransaction", with_)),
    "DoAction of no name": lambda client, with_: list(client.do_action("nope", with_)),
    "ListActions": lambda client, with_: list(client.list_actions(with_)),
    "ListFlights": lambda client, with_: list(client.list_flights(b"", with_)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "header", [None, "Bearer nobody", basic("alice", "no"), "Bearer lh_" + "0" * 16 + "_" + "0" * 64]
)
def test_no_call_gets_in_without_credentials(shut, call, header):
    # pyarrow's get_schema does not turn a status into its own error.
    kind = OSError if call == "GetSchema" else flight.FlightUnauthenticatedError
    with shut.client() as client, pytest.raises(kind) as refused:
        CALLS[call](client, flight.FlightCallOptions() if header is None else options(header))
    text = str(refused.value)
    assert text.startswith("[UNAUTHENTICATED] ")
    assert ". Detail: Unauthenticated" in text
    assert not any(word in text for word in ("Traceback", ".py", "alice"))


@pytest.fixture(scope="module")
def shut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which so much fails that it would slow everything down."""
    config = CONFIG.replace("failures_per_minute = 20", "failures_per_minute = 100000")
    running = start_server(tmp_path_factory.mktemp("shut"), config, **environment())
    yield running
    assert running.stop() == 0


def test_no_handshake_gets_in_with_a_wrong_password(shut):
    with shut.client() as client:
        said = set()
        for user, password in [("alice", "no"), ("nobody", "no"), ("alice", ""), ("", ""), ("a:b", "c")]:
            with pytest.raises(flight.FlightUnauthenticatedError) as refused:
                client.authenticate_basic_token(user, password)
            said.add(str(refused.value))
        assert len(said) == 1


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b"Basic", b"Basic ", b"Basic !!!", b"Basic YWxpY2U=", b"Basic /////w==", b"Bearer",
        b"Bearer  ", b"Bearer a b c", b"Bearer ..", b"Bearer " + b"x" * 7000, b"Basic " + b"QUFB" * 1500,
        b"Digest x", b"Bearer lh__", b"\x7f", b"Basic " + base64.b64encode(b"alice:\x00\xff"),
    ],
)  # fmt: skip
def test_no_odd_header_is_anything_but_refused(shut, value):
    with (
        shut.client() as client,
        pytest.raises((flight.FlightUnauthenticatedError, flight.FlightInternalError)) as refused,
    ):
        list(client.do_action("auth.whoami", options(value)))
    # What cannot be sent at all is refused by the client's own transport.
    assert "[UNAUTHENTICATED]" in str(refused.value) or "Invalid metadata" in str(refused.value)


def http2(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def test_a_header_that_is_no_text_is_refused_without_a_traceback(shut):
    """Written by hand, since no client library sends such a thing."""
    headers = {
        b":method": b"POST", b":scheme": b"http", b":authority": b"x", b"te": b"trailers",
        b":path": b"/arrow.flight.protocol.FlightService/ListActions",
        b"content-type": b"application/grpc", b"authorization": b"Basic \xff\xfe",
    }  # fmt: skip
    block = b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in headers.items()
    )
    received = b""
    with socket.create_connection(("127.0.0.1", shut.port), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2(4, 0, 0, b"") + http2(1, 4, 1, block))
        connection.sendall(http2(0, 1, 1, b"\0" * 5))
        while b"grpc-message" not in received and (more := connection.recv(65_536)):
            received += more
        received += connection.recv(65_536) if b"could not be read" not in received else b""
    assert b"the request could not be read" in received
    assert not any(word in received for word in (b"Traceback", b".py", b"line "))


# -- what each kind gives -------------------------------------------------------------------------------


def test_each_kind_of_credentials_says_who_its_holder_is(guarded):
    now = int(time.time())
    claims = {
        "iss": "https://id.example.org",
        "aud": "lakehouse",
        "sub": "jwt-ann",
        "exp": now + 600,
        "roles": "reader",
    }
    with guarded.client() as client:
        made = act(
            client, "auth.keys.create", ROOT_OPTIONS, name="key-ann", roles=["reader"], expires_in_seconds=60
        )
        headers = {
            "password": basic(*ALICE),
            "token": f"Bearer {ADMIN_TOKEN}",
            "jwt": "Bearer " + jwt.encode(claims, SECRET, "HS256"),
            "api_key": f"Bearer {made['key']}",
        }
        found = {kind: act(client, "auth.whoami", options(header)) for kind, header in headers.items()}
    assert {kind: who["method"] for kind, who in found.items()} == {kind: kind for kind in headers}
    assert [who["name"] for who in found.values()] == ["alice", "root", "jwt-ann", "key-ann"]
    assert [who["roles"] for who in found.values()] == [["writer"], ["admin"], ["reader"], ["reader"]]
    assert [who["expires_at"] is None for who in found.values()] == [True, True, False, False]


def test_a_login_gives_a_token_that_is_a_session_of_its_own(guarded):
    with guarded.client() as client:
        one, two = login(client, *ALICE), login(client, *ALICE)
        query(client, "create temp table mine as select 1 as x", one)
        assert query(client, "select x from mine", one).num_rows == 1
        with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
            query(client, "select x from mine", two)
    with guarded.client() as elsewhere:
        assert query(elsewhere, "select x from mine", one).num_rows == 1


def test_closing_the_session_ends_its_login_and_no_other(guarded):
    with guarded.client() as client:
        one, two = login(client, *ALICE), login(client, *ALICE)
        query(client, "select 1", one)
        bare_action(client, "CloseSession", flight_class("CloseSessionRequest")(), one)
        with pytest.raises(flight.FlightUnauthenticatedError):
            query(client, "select 1", one)
        assert query(client, "select 1", two).num_rows == 1


def test_users_on_one_connection_never_share_a_session(guarded):
    with guarded.client() as client:
        alice, bob = options(basic(*ALICE)), options(basic(*BOB))
        query(client, "create temp table hers as select 1 as x", alice)
        assert query(client, "select x from hers", alice).num_rows == 1
        with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
            query(client, "select x from hers", bob)


class Cookies(flight.ClientMiddlewareFactory):
    """Notes the cookies that a server sets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def start_call(self, info: flight.CallInfo) -> flight.ClientMiddleware:
        seen = self.seen

        class Middleware(flight.ClientMiddleware):
            def received_headers(self, headers):
                seen.extend(text.split(";")[0].split("=")[1] for text in headers.get("set-cookie", []))

        return Middleware()


def with_cookie(header: str, cookie: str) -> flight.FlightCallOptions:
    return flight.FlightCallOptions(
        headers=[
            (b"authorization", header.encode()),
            (b"cookie", f"arrow_flight_session_id={cookie}".encode()),
        ]
    )


def test_a_cookie_is_a_session_of_its_own_principal_only(guarded):
    cookies = Cookies()
    with flight.FlightClient(guarded.uri, middleware=[cookies]) as client:
        query(client, "create temp table hers as select 1 as x", options(basic(*ALICE)))
    cookie = cookies.seen[-1]
    with guarded.client() as client:
        assert query(client, "select x from hers", with_cookie(basic(*ALICE), cookie)).num_rows == 1
        with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
            query(client, "select x from hers", with_cookie(basic(*BOB), cookie))
        with pytest.raises(flight.FlightUnauthenticatedError):
            query(client, "select 1", cookie_options(cookie))


def test_a_transaction_of_one_user_is_none_of_anothers(guarded):
    with guarded.client() as client:
        alice, bob = login(client, *ALICE), login(client, *BOB)
        query(client, "begin", alice)
        query(client, "create temp table t as select 1 as x", alice)
        with pytest.raises(pa.ArrowInvalid, match="TRANSACTION_STATE"):
            query(client, "commit", bob)
        query(client, "rollback", alice)


# -- API keys -------------------------------------------------------------------------------------------


def keys(server: Server, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flight_server", "keys", *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=200, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_a_key_made_by_the_command_works_at_once_and_ends_within_seconds(guarded):
    where = ("--config", str(guarded.directory / "lakehouse.toml"))
    made = keys(guarded, "create", "offline", "--role", "reader", "--expires-days", "1", *where)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    with guarded.client() as client:
        assert whoami(client, f"Bearer {key}") == "offline"
        assert keys(guarded, "revoke", key.split("_")[1], *where).returncode == 0
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                whoami(client, f"Bearer {key}")
            except flight.FlightUnauthenticatedError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("the key is accepted although it was revoked")


def test_the_command_asks_a_server_too(guarded):
    made = keys(
        guarded, "create", "online", "--role", "reader", "--uri", guarded.uri, LAKEHOUSE_TOKEN=ADMIN_TOKEN
    )
    assert made.returncode == 0, made.stderr
    listed = keys(guarded, "list", "--uri", guarded.uri, LAKEHOUSE_TOKEN=ADMIN_TOKEN)
    assert "online" in listed.stdout
    assert made.stdout.strip().split("_")[1] in listed.stdout
    assert made.stdout.strip().split("_")[2] not in listed.stdout
    refused = keys(guarded, "list", "--uri", guarded.uri, LAKEHOUSE_USER="alice", LAKEHOUSE_PASSWORD=ALICE[1])
    assert refused.returncode == 1
    assert "PERMISSION_DENIED" in refused.stderr


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("auth.keys.create", {"name": "x", "roles": ["admin"]}),
        ("auth.keys.list", {}),
        ("auth.keys.revoke", {"id": "0" * 16}),
    ],
)
def test_only_admins_have_to_do_with_keys(guarded, name, body):
    with guarded.client() as client, pytest.raises(flight.FlightUnauthorizedError, match="PERMISSION_DENIED"):
        act(client, name, options(basic(*ALICE)), **body)


def test_keys_are_made_listed_and_revoked_by_actions(guarded):
    with guarded.client() as client:
        made = act(client, "auth.keys.create", ROOT_OPTIONS, name="k", principal="svc", roles=["writer"])
        header = f"Bearer {made['key']}"
        assert whoami(client, header) == "svc"
        assert query(client, "select 1 as x", options(header)).to_pydict() == {"x": [1]}
        listed = act(client, "auth.keys.list", ROOT_OPTIONS)["keys"]
        (found,) = [key for key in listed if key["id"] == made["id"]]
        assert (found["principal"], found["state"], found["created_by"]) == ("svc", "active", "root")
        assert found["last_used_at"] is not None
        assert made["key"].split("_")[2] not in json.dumps(listed)
        assert act(client, "auth.keys.revoke", ROOT_OPTIONS, id=made["id"]) == {"revoked": True}
        assert act(client, "auth.keys.revoke", ROOT_OPTIONS, id=made["id"]) == {"revoked": False}
        with pytest.raises(flight.FlightUnauthenticatedError):
            whoami(client, header)
        with pytest.raises(KeyError, match="API_KEY_NOT_FOUND"):
            act(client, "auth.keys.revoke", ROOT_OPTIONS, id="nope")
        with pytest.raises(pa.ArrowInvalid, match="needs roles that exist, found 'root'"):
            act(client, "auth.keys.create", ROOT_OPTIONS, name="k", roles=["root"])


def test_two_servers_on_one_bucket_know_each_others_keys(guarded, tmp_path):
    bucket = guarded.directory / "bucket"
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "bucket").symlink_to(bucket)
    second = start_server(tmp_path / "second", CONFIG, **environment())
    try:
        with guarded.client() as one, second.client() as two:
            made = act(two, "auth.keys.create", ROOT_OPTIONS, name="shared", roles=["reader"])
            assert eventually(lambda: whoami(one, f"Bearer {made['key']}")) == "shared"
    finally:
        assert second.stop() == 0


# -- clients --------------------------------------------------------------------------------------------


def test_adbc_logs_in_with_user_and_password(guarded):
    with (
        guarded.adbc(db_kwargs={"username": ALICE[0], "password": ALICE[1]}) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("create temp table adbc_mine as select 1 as x")
        cursor.execute("select x from adbc_mine")
        assert cursor.fetchall() == [(1,)]
    with pytest.raises(adbc.Error, match=r"UNAUTHENTICATED"):
        guarded.adbc(db_kwargs={"username": ALICE[0], "password": "no"})


def test_adbc_sends_a_token_with_every_call(guarded):
    name = DatabaseOptions.AUTHORIZATION_HEADER.value
    with guarded.adbc(db_kwargs={name: f"Bearer {ADMIN_TOKEN}"}) as connection, connection.cursor() as cursor:
        cursor.execute("select 1")
        assert cursor.fetchall() == [(1,)]


def test_the_client_logs_in_with_a_password_or_a_token(guarded):
    with connect(guarded.uri, user=ALICE[0], password=ALICE[1]) as client:
        assert client.actions.auth.whoami().name == "alice"
        client.execute("create temp table client_mine as select 1 as x")
        assert client.sql("select x from client_mine").table().num_rows == 1
    with connect(guarded.uri, token=ADMIN_TOKEN) as client:
        who = client.actions.auth.whoami()
        assert (who.name, who.roles, who.method) == ("root", ["admin"], "token")
        made = client.actions.auth.keys_create(name="from-client", roles=["reader"])
    with connect(guarded.uri, token=made.key) as client:
        assert client.actions.auth.whoami().name == "from-client"
        client.execute("create temp table key_mine as select 1 as x")
        assert client.sql("select x from key_mine").table().num_rows == 1


@pytest.mark.parametrize(
    "wrong", [{}, {"token": "no"}, {"user": "alice", "password": "no"}, {"user": "alice"}]
)
def test_the_client_says_in_one_line_why_it_was_not_let_in(shut, wrong):
    with pytest.raises(LakehouseClientError) as refused:
        connect(shut.uri, **wrong)
    assert refused.value.code == "UNAUTHENTICATED"
    assert "accepts a user with a password" in refused.value.message


# -- under pressure -------------------------------------------------------------------------------------


def test_guessing_is_slowed_and_who_has_logged_in_is_not_locked_out(tmp_path: Path):
    config = CONFIG.replace("failures_per_minute = 20", "failures_per_minute = 3")
    running = start_server(tmp_path / "slow", config, **environment())
    try:
        with running.client() as client:
            token = login(client, *ALICE)
            said = []
            for _ in range(6):
                with pytest.raises(flight.FlightUnauthenticatedError) as refused:
                    client.authenticate_basic_token("alice", "no")
                said.append("too many failed attempts, try again in" in str(refused.value))
            assert said[0] is False
            assert said[-1] is True
            assert whoami(client, basic(*ALICE)) == "alice"
            assert query(client, "select 1", token).num_rows == 1
            assert login(client, *ALICE)
            for _ in range(6):
                with pytest.raises(flight.FlightUnauthenticatedError) as refused:
                    whoami(client, "Bearer no")
            assert "too many failed attempts" in str(refused.value)
            assert whoami(client, f"Bearer {ADMIN_TOKEN}") == "root"
    finally:
        assert running.stop() == 0
    warnings = [json.loads(line) for line in running.log if "authentication failed" in line]
    assert {(w["user"], w["method"], w["outcome"]) for w in warnings} == {
        *itertools.product(["alice"], ["password"], ["failed", "throttled"]),
        *itertools.product([""], ["token"], ["failed", "throttled"]),
    }


def test_many_users_at_once_each_stay_who_they_are(guarded):
    def work(number: int) -> bool:
        user = (ALICE, BOB)[number % 2]
        with guarded.client() as client:
            with_ = options(basic(*user)) if number % 3 else login(client, *user)
            return all(act(client, "auth.whoami", with_)["name"] == user[0] for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(24)))


# -- certificates ---------------------------------------------------------------------------------------


def test_a_client_certificate_is_its_holder_and_passwords_come_with_every_call(tmp_path: Path):
    authority = trustme.CA()
    files = {
        name: str(tmp_path / name) for name in ("ca.pem", "server.pem", "server.key", "etl.pem", "etl.key")
    }
    authority.cert_pem.write_to_path(files["ca.pem"])
    for name, identity in (("server", "localhost"), ("etl", "etl.example.org")):
        issued = authority.issue_cert(identity)
        issued.private_key_pem.write_to_path(files[f"{name}.key"])
        issued.cert_chain_pems[0].write_to_path(files[f"{name}.pem"])
        Path(files[f"{name}.key"]).chmod(0o600)
    config = f"""{CONFIG}
[[auth.certificates]]
subject = "etl.example.org"
name = "etl"
roles = ["writer"]
[server.tls]
certificate = "{files["server.pem"]}"
key = "{files["server.key"]}"
client_authorities = "{files["ca.pem"]}"
"""
    running = start_server(tmp_path / "mutual", config, LAKEHOUSE__SERVER__HOST="localhost", **environment())
    shown = {
        "tls_root_certs": files["ca.pem"],
        "tls_client_cert": files["etl.pem"],
        "tls_client_key": files["etl.key"],
    }
    uri = f"grpc+tls://localhost:{running.port}"
    try:
        with connect(uri, **shown) as client:
            who = client.actions.auth.whoami()
            assert (who.name, who.roles, who.method) == ("etl", ["writer"], "certificate")
            assert client.sql("select 1 as x").table().num_rows == 1
        with connect(uri, user=ALICE[0], password=ALICE[1], **shown) as client:
            assert client.actions.auth.whoami().name == "alice"
            client.execute("create temp table mine as select 1 as x")
            assert client.sql("select x from mine").table().num_rows == 1
        with pytest.raises(LakehouseClientError, match="UNAUTHENTICATED"):
            connect(uri, user=ALICE[0], password="no", **shown)
        with pytest.raises(LakehouseClientError):
            connect(uri, tls_root_certs=files["ca.pem"], token=ADMIN_TOKEN)
        with pytest.raises(LakehouseClientError, match="needed together"):
            connect(uri, tls_root_certs=files["ca.pem"], tls_client_cert=files["etl.pem"])
    finally:
        assert running.stop() == 0
