"""A Hive metastore: pyiceberg's client of it.

The metastore changes an entry without looking at what it was; so a commit holds the metastore's lock of the
table meanwhile, as that of every other engine does, and so does a rename.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from urllib.parse import urlparse

from hive_metastore.ThriftHiveMetastore import Client as ThriftClient
from hive_metastore.ttypes import (
    GetTableRequest,
    InvalidObjectException,
    InvalidOperationException,
    LockState,
    MetaException,
    NoSuchObjectException,
    UnlockRequest,
)
from pyiceberg.catalog.hive import HiveCatalog, _HiveClient
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, WaitingForLockException
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.update import TableRequirement, TableUpdate
from pyiceberg.typedef import Identifier
from thrift.protocol import TBinaryProtocol
from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TApplicationException
from thrift.transport import TSocket, TTransport

from lakehouse.catalog.metadata_files import MetadataFiles
from lakehouse.catalog.metastore import Metastore
from lakehouse.catalog.remote_catalog import Name, RemoteTables
from lakehouse.catalog.table_store import Capabilities
from lakehouse.config import CatalogConnection
from lakehouse.errors import ConfigError, InvalidRequest, LakehouseError, NotSupported, StorageError
from lakehouse.storage.bucket import Bucket

_TIMEOUT_MS = 60_000
# The metastore is asked for a lock every so often, and so many times.
_PATIENCE = {
    "lock-check-min-wait-time": "0.05",
    "lock-check-max-wait-time": "0.2",
    "lock-check-retries": "100",
}
_NAMES = "a metastore takes names of ASCII letters, digits and _, and columns of types that Hive has"
_log = logging.getLogger(__name__)


class _Connections:
    """A connection for each use, where pyiceberg shares one between threads.

    Args:
        make: Makes the client for a URL.
        uris: Of several metastores that stand for one another.
    """

    def __init__(self, make: Any, uris: list[str]) -> None:
        self._make = make
        self._uris = uris
        self._local = threading.local()

    def __enter__(self) -> Any:
        for number, uri in enumerate(self._uris, 1):
            client = self._make(uri)
            try:
                opened = client.__enter__()
            except TTransport.TTransportException:
                if number == len(self._uris):
                    raise
                continue
            self._held().append(client)
            return opened
        raise AssertionError("a catalog has at least one URL")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held().pop().__exit__(kind, error, trace)

    def _held(self) -> list[Any]:
        held: list[Any] = self._local.__dict__.setdefault("held", [])
        return held


class _Requests(ThriftClient):
    """The requests, in forms that old and new metastores know."""

    def get_table(self, dbname: str, tbl_name: str) -> Any:
        """The entry of a table."""
        return self.get_table_req(GetTableRequest(dbName=dbname, tblName=tbl_name)).table


class _Client(_HiveClient):
    """pyiceberg's client, which does not wait for ever."""

    def _client(self) -> Any:
        client = _Requests(TBinaryProtocol.TBinaryProtocol(self._transport))
        if self._ugi:
            client.set_ugi(*self._ugi)
        return client

    def _init_thrift_transport(self) -> Any:
        transport = super()._init_thrift_transport()
        if not self._kerberos_auth:
            parts = urlparse(self._uri)
            socket = TSocket.TSocket(parts.hostname, parts.port)
            socket.setTimeout(_TIMEOUT_MS)
            transport = TTransport.TBufferedTransport(socket)
        return transport


class HiveService(Metastore, HiveCatalog):
    """pyiceberg's Hive catalog over a bucket. See ``Service`` for what is asked of it.

    Args:
        name: The catalog's name.
        bucket: Where the files of the tables are.
        properties: What the client needs to know.
    """

    def __init__(self, name: str, bucket: Bucket, **properties: str) -> None:
        self._files = MetadataFiles(bucket)
        self._local = threading.local()
        super().__init__(name, **{**_PATIENCE, **properties})

    @contextmanager
    def calling(self, *, changes: bool) -> Iterator[None]:
        """Translate what goes wrong on the way. See ``Service``."""
        try:
            yield
        except (TTransport.TTransportException, TProtocolException, OSError) as error:
            if changes and getattr(error, "type", None) != TTransport.TTransportException.NOT_OPEN:
                raise CommitStateUnknownException("the metastore did not say whether it did it") from error
            raise StorageError(
                f"the metastore of catalog '{self.name}' did not answer", "try again later"
            ) from error
        except (InvalidObjectException, InvalidOperationException, NoSuchObjectException) as error:
            # What the metastore says may hold more than a client should see.
            _log.warning("the metastore of catalog '%s' refused a request: %s", self.name, error)
            raise InvalidRequest(f"the metastore of catalog '{self.name}' refuses this", _NAMES) from error
        except (MetaException, TApplicationException) as error:
            _log.warning("the metastore of catalog '%s' failed: %s", self.name, error)
            raise StorageError(f"the metastore of catalog '{self.name}' failed", "try again later") from error

    def list_tables(self, namespace: str | Identifier) -> list[Identifier]:
        """All tables of a schema: which of them are Iceberg's is asked one by one.

        Newer metastores do not have the request any more by which pyiceberg asks for all of them.
        """
        schema = self.identifier_to_database(namespace)
        with self._client as client:
            return [(schema, name) for name in client.get_all_tables(db_name=schema)]

    def point_at(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        """Write the next metadata file, and make it the current one."""
        try:
            return HiveCatalog.commit_table(self, table, requirements, updates)
        except KeyError as error:
            raise NotSupported("Hive has no type for one of the columns", _NAMES) from error

    def rename_table(self, from_identifier: str | Identifier, to_identifier: str | Identifier) -> Table:
        """Give a table another name, while nobody commits to it."""
        schema, name = self.identifier_to_database_and_table(from_identifier)
        with self._client as client:
            lock = client.lock(self._create_lock_request(schema, name))
            try:
                if lock.state == LockState.WAITING:
                    self._wait_for_lock(schema, name, lock.lockid, client)
                return super().rename_table(from_identifier, to_identifier)
            except WaitingForLockException as error:
                raise CommitFailedException("the table is being changed") from error
            finally:
                client.unlock(UnlockRequest(lockid=lock.lockid))

    def close(self) -> None:
        """Nothing: connections are closed after each use."""

    # -- pyiceberg's hooks -----------------------------------------------------------------------------

    @staticmethod
    def _create_hive_client(properties: dict[str, str]) -> Any:
        make = functools.partial(
            _Client,
            ugi=properties.get("ugi"),
            kerberos_auth=properties.get("hive.kerberos-authentication", "").lower() == "true",
            kerberos_service_name=properties.get("hive.kerberos-service-name", "hive"),
        )
        return _Connections(make, properties["uri"].split(","))

    def _convert_hive_into_iceberg(self, table: Any) -> Table:
        name: Name = (table.dbName, table.tableName)
        return self._found(name, table.parameters)


def open_hive(settings: CatalogConnection, bucket: Bucket) -> RemoteTables:
    """The tables of a Hive metastore.

    Raises:
        ConfigError: It cannot be reached.
    """
    service = HiveService(settings.name, bucket, **{**settings.properties, "uri": settings.location()})
    lacking = {"joint_commits": False, "views": False, "remembers_dropped": False}
    store = RemoteTables(
        service, bucket, settings.warehouse, Capabilities("hive", **lacking), folds_names=True
    )
    try:
        store.list_namespaces()
    except LakehouseError as error:
        raise ConfigError(
            f"the metastore of catalog '{settings.name}' cannot be used: {error.message}", "see catalog.uri"
        ) from error
    return store
