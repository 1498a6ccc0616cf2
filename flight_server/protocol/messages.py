"""Protobuf classes of the wire contract, in a pool of their own.

Other packages (flightsql-dbapi, say) register the same names in protobuf's default pool; a private pool
lets both live in one process.
"""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from flight_server.protocol.descriptors import FILE_DESCRIPTOR_SET_B85

SQL_PACKAGE = "arrow.flight.protocol.sql"
FLIGHT_PACKAGE = "arrow.flight.protocol"
Any_ = any_pb2.Any


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    timestamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
    pool.Add(timestamp)
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(base64.b85decode(FILE_DESCRIPTOR_SET_B85))
    for file in files.file:
        pool.Add(file)
    return pool


_POOL = _load()


@cache
def message_class(name: str, package: str = SQL_PACKAGE) -> Any:
    """The class of a message by its name.

    Raises:
        KeyError: There is no such message.
    """
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{package}.{name}"))


def flight_class(name: str) -> Any:
    """The class of a message of the Flight package."""
    return message_class(name, FLIGHT_PACKAGE)
