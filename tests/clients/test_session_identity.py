"""Two users behind one address never share a session, nor anything that belongs to one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from argon2 import PasswordHasher
from callers import start_guarded, token
from conftest import Server, need
from doors import Credential, Door
from logins import BUILD, JDBC_VERSIONS, Login, seen_by_other_jdbc
from wire import action, bare, bare_action, command, query, unwrapped

from flight_server.protocol.messages import flight_class

PASSWORD = "the same for both"
CONFIG = """
[[auth.users]]
name = "alice"
roles = ["writer"]
password_hash = { env = "HASH" }

[[auth.users]]
name = "bob"
roles = ["writer"]
password_hash = { env = "HASH" }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two users who may do the same."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    names = {"alice": ["writer"], "bob": ["writer"]}
    running = start_guarded(tmp_path_factory.mktemp("identity"), CONFIG, names, HASH=cheap)
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


@dataclass(frozen=True)
class Neighbours:
    """Two users on one connection, and things of the first."""

    client: flight.FlightClient
    alice: flight.FlightCallOptions
    bob: flight.FlightCallOptions
    info: flight.FlightInfo
    prepared: bytes
    transaction: bytes


@pytest.fixture
def neighbours(server: Server) -> Iterator[Neighbours]:
    with server.client() as client:
        alice, bob = (
            flight.FlightCallOptions(headers=[client.authenticate_basic_token(name, PASSWORD)], timeout=30)
            for name in ("alice", "bob")
        )
        (made,) = action(
            client,
            "CreatePreparedStatement",
            "ActionCreatePreparedStatementRequest",
            alice,
            query="SELECT 7 AS x",
        )
        (begun,) = action(client, "BeginTransaction", "ActionBeginTransactionRequest", alice)
        yield Neighbours(
            client,
            alice,
            bob,
            client.get_flight_info(command("CommandStatementQuery", query="SELECT 7 AS x"), alice),
            unwrapped(made, "ActionCreatePreparedStatementResult").prepared_statement_handle,
            unwrapped(begun, "ActionBeginTransactionResult").transaction_id,
        )


def fetch(at: Neighbours, who: flight.FlightCallOptions) -> Any:
    return at.client.do_get(at.info.endpoints[0].ticket, who).read_all()


def cancel(at: Neighbours, who: flight.FlightCallOptions) -> Any:
    request = flight_class("CancelFlightInfoRequest")()
    request.info.ParseFromString(at.info.serialize())
    return bare_action(at.client, "CancelFlightInfo", request, who)


def cancel_query(at: Neighbours, who: flight.FlightCallOptions) -> Any:
    return action(at.client, "CancelQuery", "ActionCancelQueryRequest", who, info=at.info.serialize())


def renew(at: Neighbours, who: flight.FlightCallOptions) -> Any:
    request = flight_class("RenewFlightEndpointRequest")()
    request.endpoint.ParseFromString(at.info.endpoints[0].serialize())
    (renewed,) = bare_action(at.client, "RenewFlightEndpoint", request, who)
    return bare(renewed, "FlightEndpoint")


def run_prepared(at: Neighbours, who: flight.FlightCallOptions) -> Any:
    descriptor = command("CommandPreparedStatementQuery", prepared_statement_handle=at.prepared)
    info = at.client.get_flight_info(descriptor, who)
    return at.client.do_get(info.endpoints[0].ticket, who).read_all()


def schema_of_prepared(at: Neighbours, who: flight.FlightCallOptions) -> Any:
    descriptor = command("CommandPreparedStatementQuery", prepared_statement_handle=at.prepared)
    return at.client.get_schema(descriptor, who)


def read_in_transaction(at: Neighbours, who: flight.FlightCallOptions) -> Any:
    return query(at.client, "SELECT 7 AS x", who, transaction_id=at.transaction)


def end_transaction(at: Neighbours, who: flight.FlightCallOptions) -> Any:
    fields: dict[str, Any] = {"transaction_id": at.transaction, "action": 2}
    return action(at.client, "EndTransaction", "ActionEndTransactionRequest", who, **fields)


USES: dict[str, Callable[[Neighbours, flight.FlightCallOptions], Any]] = {
    "fetch a result": fetch,
    "cancel a statement": cancel,
    "cancel a statement as older clients do": cancel_query,
    "renew a result": renew,
    "run a prepared statement": run_prepared,
    "ask for the columns of a prepared statement": schema_of_prepared,
    "read in a transaction": read_in_transaction,
    "end a transaction": end_transaction,
}


@pytest.mark.parametrize("use", USES)
def test_what_belongs_to_one_user_is_not_there_for_another(neighbours: Neighbours, use: str) -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowKeyError), match=r"NOT_FOUND|unknown") as refused:
        USES[use](neighbours, neighbours.bob)
    assert "alice" not in str(refused.value)
    # It is still there for its owner, whatever the other tried.
    USES[use](neighbours, neighbours.alice)


def test_closing_the_prepared_statement_of_another_leaves_it_open(neighbours: Neighbours) -> None:
    fields = {"prepared_statement_handle": neighbours.prepared}
    kind = "ActionClosePreparedStatementRequest"
    action(neighbours.client, "ClosePreparedStatement", kind, neighbours.bob, **fields)
    assert run_prepared(neighbours, neighbours.alice).to_pylist() == [{"x": 7}]


def adbc_connection(server: Server, name: str, way: str) -> adbc.Connection:
    if way == "password":
        options = {"username": name, "password": PASSWORD}
    else:
        options = {"adbc.flight.sql.authorization_header": f"Bearer {token(name)}"}
    return adbc.connect(server.uri, db_kwargs=options, autocommit=True)


@pytest.mark.parametrize("way", ["password", "token"])
def test_adbc_without_cookies_keeps_users_apart(server: Server, way: str) -> None:
    with (
        adbc_connection(server, "alice", way) as alices,
        adbc_connection(server, "bob", way) as bobs,
        alices.cursor() as alice,
        bobs.cursor() as bob,
    ):
        alice.execute("CREATE TEMP TABLE hers AS SELECT 7 AS x")
        alice.execute("SELECT x, current_user FROM hers")
        assert alice.fetchall() == [(7, "alice")]
        with pytest.raises(adbc.Error, match="TABLE_NOT_FOUND"):
            bob.execute("SELECT x FROM hers")
        bob.execute("SELECT current_user")
        assert bob.fetchall() == [("bob",)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", JDBC_VERSIONS)
def test_jdbc_with_cookies_keeps_users_apart(server: Server, version: str) -> None:
    java, jar = need("java"), BUILD / "jdbc" / f"flight-sql-jdbc-driver-{version}.jar"
    if not jar.is_file() and not os.environ.get("LAKEHOUSE_TEST_NO_SKIP"):
        pytest.skip(f"make jdbc has not made {jar.name}")
    door = Door(server.port, None)
    pairs: dict[str, tuple[Login, Login]] = {}
    for way in ("password", "bearer"):
        secrets = [PASSWORD] * 2 if way == "password" else [token("alice"), token("bob")]
        alice, bob = (
            Login(name, door, way, Credential(name, secret))
            for name, secret in zip(("alice", "bob"), secrets, strict=True)
        )
        pairs[way] = (alice, bob)
    seen = seen_by_other_jdbc(java, BUILD / "jdbc" / "classes", jar, pairs)
    for way in pairs:
        assert seen[way].error == ""
        assert "TABLE_NOT_FOUND" in seen[way].principal
