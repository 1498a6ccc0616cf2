"""Servers that know their callers by tokens, and callers, each on a connection of its own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
from conftest import Server, start_server
from wire import command, put


def token(name: str) -> str:
    """What a principal presents."""
    return f"{name}-" + "0123456789abcdef" * 3


def presenting(secret: str) -> flight.FlightCallOptions:
    """Call options that present a token."""
    return flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {secret}".encode())])


def start_guarded(
    directory: Path,
    config: str,
    principals: Iterable[str] | Mapping[str, Sequence[str]],
    **environment: str,
) -> Server:
    """Start a server with a token for each principal.

    Args:
        directory: Where it keeps its files.
        config: Everything but the tokens.
        principals: Names with roles, or only names: each holds the role of that name then, and nobody none.
        environment: What is set besides the tokens.
    """
    if not isinstance(principals, Mapping):
        principals = {name: [] if name == "nobody" else [name] for name in principals}
    lines = [config]
    for name, roles in principals.items():
        lines += ["[[auth.tokens]]", f'name = "{name}"', f"roles = {json.dumps(roles)}"]
        lines += [f'token = {{ env = "T_{name}" }}']
    tokens = {f"T_{name}": token(name) for name in principals}
    return start_server(directory, "\n".join(lines), **environment, **tokens)


class Caller:
    """A principal of such a server.

    Attributes:
        server: It.
        client: The connection.
        options: What its calls have to be made with.
    """

    def __init__(self, server: Server, name: str = "admin") -> None:
        self.server = server
        self.client = server.client()
        self.options = presenting(token(name))
        self._name = name

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def adbc(self) -> adbc.Connection:
        """An ADBC connection of the same principal, in autocommit mode."""
        header = {"adbc.flight.sql.authorization_header": f"Bearer {token(self._name)}"}
        return self.server.adbc(db_kwargs=header)

    # -- flights --------------------------------------------------------------------------------------

    def read(self, descriptor: flight.FlightDescriptor) -> pa.Table:
        """The rows of a flight, of all its endpoints."""
        info = self.client.get_flight_info(descriptor, self.options)
        return pa.concat_tables([self.redeem(each.ticket.ticket) for each in info.endpoints])

    def redeem(self, ticket: bytes) -> pa.Table:
        """The rows behind a ticket."""
        return self.client.do_get(flight.Ticket(ticket), self.options).read_all()

    def sql(self, text: str, **fields: Any) -> pa.Table:
        """The rows of a statement."""
        return self.read(command("CommandStatementQuery", query=text, **fields))

    def ids(self, text: str) -> list[int]:
        """The column ``id`` of the rows of a statement."""
        return list(self.sql(text)["id"].to_pylist())

    def write(self, descriptor: flight.FlightDescriptor, rows: pa.Table) -> int:
        """Send rows; gives how many were changed."""
        return put(self.client, descriptor, rows, self.options)

    def fill(self, table: str, rows: pa.Table) -> None:
        """Make a table, named with its schema, of rows; one of that name is replaced."""
        schema, _, name = table.partition(".")
        how = {"if_not_exist": 1, "if_exists": 3}
        self.write(
            command("CommandStatementIngest", table=name, schema=schema, table_definition_options=how), rows
        )

    # -- actions --------------------------------------------------------------------------------------

    def act(self, name: str, body: bytes) -> list[bytes]:
        """The results of any action."""
        return [r.body.to_pybytes() for r in self.client.do_action(flight.Action(name, body), self.options)]

    def stream(self, name: str, /, **request: Any) -> Iterator[dict[str, Any]]:
        """The results of a custom action, as they come."""
        action = flight.Action(name, json.dumps(request).encode())
        return (json.loads(r.body.to_pybytes()) for r in self.client.do_action(action, self.options))

    def results(self, name: str, /, **request: Any) -> list[dict[str, Any]]:
        """All results of a custom action: how far it was, and then what came of it."""
        return list(self.stream(name, **request))

    def call(self, name: str, /, **request: Any) -> dict[str, Any]:
        """What came of a custom action."""
        return self.results(name, **request)[-1]

    def fetch(self, name: str, /, **request: Any) -> tuple[dict[str, Any], pa.Table]:
        """What came of an action, and the rows behind its ticket, which are as many as it says."""
        told = self.call(name, **request)
        rows = self.redeem(base64.b64decode(told["ticket"]))
        assert told["rows"] == rows.num_rows
        return told, rows

    def search(self, index: str, vectors: Any = None, **request: Any) -> tuple[dict[str, Any], pa.Table]:
        """What is said of a search of a vector index, and what it finds."""
        if vectors is not None:
            request["vectors"] = np.asarray(vectors).tolist()
        told, rows = self.fetch("vectors.search", index=index, **request)
        assert rows.schema.metadata[b"vectors.way"].decode() == told["way"]
        return told, rows
