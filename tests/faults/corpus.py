"""Requests made at random from a seed: the same seed, family and number give the same request.

Half of them are right but for a few bytes, for what is all wrong is refused at the first look.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from faults.raw_flight import (
    METHODS,
    Message,
    action,
    chunk,
    command_descriptor,
    ingest,
    messages,
    path_descriptor,
    ticket,
    upload,
    varint,
)
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtobufMessage

from flight_server.protocol.messages import Any_, flight_class, message_class

_SQL_MESSAGES = sorted(message_class("CommandGetTables").DESCRIPTOR.file.message_types_by_name)
_FLIGHT_MESSAGES = sorted(flight_class("FlightInfo").DESCRIPTOR.file.message_types_by_name)
MESSAGES = (*_SQL_MESSAGES, *_FLIGHT_MESSAGES)
_ACTIONS = (
    "CreatePreparedStatement CreatePreparedSubstraitPlan ClosePreparedStatement BeginTransaction "
    "EndTransaction BeginSavepoint EndSavepoint CancelQuery CancelFlightInfo RenewFlightEndpoint "
    "SetSessionOptions GetSessionOptions CloseSession server.status actions.describe catalog.snapshots "
    "catalog.declare_keys samples.load admin.sessions admin.statements auth.create_key auth.keys nothing"
).split()
_WORDS = (
    "select from where group by having order limit offset with recursive as union all intersect except "
    "values insert into update set delete merge using when matched then not null create temp table view "
    "drop alter describe summarize show explain analyze pragma copy attach detach install load call "
    "export import case end cast try_cast between in like ilike is and or exists any over partition rows "
    "range unbounded preceding join left right full cross lateral asof natural on distinct qualify sample "
    "pivot unpivot at version timestamp prepare execute deallocate checkpoint vacuum begin commit "
    "rollback use reset honest k s t 1 0 -1 1e400 9223372036854775808 0.1 'x' '' 'é' \"q\" null true ? $1 "
    "$name :n * ( ) [ ] { } , ; . :: -> ->> || + - / % ^ & | << >> = <> < <= ~ ! @ # \\ ' \" -- /* */ $$ "
    "sum count avg range unnest struct_pack list_transform map regexp_matches repeat getvariable "
    "current_setting query query_table read_csv read_parquet glob information_schema.tables "
    "duckdb_tables() system.sessions interval date epoch json"
).split()
_STATEMENTS = (
    "select k, s from honest where k between 1 and 100 order by k limit 10",
    "select s, sum(k) over (partition by k % 3 order by k) from honest qualify row_number() over () < 5",
    "with a as (select * from honest), b as (select k from a) select count(*) from b join a using (k)",
    "create temp table t as select range as x from range(100)",
    "select {'a': [1, 2, {'b': null}]} as v, map {'k': 1} as m, [x for x in range(10)] as l",
    "pivot (select k % 4 as m, k from honest) on m using sum(k)",
    "select * from honest at (version => 1)",
    "explain analyze select count(*) from honest",
    "merge into t using (select 1 as x) n on t.x = n.x when matched then delete",
    "select ?::int + $1, cast(? as date)",
)
_TEXTS = (
    "",
    "honest",
    "%",
    "_",
    "\\",
    "lake",
    "main",
    "TABLE",
    "a" * 5000,
    "é💡",
    "\0",
    "\n",
    "'; --",
    "../..",
    "*",
)
_NUMBERS = (0, 1, -1, 2, 7, 100, 500, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)


@dataclass(frozen=True)
class Case:
    """One request: the method and the bytes of its messages."""

    method: str
    requests: list[bytes]


def case(seed: int, family: str, number: int) -> Case:
    """The request of a seed, family and number."""
    return FAMILIES[family](random.Random(f"{seed}:{family}:{number}"))


# -- bytes -------------------------------------------------------------------------------------------------


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 2, 10, 100, 1000, 20_000)))


def _mutated(rng: random.Random, data: bytes) -> bytes:
    """The bytes with a few changes, or none."""
    out = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 5, 20))):
        place = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if place < len(out):
                out[place] ^= 1 << rng.randrange(8)
            case 1 if place < len(out):
                out[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                out[place:place] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                del out[place : place + rng.randrange(1, 9)]
            case 4:
                out[place : place + 8] = (rng.choice(_NUMBERS) % 2**64).to_bytes(8, "little")
            case _:
                out[place:place] = out[place : place + rng.randrange(1, 200)]
    return bytes(out)


# -- protobuf ----------------------------------------------------------------------------------------------


def _scalar(rng: random.Random, field: FieldDescriptor) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return rng.choice((_noise(rng), _any(rng, 1) if rng.random() < 0.3 else b"x", b""))
        return _sql(rng) if field.name == "query" else rng.choice(_TEXTS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return rng.choice((0.0, float("nan"), float("inf"), -1e308))
    bits = 64 if kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else 32
    number = rng.choice(_NUMBERS) % 2**bits
    signed = kind in (
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_ENUM,
    )
    return number - 2**bits if signed and number >= 2 ** (bits - 1) else number


def _fill(rng: random.Random, message: ProtobufMessage, depth: int) -> None:
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.3 or depth > 4:
            continue
        target = getattr(message, field.name)
        nested = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
        if nested and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            for _ in range(rng.choice((0, 1, 3, 50))):
                key = rng.choice(_TEXTS)
                if entry.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
                    _fill(rng, target[key], depth + 1)
                else:
                    target[key] = _scalar(rng, entry)
        elif field.is_repeated:
            for _ in range(rng.choice((0, 1, 2, 100))):
                if nested:
                    _fill(rng, target.add(), depth + 1)
                else:
                    target.append(_scalar(rng, field))
        elif nested:
            _fill(rng, target, depth + 1)
        else:
            setattr(message, field.name, _scalar(rng, field))


def _message(rng: random.Random, depth: int = 0) -> tuple[str, bytes]:
    """A message of any kind with arbitrary content."""
    name = rng.choice(MESSAGES)
    message = message_class(name)() if name in _SQL_MESSAGES else flight_class(name)()
    _fill(rng, message, depth)
    return name, message.SerializeToString()


def _any(rng: random.Random, depth: int = 0) -> bytes:
    name, data = _message(rng, depth)
    if rng.random() < 0.1:
        name = rng.choice(MESSAGES)
    url = "type.googleapis.com/arrow.flight.protocol.sql." + name
    return Any_(type_url=url, value=data).SerializeToString()


# -- families ----------------------------------------------------------------------------------------------


def _wrapped(rng: random.Random, method: str, data: bytes) -> list[bytes]:
    """The bytes where a method takes a command, ticket, body or criteria."""
    if method in ("GetFlightInfo", "GetSchema", "PollFlightInfo"):
        if rng.random() < 0.1:
            return [
                path_descriptor(
                    *(rng.choice(_TEXTS).encode() for _ in range(rng.choice((0, 1, 2, 3, 4, 500))))
                )
            ]
        return [command_descriptor(data)]
    if method == "DoAction":
        return [action(rng.choice(_ACTIONS).encode(), data)]
    if method in ("DoPut", "DoExchange"):
        return [Message(_noise(rng), _noise(rng)).flight_data(command_descriptor(data))]
    return [ticket(data)]


def _random_bytes(rng: random.Random) -> Case:
    method = rng.choice(METHODS)
    data = _noise(rng)
    return Case(method, [data] if rng.random() < 0.5 else _wrapped(rng, method, data))


def _mutated_messages(rng: random.Random) -> Case:
    method = rng.choice(METHODS)
    data = _mutated(rng, _any(rng) if rng.random() < 0.8 else _message(rng)[1])
    requests = _wrapped(rng, method, data)
    return Case(method, [_mutated(rng, r) for r in requests] if rng.random() < 0.3 else requests)


def _sql(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return " ".join(rng.choice(_WORDS) for _ in range(rng.choice((1, 3, 8, 20, 60))))
    words = rng.choice(_STATEMENTS).split()
    for _ in range(rng.choice((0, 1, 2, 5))):
        place = rng.randrange(len(words))
        match rng.randrange(4):
            case 0:
                words[place] = rng.choice(_WORDS)
            case 1:
                words.insert(place, rng.choice(_WORDS))
            case 2:
                words[place:place] = words[place : place + 4] * rng.choice((1, 2, 30))
            case _:
                words.pop(place)
                words = words or ["select"]
    return " ".join(words)


def _sql_text(rng: random.Random) -> Case:
    name, method = rng.choice(
        (
            ("CommandStatementQuery", "GetFlightInfo"),
            ("CommandStatementQuery", "GetSchema"),
            ("CommandStatementUpdate", "DoPut"),
            ("ActionCreatePreparedStatementRequest", "DoAction"),
        )
    )
    text = _sql(rng).encode()
    if rng.random() < 0.2:
        text = _mutated(rng, text)
    url = b"type.googleapis.com/arrow.flight.protocol.sql." + name.encode()
    wrapper = chunk(1, url) + chunk(2, chunk(1, text))
    if method == "DoAction":
        return Case(method, [action(b"CreatePreparedStatement", wrapper)])
    if method == "DoPut":
        return Case(method, [Message(b"").flight_data(command_descriptor(wrapper))])
    return Case(method, [command_descriptor(wrapper)])


def _value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind < 2:
        return rng.choice(_TEXTS)
    if kind == 2:
        return rng.choice(_NUMBERS)
    if kind == 3:
        return rng.choice((None, True, False, float("nan"), 1e308))
    if kind == 4:
        return "".join(rng.choice(string.printable) for _ in range(20))
    if kind == 5:
        return ["honest"]
    if kind == 6:
        return [_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))]
    return _object(rng, depth + 1)


def _object(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    names = (
        "path columns filter limit snapshot files name table db_schema primary_key foreign_keys id x".split()
    )
    return {rng.choice(names): _value(rng, depth) for _ in range(rng.choice((0, 1, 2, 4)))}


def _json(rng: random.Random) -> Case:
    request = _object(rng)
    if rng.random() < 0.5:
        request["path"] = rng.choice((["honest"], ["lake", "main", "honest"], ["main", "honest"]))
    if rng.random() < 0.3:
        request["filter"] = _sql(rng)
    data = json.dumps(request).encode()
    if rng.random() < 0.4:
        data = _mutated(rng, data)
    if rng.random() < 0.5:
        return Case("DoGet", [ticket(data)])
    return Case("DoAction", [action(rng.choice(_ACTIONS).encode(), data)])


def _arrays() -> list[pa.Array]:
    count = 100
    texts = [None if i % 7 == 0 else f"text {i} {'x' * (i % 20)}" for i in range(count)]
    whole = pa.array(range(count))
    return [
        whole,
        pa.array([i % 3 == 0 for i in range(count)]),
        pa.array(texts),
        pa.array(texts, pa.large_string()),
        pa.array(texts, pa.string_view()),
        pa.array([None if t is None else t.encode() for t in texts], pa.binary_view()),
        pa.array(texts).dictionary_encode(),
        pa.RunEndEncodedArray.from_arrays(pa.array([30, 60, count], pa.int16()), pa.array(["a", None, "b"])),
        pa.array([[i] * (i % 4) for i in range(count)], pa.list_(pa.int32())),
        pa.array([[str(i)] for i in range(count)], pa.list_view(pa.string_view())),
        pa.array([[i, i] for i in range(count)], pa.list_(pa.int8(), 2)),
        pa.array([{"a": i, "b": str(i)} for i in range(count)]),
        pa.array([[("k", i)] for i in range(count)], pa.map_(pa.string(), pa.int64())),
        pa.UnionArray.from_sparse(pa.array([0] * count, pa.int8()), [whole, pa.array(texts)]),
        pa.nulls(count),
        pa.array(range(count), pa.timestamp("ns", "UTC")),
        pa.array([1] * count, pa.decimal128(10, 2)),
        pa.array([b"0123456789abcdef"] * count, pa.binary(16)),
        pa.array(range(count), pa.duration("s")),
        pa.array([[["x"], []]] * count, pa.list_(pa.list_(pa.string()))),
    ]


_ARRAYS = _arrays()


def _stream(rng: random.Random) -> Case:
    columns = [rng.choice(_ARRAYS) for _ in range(rng.choice((1, 1, 2, 4)))]
    names = [
        rng.choice(("k", "s", "v", "", "a", "A")) if rng.random() < 0.2 else f"c{i}"
        for i in range(len(columns))
    ]
    batch = pa.RecordBatch.from_arrays(columns, names=names)
    codec = rng.choice((None, None, "zstd", "lz4"))
    stream = messages(batch.schema, [batch] * rng.choice((1, 2)), pa.ipc.IpcWriteOptions(compression=codec))
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(stream))
        message = stream[place]
        match rng.randrange(8):
            case 0 | 1:
                stream[place] = Message(_mutated(rng, message.header), message.body)
            case 2 | 3 | 4:
                stream[place] = Message(message.header, _mutated(rng, message.body))
            case 5:
                stream.insert(rng.randrange(len(stream) + 1), message)
            case 6:
                stream[place] = Message(message.header, message.body[: rng.randrange(len(message.body) + 1)])
            case _ if len(stream) > 1:
                stream.pop(place)
            case _:
                pass
    descriptor = ingest(rng.choice(("honest", "t", "new")), temporary=rng.random() < 0.7)
    requests = upload(descriptor, stream)
    if rng.random() < 0.1:
        requests[-1] = _mutated(rng, requests[-1])
    if rng.random() < 0.05:
        requests[0] = requests[0] + varint(rng.choice((8, 26, 8002))) + varint(rng.choice(_NUMBERS) % 2**63)
    return Case("DoPut" if rng.random() < 0.95 else "DoExchange", requests)


FAMILIES: dict[str, Callable[[random.Random], Case]] = {
    "bytes": _random_bytes,
    "messages": _mutated_messages,
    "sql": _sql_text,
    "json": _json,
    "streams": _stream,
}
