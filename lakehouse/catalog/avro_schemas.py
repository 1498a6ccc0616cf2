"""Schemas of Avro files, understood once: every manifest says its own, and they are nearly all the same.

pyiceberg parses and resolves the schema of each manifest anew, which takes longer than reading what it lists.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any

from pyiceberg.avro import file as avro_file
from pyiceberg.avro.file import AvroFileHeader
from pyiceberg.avro.reader import Reader
from pyiceberg.avro.resolver import resolve_reader
from pyiceberg.schema import Schema
from pyiceberg.typedef import EMPTY_DICT, StructProtocol
from pyiceberg.types import IcebergType
from pyiceberg.utils.schema_conversion import AvroSchemaConversion

_KEPT = 64
_SCHEMA_KEY = "avro.schema"


@lru_cache(_KEPT)
def _schema(text: str) -> Schema:
    return AvroSchemaConversion().avro_to_iceberg(json.loads(text))


class Readers:
    """Readers of Avro files by the schemas that they read and give; they keep nothing of what they read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # With the schemas, so that no other one gets their identity.
        self._kept: OrderedDict[Any, tuple[Reader, Any, Any]] = OrderedDict()

    def resolve(
        self,
        file_schema: Schema | IcebergType,
        read_schema: Schema | IcebergType,
        read_types: dict[int, Callable[..., StructProtocol]] = EMPTY_DICT,
        read_enums: dict[int, Callable[..., Enum]] = EMPTY_DICT,
    ) -> Reader:
        """The reader of a file, made unless it was for these very schemas."""
        key = id(file_schema), id(read_schema), tuple(read_types.items()), tuple(read_enums.items())
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found[0]
        reader = resolve_reader(file_schema, read_schema, read_types, read_enums)
        with self._lock:
            self._kept[key] = reader, file_schema, read_schema
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return reader


def _get_schema(header: AvroFileHeader) -> Schema:
    text = header.meta.get(_SCHEMA_KEY)
    if text is None:
        raise ValueError("No schema found in Avro file headers")
    return _schema(text)


def understand_once() -> None:
    """Have pyiceberg keep what it has found out about schemas."""
    AvroFileHeader.get_schema = _get_schema  # type: ignore[method-assign, assignment]
    avro_file.resolve_reader = Readers().resolve  # type: ignore[attr-defined]
