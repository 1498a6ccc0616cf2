"""Avro files as batches, by fastavro. The only module that imports it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from lakehouse.errors import InvalidRequest, NotSupported
from lakehouse.ingest.sources.arrow_source import Batches
from lakehouse.ingest.sources.file_options import FileOptions

_PLAIN = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
_LOGICAL = {
    "date": pa.date32(),
    "time-millis": pa.time32("ms"),
    "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("ms", "UTC"),
    "timestamp-micros": pa.timestamp("us", "UTC"),
    "local-timestamp-millis": pa.timestamp("ms"),
    "local-timestamp-micros": pa.timestamp("us"),
}


def avro(stream: BinaryIO, name: str, options: FileOptions) -> Batches:
    """An Avro file, a block at a time.

    Raises:
        NotSupported: The extra is not installed, or the file holds a type that refers to itself.
        InvalidRequest: It does not hold records.
    """
    try:
        import fastavro  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise NotSupported(
            "Avro files need a library that is not installed", "pip install lakehouse-server[ingest]"
        ) from error
    blocks = fastavro.block_reader(stream)
    written: Any = blocks.writer_schema
    if not isinstance(written, dict) or written.get("type") != "record":
        raise InvalidRequest(f"'{name}' holds no records, of which fields could be columns")
    known: dict[str, Any] = {}
    fields = [_field(field, known) for field in written["fields"]]
    schema = pa.schema([pa.field(made.name, made.type, made.nullable) for made in fields])
    texts = [field["name"] for field in written["fields"] if _is_choice(field["type"])]

    def batches() -> Iterator[pa.RecordBatch]:
        for block in blocks:
            rows = [_plain(row) for row in block]
            for row in rows:
                for text in texts:
                    row[text] = _text(row[text])
            yield pa.RecordBatch.from_pylist(rows, schema)

    return Batches(schema, None, batches())


def _field(field: dict[str, Any], known: dict[str, Any]) -> pa.Field:
    kind = field["type"]
    nullable = kind == "null" or (isinstance(kind, list) and "null" in kind)
    return pa.field(field["name"], _type(kind, known), nullable)


def _is_choice(kind: Any) -> bool:
    """Whether values are of several types, which only text holds."""
    return isinstance(kind, list) and len([branch for branch in kind if branch != "null"]) > 1


def _type(kind: Any, known: dict[str, Any]) -> pa.DataType:
    if isinstance(kind, list):
        branches = [branch for branch in kind if branch != "null"]
        if len(branches) > 1:
            return pa.string()
        return _type(branches[0], known) if branches else pa.null()
    if isinstance(kind, str):
        return _PLAIN[kind] if kind in _PLAIN else _named(kind, known)
    if kind["type"] in {"record", "enum", "fixed"}:
        known[kind["name"]] = None
        known[kind["name"]] = made = _definition(kind, known)
        return made
    return _definition(kind, known)


def _named(name: str, known: dict[str, Any]) -> pa.DataType:
    made = known.get(name)
    if made is None:
        raise NotSupported(f"the Avro type '{name}' refers to itself, which no table can hold")
    return made


def _definition(kind: dict[str, Any], known: dict[str, Any]) -> pa.DataType:
    logical = kind.get("logicalType")
    if logical in _LOGICAL:
        return _LOGICAL[logical]
    if logical == "decimal":
        return pa.decimal128(kind["precision"], kind.get("scale", 0))
    if logical == "uuid":
        return pa.string()
    base = kind["type"]
    if base == "record":
        return pa.struct([_nested(field["name"], field["type"], known) for field in kind["fields"]])
    if base == "array":
        return pa.list_(_nested("element", kind["items"], known))
    if base == "map":
        return pa.map_(pa.string(), _nested("value", kind["values"], known))
    if base == "fixed":
        return pa.binary(kind["size"])
    return pa.string() if base == "enum" else _type(base, known)


def _nested(name: str, kind: Any, known: dict[str, Any]) -> pa.Field:
    if _is_choice(kind):
        raise NotSupported(
            f"the field '{name}' within a column can be of several types, which no table can hold"
        )
    return pa.field(name, _type(kind, known))


def _plain(value: Any) -> Any:
    """What Arrow makes values of: maps as pairs stay dicts, which it takes as well."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return str(value) if type(value).__name__ == "UUID" else value


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)
