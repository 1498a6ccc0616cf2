"""Flight SQL messages for tests that speak the protocol by hand."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from flight_server.protocol.messages import Any_, flight_class, message_class


def command(name: str, /, **fields: Any) -> flight.FlightDescriptor:
    """A descriptor of a Flight SQL command."""
    return flight.FlightDescriptor.for_command(wrapped(name, **fields))


def wrapped(name: str, /, **fields: Any) -> bytes:
    """A Flight SQL message in an Any."""
    message = message_class(name)(**fields)
    url = f"type.googleapis.com/arrow.flight.protocol.sql.{name}"
    return Any_(type_url=url, value=message.SerializeToString()).SerializeToString()


def query(client: flight.FlightClient, sql: str, options: Any = None, **fields: Any) -> pa.Table:
    """The rows of a statement."""
    info = client.get_flight_info(command("CommandStatementQuery", query=sql, **fields), options)
    return client.do_get(info.endpoints[0].ticket, options).read_all()


def put(
    client: flight.FlightClient, descriptor: flight.FlightDescriptor, rows: pa.Table, options: Any = None
) -> int:
    """Send rows; gives how many were changed."""
    writer, reader = client.do_put(descriptor, rows.schema, options)
    with writer:
        writer.write_table(rows)
        writer.done_writing()
        return int(message_class("DoPutUpdateResult").FromString(reader.read().to_pybytes()).record_count)


def action(
    client: flight.FlightClient, kind: str, message: str, options: Any = None, /, **fields: Any
) -> list[bytes]:
    """Results of a protocol action whose body travels in an Any."""
    return [
        r.body.to_pybytes()
        for r in client.do_action(flight.Action(kind, wrapped(message, **fields)), options)
    ]


def bare_action(client: flight.FlightClient, name: str, body: Any, options: Any = None) -> list[bytes]:
    """Results of a protocol action whose body travels bare."""
    return [
        r.body.to_pybytes() for r in client.do_action(flight.Action(name, body.SerializeToString()), options)
    ]


def unwrapped(data: bytes, name: str) -> Any:
    """The message of that name inside an Any."""
    message = message_class(name)()
    message.ParseFromString(Any_.FromString(data).value)
    return message


def bare(data: bytes, name: str) -> Any:
    """A message of the Flight package."""
    return flight_class(name).FromString(data)


def call(client: flight.FlightClient, name: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """The final result of a custom action."""
    results = list(client.do_action(flight.Action(name, json.dumps(request or {}).encode())))
    decoded: dict[str, Any] = json.loads(results[-1].body.to_pybytes())
    return decoded


def cookie_options(session: str) -> flight.FlightCallOptions:
    """Call options that present a session cookie."""
    return flight.FlightCallOptions(headers=[(b"cookie", f"arrow_flight_session_id={session}".encode())])
