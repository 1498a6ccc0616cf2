"""Commands as typed values: decoded and validated once, afterwards nobody touches bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

SessionOptionValue = str | bool | int | float | tuple[str, ...] | None


class IfNotExist(Enum):
    """What bulk ingest does when the table does not exist."""

    UNSPECIFIED = 0
    CREATE = 1
    FAIL = 2


class IfExists(Enum):
    """What bulk ingest does when the table exists."""

    UNSPECIFIED = 0
    FAIL = 1
    APPEND = 2
    REPLACE = 3


class EndAction(Enum):
    """How a transaction or savepoint ends."""

    COMMIT = 1
    ROLLBACK = 2


@dataclass(frozen=True, slots=True)
class StatementQuery:
    """CommandStatementQuery."""

    query: str
    transaction_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class StatementUpdate:
    """CommandStatementUpdate."""

    query: str
    transaction_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class StatementSubstraitPlan:
    """CommandStatementSubstraitPlan."""

    plan: bytes
    version: str
    transaction_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class TicketStatementQuery:
    """TicketStatementQuery."""

    statement_handle: bytes


@dataclass(frozen=True, slots=True)
class PreparedStatementQuery:
    """CommandPreparedStatementQuery."""

    handle: bytes


@dataclass(frozen=True, slots=True)
class PreparedStatementUpdate:
    """CommandPreparedStatementUpdate."""

    handle: bytes


@dataclass(frozen=True, slots=True)
class StatementIngest:
    """CommandStatementIngest."""

    table: str
    schema: str | None
    catalog: str | None
    temporary: bool
    transaction_id: bytes | None
    if_not_exist: IfNotExist
    if_exists: IfExists
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GetSqlInfo:
    """CommandGetSqlInfo; no codes means all."""

    info: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GetXdbcTypeInfo:
    """CommandGetXdbcTypeInfo."""

    data_type: int | None = None


@dataclass(frozen=True, slots=True)
class GetCatalogs:
    """CommandGetCatalogs."""


@dataclass(frozen=True, slots=True)
class GetDbSchemas:
    """CommandGetDbSchemas; ``None`` is no filter, an empty string asks for objects without a catalog."""

    catalog: str | None = None
    schema_pattern: str | None = None


@dataclass(frozen=True, slots=True)
class GetTables:
    """CommandGetTables; ``None`` is no filter, an empty string asks for objects that have none."""

    catalog: str | None = None
    schema_pattern: str | None = None
    table_pattern: str | None = None
    table_types: tuple[str, ...] = ()
    include_schema: bool = False


@dataclass(frozen=True, slots=True)
class GetTableTypes:
    """CommandGetTableTypes."""


@dataclass(frozen=True, slots=True)
class GetPrimaryKeys:
    """CommandGetPrimaryKeys."""

    catalog: str | None
    schema: str | None
    table: str


@dataclass(frozen=True, slots=True)
class GetExportedKeys:
    """CommandGetExportedKeys."""

    catalog: str | None
    schema: str | None
    table: str


@dataclass(frozen=True, slots=True)
class GetImportedKeys:
    """CommandGetImportedKeys."""

    catalog: str | None
    schema: str | None
    table: str


@dataclass(frozen=True, slots=True)
class GetCrossReference:
    """CommandGetCrossReference."""

    pk_catalog: str | None
    pk_schema: str | None
    pk_table: str
    fk_catalog: str | None
    fk_schema: str | None
    fk_table: str


@dataclass(frozen=True, slots=True)
class CreatePreparedStatement:
    """ActionCreatePreparedStatementRequest."""

    query: str
    transaction_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class CreatePreparedSubstraitPlan:
    """ActionCreatePreparedSubstraitPlanRequest."""

    plan: bytes
    version: str
    transaction_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class ClosePreparedStatement:
    """ActionClosePreparedStatementRequest."""

    handle: bytes


@dataclass(frozen=True, slots=True)
class BeginTransaction:
    """ActionBeginTransactionRequest."""


@dataclass(frozen=True, slots=True)
class EndTransaction:
    """ActionEndTransactionRequest."""

    transaction_id: bytes
    action: EndAction


@dataclass(frozen=True, slots=True)
class BeginSavepoint:
    """ActionBeginSavepointRequest."""

    transaction_id: bytes
    name: str


@dataclass(frozen=True, slots=True)
class EndSavepoint:
    """ActionEndSavepointRequest."""

    savepoint_id: bytes
    action: EndAction


@dataclass(frozen=True, slots=True)
class CancelQuery:
    """ActionCancelQueryRequest: the tickets of the FlightInfo to cancel."""

    tickets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CancelFlightInfo:
    """CancelFlightInfoRequest: the tickets of the FlightInfo to cancel."""

    tickets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RenewFlightEndpoint:
    """RenewFlightEndpointRequest: the endpoint as it came, and its ticket."""

    ticket: bytes
    endpoint: bytes


@dataclass(frozen=True, slots=True)
class SetSessionOptions:
    """SetSessionOptionsRequest; ``None`` erases an option."""

    options: Mapping[str, SessionOptionValue]


@dataclass(frozen=True, slots=True)
class GetSessionOptions:
    """GetSessionOptionsRequest."""


@dataclass(frozen=True, slots=True)
class CloseSession:
    """CloseSessionRequest."""
