"""Domain errors: one class per code that a caller could react to differently.

A message says what was expected and what was found, and names the object. It never carries
a path of the server's disk, a secret or a traceback. The wire form is ``[CODE] message (hint)``.
"""

from __future__ import annotations

from enum import Enum


class ErrorKind(Enum):
    """What sort of failure an error is; the wire layer maps it to a gRPC status."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    UNSUPPORTED = "unsupported"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION = "permission"
    CONFLICT = "conflict"
    EXHAUSTED = "exhausted"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class LakehouseError(Exception):
    """Base of every error that may be shown to a client.

    Args:
        message: One sentence naming the object, what was expected and what was found.
        hint: What to do about it, or empty.
    """

    code = "INTERNAL"
    kind = ErrorKind.INTERNAL

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"[{self.code}] {self.message}{hint}"


class InternalError(LakehouseError):
    """A defect of the server; details are in its log only."""


class EngineInvalidated(InternalError):
    """The SQL engine failed so badly that it had to be started again; temporary tables are lost."""

    code = "ENGINE_RESTARTED"


class ConfigError(LakehouseError):
    """The configuration is wrong; names the key."""

    code = "CONFIG_INVALID"
    kind = ErrorKind.INVALID


class InvalidRequest(LakehouseError):
    """The request is malformed: wrong message, wrong type, missing field."""

    code = "INVALID_REQUEST"
    kind = ErrorKind.INVALID


class UnknownCommand(LakehouseError):
    """The descriptor or ticket holds a command this server does not know."""

    code = "UNKNOWN_COMMAND"
    kind = ErrorKind.INVALID


class UnknownAction(LakehouseError):
    """No action of that name."""

    code = "UNKNOWN_ACTION"
    kind = ErrorKind.UNSUPPORTED


class SqlSyntaxError(LakehouseError):
    """The statement does not parse."""

    code = "SQL_SYNTAX"
    kind = ErrorKind.INVALID


class SqlBindError(LakehouseError):
    """The statement parses, but a name or a type in it does not fit."""

    code = "SQL_INVALID"
    kind = ErrorKind.INVALID


class SqlExecutionError(LakehouseError):
    """The statement failed on the data (overflow, division, conversion …)."""

    code = "SQL_FAILED"
    kind = ErrorKind.INVALID


class StatementForbidden(LakehouseError):
    """The statement gate refuses this kind of statement, function or setting."""

    code = "STATEMENT_FORBIDDEN"
    kind = ErrorKind.PERMISSION


class NotSupported(LakehouseError):
    """The feature is not offered by this server."""

    code = "NOT_SUPPORTED"
    kind = ErrorKind.UNSUPPORTED


class CatalogNotFound(LakehouseError):
    """No catalog of that name."""

    code = "CATALOG_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class SchemaNotFound(LakehouseError):
    """No schema of that name."""

    code = "SCHEMA_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class TableNotFound(LakehouseError):
    """No table of that name."""

    code = "TABLE_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class SnapshotNotFound(LakehouseError):
    """The table has no snapshot with that id or at that time."""

    code = "SNAPSHOT_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class ReferenceAlreadyExists(LakehouseError):
    """The table has a tag or branch of that name."""

    code = "REFERENCE_ALREADY_EXISTS"
    kind = ErrorKind.ALREADY_EXISTS


class SchemaAlreadyExists(LakehouseError):
    """A schema of that name exists."""

    code = "SCHEMA_ALREADY_EXISTS"
    kind = ErrorKind.ALREADY_EXISTS


class SchemaNotEmpty(LakehouseError):
    """A schema that still holds tables cannot be dropped."""

    code = "SCHEMA_NOT_EMPTY"
    kind = ErrorKind.INVALID


class TableAlreadyExists(LakehouseError):
    """A table of that name exists."""

    code = "TABLE_ALREADY_EXISTS"
    kind = ErrorKind.ALREADY_EXISTS


class TypeNotStorable(LakehouseError):
    """A column's type or values cannot be kept in an Iceberg table without loss."""

    code = "TYPE_NOT_STORABLE"
    kind = ErrorKind.INVALID


class SchemaMismatch(LakehouseError):
    """The columns that arrive do not fit the table."""

    code = "SCHEMA_MISMATCH"
    kind = ErrorKind.INVALID


class CommitConflict(LakehouseError):
    """Another writer changed the table first; nothing was changed, try again."""

    code = "COMMIT_CONFLICT"
    kind = ErrorKind.CONFLICT


class AlreadyIngested(LakehouseError):
    """The rows of an ingest are in the table already; ``snapshot_id`` brought them, if it was one."""

    code = "ALREADY_INGESTED"
    kind = ErrorKind.ALREADY_EXISTS

    def __init__(self, message: str, snapshot_id: int | None) -> None:
        super().__init__(message, "nothing has to be done")
        self.snapshot_id = snapshot_id


class CommitStateUnknown(LakehouseError):
    """It could not be established whether the commit took place."""

    code = "COMMIT_STATE_UNKNOWN"
    kind = ErrorKind.INTERNAL


class StatementNotFound(LakehouseError):
    """The statement handle is unknown, used up or expired."""

    code = "STATEMENT_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class TransactionNotFound(LakehouseError):
    """The transaction id is unknown, ended or rolled back by a time-out."""

    code = "TRANSACTION_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class TransactionStateError(LakehouseError):
    """The operation does not fit the state of the transaction."""

    code = "TRANSACTION_STATE"
    kind = ErrorKind.INVALID


class Unauthenticated(LakehouseError):
    """The credentials are missing or wrong."""

    code = "UNAUTHENTICATED"
    kind = ErrorKind.UNAUTHENTICATED


class PermissionDenied(LakehouseError):
    """The principal may not do this."""

    code = "PERMISSION_DENIED"
    kind = ErrorKind.PERMISSION


class LimitExceeded(LakehouseError):
    """A bound from the configuration was reached; names the limit."""

    code = "LIMIT_EXCEEDED"
    kind = ErrorKind.EXHAUSTED


class RateLimited(LimitExceeded):
    """A principal asks for too much in too short a time; the hint says when to try again."""

    code = "RATE_LIMITED"


class StatementCancelled(LakehouseError):
    """The client cancelled the statement or went away."""

    code = "CANCELLED"
    kind = ErrorKind.CANCELLED


class StatementKilled(StatementCancelled):
    """An administrator stopped the statement.

    It is no CANCELLED on the wire: pyarrow's client takes that for the user's own Ctrl-C when it meets it in
    the middle of a result, and raises KeyboardInterrupt.
    """

    code = "STATEMENT_KILLED"
    kind = ErrorKind.UNAVAILABLE


class StatementTimeout(LakehouseError):
    """The statement ran longer than allowed."""

    code = "STATEMENT_TIMEOUT"
    kind = ErrorKind.DEADLINE


class StorageError(LakehouseError):
    """An object could not be read or written."""

    code = "STORAGE_UNAVAILABLE"
    kind = ErrorKind.UNAVAILABLE


class ShuttingDown(LakehouseError):
    """The server is draining and takes no new work."""

    code = "SHUTTING_DOWN"
    kind = ErrorKind.UNAVAILABLE


class BucketNotFound(LakehouseError):
    """No bucket of that name."""

    code = "BUCKET_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class ObjectNotFound(StorageError):
    """The bucket holds no object of that key."""

    code = "OBJECT_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class ObjectAlreadyExists(StorageError):
    """A create-only write found an object of that key."""

    code = "OBJECT_ALREADY_EXISTS"
    kind = ErrorKind.ALREADY_EXISTS


class ObjectChanged(StorageError):
    """The object is not the one any more that was being read, or was registered in place."""

    code = "OBJECT_CHANGED"
    kind = ErrorKind.CONFLICT


class ContentMismatch(LakehouseError):
    """What arrived is not what was announced, by size or hash; nothing was stored."""

    code = "CONTENT_MISMATCH"
    kind = ErrorKind.INVALID


def object_changed(bucket: str, key: str) -> ObjectChanged:
    """The error for an object that is no longer the one that was registered."""
    return ObjectChanged(
        f"object '{key}' of bucket '{bucket}' is not the one that was registered",
        "catalog.verify tells what changed, catalog.resync takes it over",
    )


class AccessPolicyError(LakehouseError):
    """A row filter or mask of the configuration does not fit the table, which is therefore not shown."""

    code = "ACCESS_POLICY"
    kind = ErrorKind.PERMISSION


class ApiKeyNotFound(LakehouseError):
    """No API key of that id."""

    code = "API_KEY_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class SessionNotFound(LakehouseError):
    """No open session of that id."""

    code = "SESSION_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class RunNotFound(LakehouseError):
    """No run of that id."""

    code = "RUN_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class ModelNotFound(LakehouseError):
    """No model profile of that name, or its provider does not have the model."""

    code = "MODEL_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class ModelUnavailable(LakehouseError):
    """The provider of a model does not answer, or not in time; trying again may help."""

    code = "MODEL_UNAVAILABLE"
    kind = ErrorKind.UNAVAILABLE


class ModelFailed(LakehouseError):
    """The provider of a model refused, or answered what cannot be used."""

    code = "MODEL_FAILED"
    kind = ErrorKind.INTERNAL


class ProfileNotFound(LakehouseError):
    """No profile of that name."""

    code = "PROFILE_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class ProfileInactive(LakehouseError):
    """A profile that was deactivated."""

    code = "PROFILE_INACTIVE"
    kind = ErrorKind.INVALID


class VectorIndexNotFound(LakehouseError):
    """No vector index of that name."""

    code = "VECTOR_INDEX_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class VectorIndexAlreadyExists(LakehouseError):
    """A vector index of that name exists."""

    code = "VECTOR_INDEX_ALREADY_EXISTS"
    kind = ErrorKind.ALREADY_EXISTS


class EvaluationNotFound(LakehouseError):
    """There is no such evaluation set of a vector index."""

    code = "EVALUATION_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class TrialNotFound(LakehouseError):
    """There is no such trial of a vector index, or none that reaches what was asked for."""

    code = "TRIAL_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND
