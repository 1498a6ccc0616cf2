"""Bytes ↔ typed commands and results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any

import pyarrow as pa
from google.protobuf.message import DecodeError

from flight_server.protocol import commands as c
from flight_server.protocol.messages import SQL_PACKAGE, Any_, flight_class, message_class
from lakehouse.errors import InvalidRequest, UnknownCommand

_TYPE_PREFIX = "type.googleapis.com/" + SQL_PACKAGE + "."


class CancelStatus(Enum):
    """Outcome of a cancellation, in the numbers of both cancel results."""

    UNSPECIFIED = 0
    CANCELLED = 1
    CANCELLING = 2
    NOT_CANCELLABLE = 3


class CloseStatus(Enum):
    """Outcome of CloseSession."""

    UNSPECIFIED = 0
    CLOSED = 1
    CLOSING = 2
    NOT_CLOSEABLE = 3


class SessionOptionError(Enum):
    """Why a session option was not set."""

    UNSPECIFIED = 0
    INVALID_NAME = 1
    INVALID_VALUE = 2
    ERROR = 3


def _transaction(message: Any) -> bytes | None:
    return message.transaction_id or None


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _ingest(m: Any) -> c.StatementIngest:
    options = m.table_definition_options
    try:
        if_not_exist, if_exists = c.IfNotExist(options.if_not_exist), c.IfExists(options.if_exists)
    except ValueError as error:
        raise InvalidRequest("the table definition options are unknown") from error
    return c.StatementIngest(
        m.table,
        m.schema or None,
        m.catalog or None,
        m.temporary,
        _transaction(m),
        if_not_exist,
        if_exists,
        dict(m.options),
    )


def _tables(m: Any) -> c.GetTables:
    return c.GetTables(
        _optional(m, "catalog"),
        _optional(m, "db_schema_filter_pattern"),
        _optional(m, "table_name_filter_pattern"),
        tuple(m.table_types),
        m.include_schema,
    )


def _keys(kind: Callable[[str | None, str | None, str], Any]) -> Callable[[Any], Any]:
    return lambda m: kind(_optional(m, "catalog"), _optional(m, "db_schema"), m.table)


_COMMANDS: dict[str, Callable[[Any], Any]] = {
    "CommandStatementQuery": lambda m: c.StatementQuery(m.query, _transaction(m)),
    "CommandStatementUpdate": lambda m: c.StatementUpdate(m.query, _transaction(m)),
    "CommandStatementSubstraitPlan": lambda m: c.StatementSubstraitPlan(
        m.plan.plan, m.plan.version, _transaction(m)
    ),
    "TicketStatementQuery": lambda m: c.TicketStatementQuery(m.statement_handle),
    "CommandPreparedStatementQuery": lambda m: c.PreparedStatementQuery(m.prepared_statement_handle),
    "CommandPreparedStatementUpdate": lambda m: c.PreparedStatementUpdate(m.prepared_statement_handle),
    "CommandStatementIngest": _ingest,
    "CommandGetSqlInfo": lambda m: c.GetSqlInfo(tuple(m.info)),
    "CommandGetXdbcTypeInfo": lambda m: c.GetXdbcTypeInfo(_optional(m, "data_type")),
    "CommandGetCatalogs": lambda _: c.GetCatalogs(),
    "CommandGetDbSchemas": lambda m: c.GetDbSchemas(
        _optional(m, "catalog"), _optional(m, "db_schema_filter_pattern")
    ),
    "CommandGetTables": _tables,
    "CommandGetTableTypes": lambda _: c.GetTableTypes(),
    "CommandGetPrimaryKeys": _keys(c.GetPrimaryKeys),
    "CommandGetExportedKeys": _keys(c.GetExportedKeys),
    "CommandGetImportedKeys": _keys(c.GetImportedKeys),
    "CommandGetCrossReference": lambda m: c.GetCrossReference(
        _optional(m, "pk_catalog"),
        _optional(m, "pk_db_schema"),
        m.pk_table,
        _optional(m, "fk_catalog"),
        _optional(m, "fk_db_schema"),
        m.fk_table,
    ),
}
_COMMAND_CLASSES = {name: message_class(name) for name in _COMMANDS}


def decode_command(data: bytes) -> Any:
    """The typed command in the bytes of a descriptor or ticket.

    Raises:
        InvalidRequest: The bytes are not a protobuf Any, or its content is malformed.
        UnknownCommand: The Any holds a message that is no Flight SQL command.
    """
    wrapper = Any_()
    try:
        wrapper.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequest("expected a Flight SQL command (a protobuf Any), found other bytes") from error
    name = _message_name(wrapper.type_url)
    build = _COMMANDS.get(name)
    if build is None:
        raise UnknownCommand(f"the message {_shown(name)} is no Flight SQL command")
    return build(_parse(_COMMAND_CLASSES[name], wrapper.value, name))


def _shown(name: str) -> str:
    """What a client sent as a name, fit for one line of an error message."""
    return ascii(name[:100])[1:-1] or "(none)"


def _message_name(type_url: str) -> str:
    full = type_url.rpartition("/")[2]
    return full[len(SQL_PACKAGE) + 1 :] if full.startswith(SQL_PACKAGE + ".") else full


def _parse(kind: Any, data: bytes, name: str) -> Any:
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"the body of {name} is malformed") from error
    return message


# -- actions --------------------------------------------------------------------------------------------


def _end(value: int, what: str) -> c.EndAction:
    try:
        return c.EndAction(value)
    except ValueError as error:
        raise InvalidRequest(f"{what}: expected commit or rollback") from error


def _tickets(info: Any) -> tuple[bytes, ...]:
    return tuple(endpoint.ticket.ticket for endpoint in info.endpoint)


def _cancel_query(m: Any) -> c.CancelQuery:
    return c.CancelQuery(_tickets(_parse(flight_class("FlightInfo"), m.info, "CancelQuery")))


def _option_value(value: Any) -> c.SessionOptionValue:
    which = value.WhichOneof("option_value")
    if which is None:
        return None
    if which == "string_list_value":
        return tuple(value.string_list_value.values)
    found: c.SessionOptionValue = getattr(value, which)
    return found


# Each: message class, whether it travels in an Any, how to build the command, what ListActions says.
_ACTIONS: dict[str, tuple[Any, bool, Callable[[Any], Any], str]] = {
    "CreatePreparedStatement": (
        message_class("ActionCreatePreparedStatementRequest"),
        True,
        lambda m: c.CreatePreparedStatement(m.query, _transaction(m)),
        "Create a prepared statement from a SQL query",
    ),
    "CreatePreparedSubstraitPlan": (
        message_class("ActionCreatePreparedSubstraitPlanRequest"),
        True,
        lambda m: c.CreatePreparedSubstraitPlan(m.plan.plan, m.plan.version, _transaction(m)),
        "Not supported: send SQL",
    ),
    "ClosePreparedStatement": (
        message_class("ActionClosePreparedStatementRequest"),
        True,
        lambda m: c.ClosePreparedStatement(m.prepared_statement_handle),
        "Close a prepared statement",
    ),
    "BeginTransaction": (
        message_class("ActionBeginTransactionRequest"),
        True,
        lambda _: c.BeginTransaction(),
        "Open a transaction",
    ),
    "EndTransaction": (
        message_class("ActionEndTransactionRequest"),
        True,
        lambda m: c.EndTransaction(m.transaction_id, _end(m.action, "EndTransaction")),
        "Commit or roll back a transaction",
    ),
    "BeginSavepoint": (
        message_class("ActionBeginSavepointRequest"),
        True,
        lambda m: c.BeginSavepoint(m.transaction_id, m.name),
        "Not supported: use transactions",
    ),
    "EndSavepoint": (
        message_class("ActionEndSavepointRequest"),
        True,
        lambda m: c.EndSavepoint(m.savepoint_id, _end(m.action, "EndSavepoint")),
        "Not supported: use transactions",
    ),
    "CancelQuery": (
        message_class("ActionCancelQueryRequest"),
        True,
        _cancel_query,
        "Cancel a running statement (deprecated: use CancelFlightInfo)",
    ),
    "CancelFlightInfo": (
        flight_class("CancelFlightInfoRequest"),
        False,
        lambda m: c.CancelFlightInfo(_tickets(m.info)),
        "Cancel a running statement",
    ),
    "RenewFlightEndpoint": (
        flight_class("RenewFlightEndpointRequest"),
        False,
        lambda m: c.RenewFlightEndpoint(m.endpoint.ticket.ticket, m.endpoint.SerializeToString()),
        "Let a result wait longer to be fetched",
    ),
    "SetSessionOptions": (
        flight_class("SetSessionOptionsRequest"),
        False,
        lambda m: c.SetSessionOptions({k: _option_value(v) for k, v in m.session_options.items()}),
        "Set options of the session",
    ),
    "GetSessionOptions": (
        flight_class("GetSessionOptionsRequest"),
        False,
        lambda _: c.GetSessionOptions(),
        "The options of the session",
    ),
    "CloseSession": (
        flight_class("CloseSessionRequest"),
        False,
        lambda _: c.CloseSession(),
        "Close the session: roll back, drop temporary tables",
    ),
}
_UNANNOUNCED = frozenset({"CreatePreparedSubstraitPlan", "BeginSavepoint", "EndSavepoint"})
PROTOCOL_ACTIONS: tuple[tuple[str, str], ...] = tuple(
    (name, text) for name, (_, _, _, text) in _ACTIONS.items() if name not in _UNANNOUNCED
)
"""Name and description of the protocol actions that work, for ListActions."""


def decode_action(name: str, body: bytes) -> Any | None:
    """The typed command of a protocol action; ``None`` where the action is not one of the protocol's.

    Raises:
        InvalidRequest: The body is malformed.
    """
    found = _ACTIONS.get(name)
    if found is None:
        return None
    kind, wrapped, build, _ = found
    if wrapped:
        wrapper = _parse(Any_, body, name)
        expected = kind.DESCRIPTOR.name
        if _message_name(wrapper.type_url) != expected:
            raise InvalidRequest(f"the body of {name} should be {expected}, found {_shown(wrapper.type_url)}")
        body = wrapper.value
    return build(_parse(kind, body, name))


# -- results --------------------------------------------------------------------------------------------


def _wrapped(message: Any) -> bytes:
    wrapper = Any_(type_url=_TYPE_PREFIX + message.DESCRIPTOR.name, value=message.SerializeToString())
    return wrapper.SerializeToString()


def encode_statement_ticket(handle: bytes) -> bytes:
    """The ticket of a planned statement."""
    return _wrapped(message_class("TicketStatementQuery")(statement_handle=handle))


def encode_update_result(rows: int) -> bytes:
    """DoPutUpdateResult, bare: the number of rows affected."""
    result: bytes = message_class("DoPutUpdateResult")(record_count=rows).SerializeToString()
    return result


def encode_prepared_statement(
    handle: bytes,
    dataset_schema: pa.Schema | None,
    parameter_schema: pa.Schema | None,
    *,
    is_update: bool | None,
) -> bytes:
    """ActionCreatePreparedStatementResult; a schema left out is sent empty."""
    result = message_class("ActionCreatePreparedStatementResult")(prepared_statement_handle=handle)
    if dataset_schema is not None:
        result.dataset_schema = dataset_schema.serialize().to_pybytes()
    if parameter_schema is not None:
        result.parameter_schema = parameter_schema.serialize().to_pybytes()
    if is_update is not None:
        result.is_update = is_update
    return _wrapped(result)


def encode_begin_transaction(transaction_id: bytes) -> bytes:
    """ActionBeginTransactionResult."""
    return _wrapped(message_class("ActionBeginTransactionResult")(transaction_id=transaction_id))


def encode_cancel_query(status: CancelStatus) -> bytes:
    """ActionCancelQueryResult."""
    return _wrapped(message_class("ActionCancelQueryResult")(result=status.value))


def encode_cancel_flight_info(status: CancelStatus) -> bytes:
    """CancelFlightInfoResult, bare."""
    result: bytes = flight_class("CancelFlightInfoResult")(status=status.value).SerializeToString()
    return result


def encode_renewed_endpoint(endpoint: bytes, expiration: datetime) -> bytes:
    """The FlightEndpoint as it came, with its new expiration time."""
    message = _parse(flight_class("FlightEndpoint"), endpoint, "FlightEndpoint")
    message.expiration_time.FromDatetime(expiration)
    result: bytes = message.SerializeToString()
    return result


def encode_set_session_options(errors: Mapping[str, SessionOptionError]) -> bytes:
    """SetSessionOptionsResult, bare: only the names that failed."""
    result = flight_class("SetSessionOptionsResult")()
    for name, error in errors.items():
        result.errors[name].value = error.value
    encoded: bytes = result.SerializeToString()
    return encoded


def encode_session_options(options: Mapping[str, c.SessionOptionValue]) -> bytes:
    """GetSessionOptionsResult, bare."""
    result = flight_class("GetSessionOptionsResult")()
    for name, value in options.items():
        target = result.session_options[name]
        if isinstance(value, bool):
            target.bool_value = value
        elif isinstance(value, int):
            target.int64_value = value
        elif isinstance(value, float):
            target.double_value = value
        elif isinstance(value, tuple):
            target.string_list_value.values.extend(value)
        elif value is not None:
            target.string_value = value
    encoded: bytes = result.SerializeToString()
    return encoded


def encode_close_session(status: CloseStatus) -> bytes:
    """CloseSessionResult, bare."""
    result: bytes = flight_class("CloseSessionResult")(status=status.value).SerializeToString()
    return result
