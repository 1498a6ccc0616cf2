"""Bytes to commands and back: against classes that another project generated, and against hostile bytes."""

from __future__ import annotations

import base64
import importlib.util
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import adbc_driver_flightsql
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from flight_server.protocol import codec
from flight_server.protocol import commands as c
from flight_server.protocol.descriptors import FILE_DESCRIPTOR_SET_B85
from flight_server.protocol.messages import Any_, flight_class, message_class
from lakehouse.errors import InvalidRequest, LakehouseError, UnknownCommand

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "type.googleapis.com/arrow.flight.protocol.sql."


@pytest.fixture(scope="session")
def theirs() -> ModuleType:
    """The Flight SQL classes that flightsql-dbapi ships, registered in protobuf's default pool."""
    name = "flightsql_reference_pb2"
    if name in sys.modules:
        return sys.modules[name]
    installed = importlib.util.find_spec("flightsql")
    places = [Path(folder) for folder in (installed.submodule_search_locations or [])] if installed else []
    places += (ROOT / "build" / "flightsql-dbapi").glob("lib/python*/site-packages/flightsql")
    files = [place / "flightsql_pb2.py" for place in places]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        if os.environ.get("LAKEHOUSE_TEST_NO_SKIP"):
            pytest.fail("flightsql-dbapi is missing, and nothing may be skipped here")
        pytest.skip("flightsql-dbapi is not installed: make install")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def wrap(message: Any) -> bytes:
    wrapper = AnyMessage()
    wrapper.Pack(message)
    return wrapper.SerializeToString()


def unwrap(data: bytes, message: Any) -> Any:
    wrapper = AnyMessage.FromString(data)
    assert wrapper.Unpack(message), wrapper.type_url
    return message


# Each: message, fields as the other classes take them, the command expected.
COMMANDS: list[tuple[str, dict[str, Any], Any]] = [
    ("CommandStatementQuery", {"query": "SELECT 'é'"}, c.StatementQuery("SELECT 'é'")),
    ("CommandStatementQuery", {"query": "q", "transaction_id": b"t"}, c.StatementQuery("q", b"t")),
    ("CommandStatementQuery", {"query": "q", "transaction_id": b""}, c.StatementQuery("q", None)),
    ("CommandStatementUpdate", {"query": "u", "transaction_id": b"\xff"}, c.StatementUpdate("u", b"\xff")),
    (
        "CommandStatementSubstraitPlan",
        {"plan": {"plan": b"p", "version": "0.1"}, "transaction_id": b"t"},
        c.StatementSubstraitPlan(b"p", "0.1", b"t"),
    ),
    ("TicketStatementQuery", {"statement_handle": b"\x00\x01"}, c.TicketStatementQuery(b"\x00\x01")),
    ("CommandPreparedStatementQuery", {"prepared_statement_handle": b"h"}, c.PreparedStatementQuery(b"h")),
    ("CommandPreparedStatementUpdate", {"prepared_statement_handle": b"h"}, c.PreparedStatementUpdate(b"h")),
    ("CommandGetSqlInfo", {}, c.GetSqlInfo(())),
    ("CommandGetSqlInfo", {"info": [8, 0, 2**32 - 1]}, c.GetSqlInfo((8, 0, 2**32 - 1))),
    ("CommandGetXdbcTypeInfo", {}, c.GetXdbcTypeInfo(None)),
    ("CommandGetXdbcTypeInfo", {"data_type": 0}, c.GetXdbcTypeInfo(0)),
    ("CommandGetXdbcTypeInfo", {"data_type": -7}, c.GetXdbcTypeInfo(-7)),
    ("CommandGetCatalogs", {}, c.GetCatalogs()),
    ("CommandGetDbSchemas", {}, c.GetDbSchemas(None, None)),
    ("CommandGetDbSchemas", {"catalog": "", "db_schema_filter_pattern": "n%"}, c.GetDbSchemas("", "n%")),
    ("CommandGetTables", {}, c.GetTables(None, None, None, (), False)),
    (
        "CommandGetTables",
        {
            "catalog": "lake",
            "db_schema_filter_pattern": "",
            "table_name_filter_pattern": "a\\_b",
            "table_types": ["TABLE", "VIEW"],
            "include_schema": True,
        },
        c.GetTables("lake", "", "a\\_b", ("TABLE", "VIEW"), True),
    ),
    ("CommandGetTableTypes", {}, c.GetTableTypes()),
    ("CommandGetPrimaryKeys", {"table": "t"}, c.GetPrimaryKeys(None, None, "t")),
    (
        "CommandGetPrimaryKeys",
        {"catalog": "", "db_schema": "s", "table": "t"},
        c.GetPrimaryKeys("", "s", "t"),
    ),
    ("CommandGetExportedKeys", {"catalog": "c", "table": "t"}, c.GetExportedKeys("c", None, "t")),
    ("CommandGetImportedKeys", {"db_schema": "s", "table": "t"}, c.GetImportedKeys(None, "s", "t")),
    (
        "CommandGetCrossReference",
        {"pk_catalog": "c", "pk_table": "p", "fk_db_schema": "s", "fk_table": "f"},
        c.GetCrossReference("c", None, "p", None, "s", "f"),
    ),
]
IDS = [f"{name}-{place}" for place, (name, _, _) in enumerate(COMMANDS)]


@pytest.mark.parametrize(("name", "fields", "expected"), COMMANDS, ids=IDS)
def test_command_of_another_implementation_is_understood(
    theirs: ModuleType, name: str, fields: dict[str, Any], expected: Any
) -> None:
    assert codec.decode_command(wrap(getattr(theirs, name)(**fields))) == expected


@pytest.mark.parametrize(("name", "fields", "expected"), COMMANDS, ids=IDS)
def test_our_messages_have_the_bytes_of_another_implementation(
    theirs: ModuleType, name: str, fields: dict[str, Any], expected: Any
) -> None:
    ours = message_class(name)(**fields).SerializeToString(deterministic=True)
    assert ours == getattr(theirs, name)(**fields).SerializeToString(deterministic=True)


def test_every_command_is_covered() -> None:
    assert {name for name, _, _ in COMMANDS} | {"CommandStatementIngest"} == set(codec._COMMANDS)


def test_both_sets_of_classes_live_in_one_process(theirs: ModuleType) -> None:
    ours = message_class("CommandGetTables")
    assert ours is not theirs.CommandGetTables
    assert ours.DESCRIPTOR.full_name == theirs.CommandGetTables.DESCRIPTOR.full_name
    assert ours.DESCRIPTOR.file.pool is not theirs.CommandGetTables.DESCRIPTOR.file.pool


def test_fields_and_numbers_are_those_of_another_implementation(theirs: ModuleType) -> None:
    for name in [
        *codec._COMMANDS,
        *(kind.DESCRIPTOR.name for kind, wrapped, _, _ in codec._ACTIONS.values() if wrapped),
    ]:
        if not hasattr(theirs, name):
            continue
        known = {(f.name, f.number, f.type) for f in getattr(theirs, name).DESCRIPTOR.fields}
        assert known <= {(f.name, f.number, f.type) for f in message_class(name).DESCRIPTOR.fields}, name


# -- messages that came after flightsql-dbapi: the descriptors inside the ADBC driver ------------------------


@pytest.fixture(scope="module")
def driver() -> bytes:
    """The ADBC driver: Go code, which carries the protocol's file descriptors as they are on the wire."""
    return Path(adbc_driver_flightsql._driver_path()).read_bytes()


def descriptor_in(binary: bytes, name: str) -> FileDescriptorProto:
    """The file descriptor of that name, which starts with the name and ends with its syntax."""
    head = field(1, name) + field(2, "arrow.flight.protocol")[:1]
    tail = field(12, "proto3")
    start = binary.index(head)
    end = start
    for _ in range(100):
        end = binary.index(tail, end) + len(tail)
        try:
            return FileDescriptorProto.FromString(binary[start:end])
        except DecodeError:
            continue
    raise AssertionError(f"{name} was not found in the driver")


def shape(message: DescriptorProto) -> dict[str, Any]:
    """All of a message that decides its bytes, and whether a field can be told from one left out."""
    return {
        "fields": {
            (f.number, f.name, f.type, f.label, f.type_name, f.proto3_optional, f.HasField("oneof_index"))
            for f in message.field
        },
        "enums": {(e.name, v.name, v.number) for e in message.enum_type for v in e.value},
        "nested": {nested.name: shape(nested) for nested in message.nested_type},
    }


@pytest.mark.parametrize(("name", "least"), [("Flight.proto", 15), ("FlightSql.proto", 32)])
def test_every_message_is_that_of_the_adbc_driver(driver: bytes, name: str, least: int) -> None:
    theirs = descriptor_in(driver, name)
    known = {message.name: message for message in theirs.message_type}
    files = FileDescriptorSet.FromString(base64.b85decode(FILE_DESCRIPTOR_SET_B85)).file
    (ours,) = [file for file in files if file.package == theirs.package]
    assert len(ours.message_type) >= least
    for message in ours.message_type:
        assert shape(message) == shape(known[message.name]), message.name
    enums = {e.name: {v.name: v.number for v in e.value} for e in theirs.enum_type}
    for enum in ours.enum_type:
        assert {v.name: v.number for v in enum.value} == enums[enum.name]


# -- messages that the other classes do not have: bytes written by hand -----------------------------------


def field(number: int, value: bytes | str | int) -> bytes:
    """One protobuf field: a varint or a length-delimited value."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def any_of(name: str, body: bytes) -> bytes:
    return field(1, PREFIX + name) + field(2, body)


def test_ingest_is_understood_field_by_field() -> None:
    option = field(1, "key") + field(2, "value")
    body = (
        field(1, field(1, 1) + field(2, 3))
        + field(2, "t")
        + field(3, "s")
        + field(4, "c")
        + field(5, 1)
        + field(6, b"x")
        + field(1000, option)
    )
    found = codec.decode_command(any_of("CommandStatementIngest", body))
    assert found == c.StatementIngest(
        "t", "s", "c", True, b"x", c.IfNotExist.CREATE, c.IfExists.REPLACE, {"key": "value"}
    )


def test_ingest_without_options_leaves_them_unspecified() -> None:
    found = codec.decode_command(any_of("CommandStatementIngest", field(2, "t")))
    assert found == c.StatementIngest(
        "t", None, None, False, None, c.IfNotExist.UNSPECIFIED, c.IfExists.UNSPECIFIED, {}
    )


def test_ingest_with_an_option_from_the_future_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="table definition options"):
        codec.decode_command(any_of("CommandStatementIngest", field(1, field(1, 9)) + field(2, "t")))


def test_session_options_of_every_kind() -> None:
    values = {
        "text": field(1, "é"),
        "flag": field(2, 1),
        "number": b"\x19" + (-5).to_bytes(8, "little", signed=True),
        "real": b"\x21" + b"\x00\x00\x00\x00\x00\x00\xf8\x3f",
        "list": field(5, field(1, "a") + field(1, "b")),
        "nothing": b"",
    }
    body = b"".join(field(1, field(1, name) + field(2, value)) for name, value in values.items())
    found = codec.decode_action("SetSessionOptions", body)
    expected: dict[str, c.SessionOptionValue] = {
        "text": "é",
        "flag": True,
        "number": -5,
        "real": 1.5,
        "list": ("a", "b"),
        "nothing": None,
    }
    assert found == c.SetSessionOptions(expected)
    result = flight_class("GetSessionOptionsResult").FromString(codec.encode_session_options(expected))
    assert {name: codec._option_value(value) for name, value in result.session_options.items()} == expected


def test_cancel_finds_the_tickets_of_a_flight_info() -> None:
    endpoints = [flight.FlightEndpoint(ticket, []) for ticket in (b"one", b"two")]
    info = flight.FlightInfo(pa.schema([]), flight.FlightDescriptor.for_command(b"x"), endpoints, -1, -1)
    body = field(1, info.serialize())
    assert codec.decode_action("CancelFlightInfo", body) == c.CancelFlightInfo((b"one", b"two"))
    wrapped = any_of("ActionCancelQueryRequest", body)
    assert codec.decode_action("CancelQuery", wrapped) == c.CancelQuery((b"one", b"two"))


def test_renewed_endpoint_keeps_everything_but_its_expiration() -> None:
    endpoint = flight.FlightEndpoint(b"ticket", ["grpc://a:1"], app_metadata=b"meta")
    command = codec.decode_action("RenewFlightEndpoint", field(1, endpoint.serialize()))
    assert isinstance(command, c.RenewFlightEndpoint)
    assert command.ticket == b"ticket"
    until = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    renewed = flight.FlightEndpoint.deserialize(codec.encode_renewed_endpoint(command.endpoint, until))
    assert (renewed.ticket, renewed.locations, renewed.app_metadata) == (
        endpoint.ticket,
        endpoint.locations,
        endpoint.app_metadata,
    )
    assert renewed.expiration_time.as_py() == until


# -- actions ------------------------------------------------------------------------------------------------

ACTIONS: list[tuple[str, str, dict[str, Any], Any]] = [
    (
        "CreatePreparedStatement",
        "ActionCreatePreparedStatementRequest",
        {"query": "q", "transaction_id": b"t"},
        c.CreatePreparedStatement("q", b"t"),
    ),
    (
        "CreatePreparedSubstraitPlan",
        "ActionCreatePreparedSubstraitPlanRequest",
        {"plan": {"plan": b"p", "version": "1"}},
        c.CreatePreparedSubstraitPlan(b"p", "1", None),
    ),
    (
        "ClosePreparedStatement",
        "ActionClosePreparedStatementRequest",
        {"prepared_statement_handle": b"h"},
        c.ClosePreparedStatement(b"h"),
    ),
    ("BeginTransaction", "ActionBeginTransactionRequest", {}, c.BeginTransaction()),
    (
        "EndTransaction",
        "ActionEndTransactionRequest",
        {"transaction_id": b"t", "action": 1},
        c.EndTransaction(b"t", c.EndAction.COMMIT),
    ),
    (
        "BeginSavepoint",
        "ActionBeginSavepointRequest",
        {"transaction_id": b"t", "name": "n"},
        c.BeginSavepoint(b"t", "n"),
    ),
    (
        "EndSavepoint",
        "ActionEndSavepointRequest",
        {"savepoint_id": b"s", "action": 2},
        c.EndSavepoint(b"s", c.EndAction.ROLLBACK),
    ),
]


@pytest.mark.parametrize(("action", "name", "fields", "expected"), ACTIONS, ids=[row[0] for row in ACTIONS])
def test_action_of_another_implementation_is_understood(
    theirs: ModuleType, action: str, name: str, fields: dict[str, Any], expected: Any
) -> None:
    assert codec.decode_action(action, wrap(getattr(theirs, name)(**fields))) == expected


@pytest.mark.parametrize("action", ["GetSessionOptions", "CloseSession"])
def test_action_without_content_needs_no_body(action: str) -> None:
    assert type(codec.decode_action(action, b"")).__name__ == action


def test_action_of_somebody_else_is_not_decoded() -> None:
    assert codec.decode_action("catalog.list", b"\xff\xff") is None


@pytest.mark.parametrize("action", [row[0] for row in ACTIONS])
def test_action_with_the_message_of_another_is_refused(action: str) -> None:
    with pytest.raises(InvalidRequest, match=r"should be Action\w+Request, found .*CommandGetCatalogs"):
        codec.decode_action(action, any_of("CommandGetCatalogs", b""))


@pytest.mark.parametrize("action", [row[0] for row in ACTIONS])
def test_action_without_a_body_is_refused(action: str) -> None:
    with pytest.raises(InvalidRequest, match=r"found \(none\)"):
        codec.decode_action(action, b"")


@pytest.mark.parametrize("value", [0, 3, 2**31])
def test_transaction_can_only_be_committed_or_rolled_back(value: int) -> None:
    body = any_of("ActionEndTransactionRequest", field(1, b"t") + field(2, value))
    with pytest.raises(InvalidRequest, match="expected commit or rollback"):
        codec.decode_action("EndTransaction", body)


def test_announced_actions_are_decoded_by_name() -> None:
    names = [name for name, _ in codec.PROTOCOL_ACTIONS]
    assert len(names) == len(set(names))
    assert set(names) <= set(codec._ACTIONS)
    assert {"BeginSavepoint", "EndSavepoint", "CreatePreparedSubstraitPlan"}.isdisjoint(names)


# -- results ------------------------------------------------------------------------------------------------


def test_statement_ticket_is_read_by_another_implementation_and_by_us(theirs: ModuleType) -> None:
    ticket = codec.encode_statement_ticket(b"h")
    assert unwrap(ticket, theirs.TicketStatementQuery()).statement_handle == b"h"
    assert codec.decode_command(ticket) == c.TicketStatementQuery(b"h")


@pytest.mark.parametrize("rows", [-1, 0, 2**62])
def test_update_result_is_not_wrapped(theirs: ModuleType, rows: int) -> None:
    assert theirs.DoPutUpdateResult.FromString(codec.encode_update_result(rows)).record_count == rows


def test_prepared_statement_carries_schemas_that_arrow_reads(theirs: ModuleType) -> None:
    schema = pa.schema([pa.field("a", pa.int64(), False), pa.field("b", pa.list_(pa.string()))])
    data = codec.encode_prepared_statement(b"h", schema, None, is_update=False)
    found = unwrap(data, theirs.ActionCreatePreparedStatementResult())
    assert found.prepared_statement_handle == b"h"
    assert pa.ipc.read_schema(pa.py_buffer(found.dataset_schema)).equals(schema)
    assert found.parameter_schema == b""
    ours = unwrap_ours(data, "ActionCreatePreparedStatementResult")
    assert ours.HasField("is_update")
    assert not ours.is_update


def test_prepared_statement_may_leave_is_update_open() -> None:
    data = codec.encode_prepared_statement(b"h", None, None, is_update=None)
    assert not unwrap_ours(data, "ActionCreatePreparedStatementResult").HasField("is_update")


def unwrap_ours(data: bytes, name: str) -> Any:
    wrapper = Any_.FromString(data)
    assert wrapper.type_url == PREFIX + name
    return message_class(name).FromString(wrapper.value)


def test_transaction_and_cancel_results_are_read_by_another_implementation(theirs: ModuleType) -> None:
    begun = unwrap(codec.encode_begin_transaction(b"t"), theirs.ActionBeginTransactionResult())
    assert begun.transaction_id == b"t"
    cancelled = unwrap(
        codec.encode_cancel_query(codec.CancelStatus.CANCELLING), theirs.ActionCancelQueryResult()
    )
    assert cancelled.result == theirs.ActionCancelQueryResult.CANCEL_RESULT_CANCELLING


def test_flight_level_results_are_not_wrapped() -> None:
    assert codec.encode_cancel_flight_info(codec.CancelStatus.CANCELLED) == field(1, 1)
    assert codec.encode_close_session(codec.CloseStatus.CLOSED) == field(1, 1)
    errors = codec.encode_set_session_options({"x": codec.SessionOptionError.INVALID_VALUE})
    assert errors == field(1, field(1, "x") + field(2, field(1, 2)))


# -- hostile bytes ------------------------------------------------------------------------------------------


def decodes_or_refuses(decode: Callable[[], Any]) -> None:
    """Anything but an error that may be shown to a client fails the test."""
    refusal: LakehouseError | None = None
    try:
        decode()
    except LakehouseError as error:
        refusal = error
    if refusal is not None:
        assert str(refusal).isprintable()
        assert len(str(refusal)) < 1500


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_garbage_never_breaks_the_decoder(data: bytes) -> None:
    decodes_or_refuses(lambda: codec.decode_command(data))
    for action in codec._ACTIONS:
        decodes_or_refuses(partial(codec.decode_action, action, data))


@settings(deadline=None)
@given(st.sampled_from([*codec._COMMANDS]), st.binary(max_size=200))
def test_garbage_in_a_message_never_breaks_the_decoder(name: str, body: bytes) -> None:
    decodes_or_refuses(lambda: codec.decode_command(any_of(name, body)))


def test_truncated_command_never_breaks_the_decoder() -> None:
    whole = any_of("CommandGetTables", field(1, "lake") + field(3, "a%") + field(4, "TABLE") + field(5, 1))
    for length in range(len(whole)):
        decodes_or_refuses(partial(codec.decode_command, whole[:length]))
    with pytest.raises(InvalidRequest):
        codec.decode_command(whole[:-1])


def test_nothing_is_no_command() -> None:
    with pytest.raises(UnknownCommand, match=r"\(none\)"):
        codec.decode_command(b"")


@pytest.mark.parametrize("data", [b"SELECT 1", b"\xff" * 20, b'{"path": ["a"]}', b"\x0a\xff"])
def test_other_bytes_are_no_command(data: bytes) -> None:
    with pytest.raises((InvalidRequest, UnknownCommand)):
        codec.decode_command(data)


@pytest.mark.parametrize(
    "url",
    [
        PREFIX + "CommandDropEverything",
        PREFIX + "DoPutUpdateResult",
        PREFIX + "ActionBeginTransactionRequest",
        "type.googleapis.com/google.protobuf.Any",
        "type.googleapis.com/somebody.elses.CommandGetCatalogs",
        "x" * 10_000,
    ],
)
def test_unknown_message_is_named_and_refused(url: str) -> None:
    with pytest.raises(UnknownCommand) as caught:
        codec.decode_command(field(1, url))
    assert len(caught.value.message) < 200


def test_name_of_an_unknown_message_cannot_forge_a_line_of_the_log() -> None:
    with pytest.raises(UnknownCommand) as caught:
        codec.decode_command(field(1, 'x\n{"level": "info"}\x1b[2J\u202e'))
    assert str(caught.value).isprintable()


def test_any_prefix_of_the_type_is_accepted() -> None:
    url = "arrow.flight.protocol.sql.CommandGetCatalogs"
    for prefix in ("type.googleapis.com/", "example.org/types/", "/"):
        assert codec.decode_command(field(1, prefix + url)) == c.GetCatalogs()


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="CommandStatementQuery"):
        codec.decode_command(any_of("CommandStatementQuery", field(1, b"\xff\xfe")))


def test_deep_nesting_is_refused() -> None:
    nested = b""
    for _ in range(2000):
        nested = varint(15 << 3 | 3) + nested + varint(15 << 3 | 4)  # groups in groups
    with pytest.raises(InvalidRequest):
        codec.decode_command(any_of("CommandGetCatalogs", nested))
    with pytest.raises(InvalidRequest):
        codec.decode_action("CloseSession", nested)


def test_fields_from_the_future_are_ignored() -> None:
    assert codec.decode_command(any_of("CommandGetCatalogs", field(99, "new"))) == c.GetCatalogs()


def test_last_of_repeated_values_counts_as_protobuf_says() -> None:
    body = field(1, "first") + field(1, "second")
    assert codec.decode_command(any_of("CommandStatementQuery", body)) == c.StatementQuery("second")
