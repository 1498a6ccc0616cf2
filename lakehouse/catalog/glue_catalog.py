"""The AWS Glue data catalog: pyiceberg's client of it.

Glue compares the version of a table's entry when it is changed, which is what makes a commit one step. A
rename would be two, a copy and a removal, between which a commit could be lost; so there is none.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.client import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
)
from botocore.loaders import create_loader
from pyiceberg.catalog.glue import GlueCatalog
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.update import TableRequirement, TableUpdate

from lakehouse.catalog.metadata_files import MetadataFiles
from lakehouse.catalog.metastore import Metastore
from lakehouse.catalog.remote_catalog import RemoteTables
from lakehouse.catalog.table_store import Capabilities
from lakehouse.config import CatalogConnection
from lakehouse.errors import ConfigError, InvalidRequest, LakehouseError, StorageError
from lakehouse.storage.bucket import Bucket

if TYPE_CHECKING:
    from pyiceberg.typedef import Identifier

_CONNECT_SECONDS, _ANSWER_SECONDS = 10, 60
_MAX_ATTEMPTS = 4
_WRONG = ("InvalidInputException", "ValidationException")
_log = logging.getLogger(__name__)


@functools.cache
def _models() -> Any:
    """The descriptions of AWS services, which are large and the same for every catalog."""
    return create_loader()


class GlueService(Metastore, GlueCatalog):
    """pyiceberg's Glue catalog over a bucket. See ``Service`` for what is asked of it.

    Args:
        name: The catalog's name.
        bucket: Where the files of the tables are.
        properties: What the client needs to know.
    """

    def __init__(self, name: str, bucket: Bucket, **properties: Any) -> None:
        self._files = MetadataFiles(bucket)
        self._local = threading.local()
        self.name = name
        session = botocore.session.get_session()
        session.register_component("data_loader", _models())
        limits = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_ANSWER_SECONDS)
        session.set_default_client_config(limits)
        with self.calling(changes=False):
            super().__init__(name, botocore_session=session, **properties)

    @contextmanager
    def calling(self, *, changes: bool) -> Iterator[None]:
        """Translate what goes wrong on the way. See ``Service``."""
        try:
            yield
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) < 500:
                raise self._refused(error) from error
            raise self._failed(error, changes) from error
        except (EndpointConnectionError, ConnectTimeoutError) as error:
            raise self._failed(error, False) from error
        except HTTPClientError as error:
            raise self._failed(error, changes) from error
        except BotoCoreError as error:
            # Nothing was sent: there is no region, no credential, or no such parameter.
            _log.warning("Glue cannot be asked by catalog '%s': %s", self.name, error)
            raise StorageError(
                f"Glue cannot be asked by catalog '{self.name}': {type(error).__name__}",
                "see catalog.credential, and glue.region of catalog.properties",
            ) from error

    def point_at(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        """Write the next metadata file, and make it the current one."""
        return GlueCatalog.commit_table(self, table, requirements, updates)

    def _convert_glue_to_iceberg(self, glue_table: Any) -> Table:
        name: Identifier = (glue_table["DatabaseName"], glue_table["Name"])
        return self._found(name, glue_table.get("Parameters"))

    def _is_s3tables_database(self, database_name: str) -> bool:
        # Tables are in the bucket of the configuration.
        return False

    def _failed(self, error: Exception, changes: bool) -> Exception:
        if changes:
            return CommitStateUnknownException("Glue did not say whether it did it")
        return StorageError(f"Glue did not answer to catalog '{self.name}'", "try again later")

    def _refused(self, error: ClientError) -> LakehouseError:
        # What Glue says may hold more than a client should see.
        _log.warning("Glue refused a request of catalog '%s': %s", self.name, error)
        code = error.response.get("Error", {}).get("Code", "")
        if code in _WRONG:
            return InvalidRequest(f"Glue takes this for a wrong request of catalog '{self.name}'")
        return StorageError(
            f"Glue refuses catalog '{self.name}': {code if code.isalnum() else 'no reason'}",
            "see whether its credential is valid, and what it may do",
        )


def open_glue(settings: CatalogConnection, bucket: Bucket) -> RemoteTables:
    """The tables of AWS Glue.

    Raises:
        ConfigError: It cannot be reached, or refuses this server.
    """
    properties: dict[str, Any] = dict(settings.properties)
    retries = properties.get("glue.max-retries", str(_MAX_ATTEMPTS))
    if not retries.isdecimal():
        raise ConfigError("glue.max-retries of catalog.properties should be a number")
    properties["glue.max-retries"] = int(retries)
    if uri := settings.location():
        properties["glue.endpoint"] = uri
    if settings.credential:
        key, colon, secret = settings.credential.resolve().get_secret_value().partition(":")
        if not colon:
            raise ConfigError("the secret that catalog.credential names should be ID:SECRET, found no colon")
        properties |= {"glue.access-key-id": key, "glue.secret-access-key": secret}
    if settings.token:
        properties["glue.session-token"] = settings.token.resolve().get_secret_value()
    lacking = {"joint_commits": False, "views": False, "remembers_dropped": False, "renames": False}
    try:
        service = GlueService(settings.name, bucket, **properties)
        store = RemoteTables(
            service, bucket, settings.warehouse, Capabilities("glue", **lacking), folds_names=True
        )
        store.list_namespaces()
    except LakehouseError as error:
        raise ConfigError(error.message, error.hint) from error
    return store
