"""An Iceberg REST catalog: pyiceberg's client of it, with what that leaves out.

The service writes the metadata files itself; it is sent requirements and updates. Files of tables are read
and written by way of the bucket, with its credentials: those that a service may hand out are not asked for.
"""

from __future__ import annotations

import functools
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field
from pydantic import ValidationError as ModelError
from pyiceberg.catalog.rest import Endpoints, HttpMethod, RestCatalog, TableResponse
from pyiceberg.catalog.rest.response import _handle_non_200_response
from pyiceberg.exceptions import (
    AuthorizationExpiredError,
    BadRequestError,
    CommitFailedException,
    CommitStateUnknownException,
    ForbiddenError,
    NoSuchNamespaceError,
    NoSuchTableError,
    NoSuchViewError,
    OAuthError,
    RESTError,
    ServerError,
    ServiceUnavailableError,
    UnauthorizedError,
)
from pyiceberg.io import FileIO
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableRequest, CommitTableResponse, StagedTable, Table, TableIdentifier
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil
from pyiceberg.table.sorting import SortOrder
from pyiceberg.table.update import TableRequirement, TableUpdate
from pyiceberg.typedef import EMPTY_DICT, IcebergBaseModel, Identifier, Properties
from pyiceberg.view.metadata import ViewMetadata
from requests import HTTPError, RequestException, Response, Session
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ConnectTimeout
from urllib3.exceptions import MaxRetryError, NewConnectionError

from lakehouse.catalog.file_io import BucketFileIO
from lakehouse.catalog.remote_catalog import Name, RemoteTables, Step, Unreadable
from lakehouse.catalog.table_store import Capabilities
from lakehouse.config import CatalogConnection
from lakehouse.errors import ConfigError, InvalidRequest, LakehouseError, NotSupported, StorageError
from lakehouse.storage.bucket import Bucket

_CONNECT_SECONDS, _ANSWER_SECONDS = 10, 60
_REMEMBERED = 1_000
_TOGETHER = "transactions/commit"
_RENAME_VIEW = "views/rename"
_REFUSALS = (BadRequestError, ForbiddenError, UnauthorizedError, AuthorizationExpiredError, OAuthError)
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Known:
    """What the service said last, and how to ask whether it still says so."""

    tag: str
    location: str
    metadata: TableMetadata | ViewMetadata


class RestService(RestCatalog):
    """pyiceberg's REST catalog over a bucket. See ``Service`` for what is asked of it.

    Args:
        name: The catalog's name.
        bucket: Where the files of the tables are.
        properties: What the client needs to know.
    """

    def __init__(self, name: str, bucket: Bucket, **properties: str) -> None:
        self._bucket = bucket
        self._io = BucketFileIO(bucket)
        self._known: dict[tuple[str, Name], _Known] = {}
        self.name = name
        with self.calling(changes=False):
            super().__init__(name, **properties)

    def capabilities(self) -> Capabilities:
        """What the service says that it can do."""
        offered = {(each.http_method, each.path) for each in self._supported_endpoints}
        view = "/v1/{prefix}/namespaces/{namespace}/views"
        return Capabilities(
            "rest",
            joint_commits=(HttpMethod.POST, f"/v1/{{prefix}}/{_TOGETHER}") in offered,
            views={(HttpMethod.GET, view), (HttpMethod.POST, view), (HttpMethod.POST, f"{view}/{{view}}")}
            <= offered,
            remembers_dropped=False,
        )

    @contextmanager
    def calling(self, *, changes: bool) -> Iterator[None]:
        """Translate what goes wrong on the way. See ``Service``."""
        try:
            yield
        except _REFUSALS as error:
            raise self._refused(error) from error
        except NotImplementedError as error:
            raise NotSupported(f"the service of catalog '{self.name}' does not offer this") from error
        except (RESTError, RequestException) as error:
            if changes and _may_have_arrived(error):
                raise CommitStateUnknownException("the service did not say whether it did it") from error
            raise StorageError(
                f"the service of catalog '{self.name}' did not answer as it should", "try again later"
            ) from error
        except ModelError as error:
            if changes:
                raise CommitStateUnknownException("the service's answer cannot be read") from error
            raise

    # -- tables ---------------------------------------------------------------------------------------

    def load_table(self, identifier: str | Identifier) -> Table:
        """The current version of a table; nothing is sent and parsed again that is known already."""
        name = _pair(identifier)
        url = self.url(Endpoints.load_table, **self._split_identifier_for_path(name))
        try:
            known = self._asked("table", name, url, NoSuchTableError, TableMetadataUtil.parse_obj)
        except ForbiddenError as error:
            raise Unreadable(self._refused(error)) from error
        metadata = known.metadata
        assert not isinstance(metadata, ViewMetadata)
        try:
            self._bucket.key_of(metadata.location)
        except StorageError as error:
            raise Unreadable(error) from error
        return Table(name, metadata, known.location, self._io, self)

    def stage(
        self,
        identifier: Name,
        columns: Schema,
        properties: Properties,
        spec: PartitionSpec,
        order: SortOrder,
        location: str,
    ) -> StagedTable:
        """A table that does not exist yet, where the service wants it if that is in the bucket and unused."""

        def create(location: str | None) -> TableResponse:
            return self._create_table(identifier, columns, location, spec, order, properties, True)

        answer = self._with_token(lambda: create(None))
        chosen = answer.metadata.location
        if not self._bucket_has(chosen):
            answer = self._with_token(lambda: create(location))
        elif self._bucket.directories(self._bucket.key_of(chosen)):
            # A table of another name may be there, or what one that was dropped left behind.
            answer = self._with_token(lambda: create(f"{chosen}~{uuid.uuid4().hex}"))
        return StagedTable(identifier, answer.metadata, answer.metadata_location or "", self._io, self)

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        """Have the service apply updates to the current version of a table."""
        name = _pair(table.name())
        url = self.url(Endpoints.update_table, **self._split_identifier_for_path(name))
        text = self._post(url, _change(name, requirements, updates), NoSuchTableError)
        answer = CommitTableResponse.model_validate_json(text)
        self._remember("table", name, _Known("", answer.metadata_location, answer.metadata))
        return answer

    def commit_together(self, steps: Sequence[Step]) -> None:
        """Have the service apply updates to several tables at once."""
        changes = [_change(_pair(step.table.name()), step.requirements, step.updates) for step in steps]
        self._post(self.url(_TOGETHER), _Changes(table_changes=changes), NoSuchTableError)

    # -- views ------------------------------------------------------------------------------------------

    def view(self, identifier: Name) -> ViewMetadata:
        """The current version of a view."""
        url = self._url_of_view(identifier)
        known = self._asked("view", identifier, url, NoSuchViewError, ViewMetadata.model_validate)
        assert isinstance(known.metadata, ViewMetadata)
        return known.metadata

    def put_view(self, identifier: Name, old: ViewMetadata | None, new: ViewMetadata) -> None:
        """Create a view, or replace the version of it that was read."""
        schema = next(each for each in new.schemas if each.schema_id == _current(new)["schema-id"])
        told = schema.model_dump(mode="json", by_alias=True)
        if old is None:
            request: dict[str, Any] = {
                "name": identifier[1],
                "schema": {**told, "schema-id": 0},
                "view-version": {**_current(new), "version-id": 1, "schema-id": 0},
                "properties": new.properties,
            }
            path = self._split_identifier_for_path(identifier)["namespace"]
            self._post(self.url(Endpoints.create_view, namespace=path), request, NoSuchNamespaceError)
            return
        updates: list[dict[str, Any]] = []
        if new.current_version_id != old.current_version_id:
            updates += [
                {"action": "add-schema", "schema": told, "last-column-id": schema.highest_field_id},
                # The service numbers what comes; -1 stands for what came last.
                {"action": "add-view-version", "view-version": {**_current(new), "schema-id": -1}},
                {"action": "set-current-view-version", "view-version-id": -1},
            ]
        gone = sorted(old.properties.keys() - new.properties.keys())
        if gone:
            updates.append({"action": "remove-properties", "removals": gone})
        if new.properties:
            updates.append({"action": "set-properties", "updates": new.properties})
        requirements = [{"type": "assert-view-uuid", "uuid": str(old.view_uuid)}]
        request = {"requirements": requirements, "updates": updates}
        url = self._url_of_view(identifier)
        self._post(url, request, NoSuchViewError)

    def rename_view(self, source: Name, target: Name) -> None:
        """Give a view another name."""
        request = {
            "source": {"namespace": source[:1], "name": source[1]},
            "destination": {"namespace": target[:1], "name": target[1]},
        }
        self._post(self.url(_RENAME_VIEW), request, NoSuchTableError)

    # -- pyiceberg's hooks -----------------------------------------------------------------------------

    def _load_file_io(self, properties: Properties = EMPTY_DICT, location: str | None = None) -> FileIO:
        return self._io

    def _config_headers(self, session: Session) -> None:
        super()._config_headers(session)
        # Credentials for storage, which nobody here would use.
        session.headers.pop("X-Iceberg-Access-Delegation", None)
        limits = (_CONNECT_SECONDS, _ANSWER_SECONDS)
        session.request = functools.partial(session.request, timeout=limits)  # type: ignore[method-assign]

    # -- requests ---------------------------------------------------------------------------------------

    def _bucket_has(self, uri: str) -> bool:
        try:
            return bool(self._bucket.key_of(uri))
        except StorageError:
            return False

    def _url_of_view(self, name: Name) -> str:
        path = self._split_identifier_for_path(name)
        return self.url(Endpoints.load_view, namespace=path["namespace"], view=path["table"])

    def _with_token(self, ask: Callable[[], T]) -> T:
        """What a request gives, made again with a new token where the old one is not valid any more."""
        try:
            return ask()
        except (AuthorizationExpiredError, UnauthorizedError):
            self._refresh_token()
            return ask()

    def _asked(self, kind: str, name: Name, url: str, missing: type[Exception], parse: Any) -> _Known:
        known = self._known.get((kind, name))
        headers = {"If-None-Match": known.tag} if known and known.tag else None
        # Some services take a name that they would not keep for a wrong request.
        special = dict.fromkeys((400, 404), missing)
        response = self._with_token(lambda: _checked(self._session.get(url, headers=headers), special))
        if response.status_code == 304 and known is not None:
            return known
        told = response.json()
        location, tag = told.get("metadata-location") or "", response.headers.get("ETag", "")
        is_same = known is not None and location and known.location == location
        metadata = known.metadata if known and is_same else parse(told["metadata"])
        return self._remember(kind, name, _Known(tag, location, metadata))

    def _remember(self, kind: str, name: Name, known: _Known) -> _Known:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[kind, name] = known
        return known

    def _post(self, url: str, request: IcebergBaseModel | dict[str, Any], missing: type[Exception]) -> str:
        data = json.dumps(request) if isinstance(request, dict) else request.model_dump_json()
        special = {404: missing, 409: CommitFailedException}
        return self._with_token(lambda: _checked(self._session.post(url, data=data.encode()), special)).text

    def _refused(self, error: RESTError) -> LakehouseError:
        # What the service says may hold more than a client should see.
        _log.warning("the service of catalog '%s' refused a request: %s", self.name, error)
        if isinstance(error, BadRequestError):
            return InvalidRequest(f"the service of catalog '{self.name}' takes this for a wrong request")
        return StorageError(
            f"the service of catalog '{self.name}' refuses this server",
            "see whether its credential or token is valid, and what it may do",
        )


class _Changes(IcebergBaseModel):
    """The request for a joint commit."""

    table_changes: list[CommitTableRequest] = Field(serialization_alias="table-changes")


def open_rest(settings: CatalogConnection, bucket: Bucket) -> RemoteTables:
    """The tables of a REST service.

    Raises:
        ConfigError: It cannot be reached, or refuses this server.
    """
    uri = settings.location()
    properties = {**settings.properties, "uri": uri}
    if settings.credential:
        properties["credential"] = settings.credential.resolve().get_secret_value()
    if settings.token:
        properties["token"] = settings.token.resolve().get_secret_value()
    properties["oauth2-server-uri"] = settings.oauth2_server_uri or f"{uri.rstrip('/')}/v1/oauth/tokens"
    try:
        service = RestService(settings.name, bucket, **properties)
        store = RemoteTables(service, bucket, settings.warehouse, service.capabilities(), folds_names=False)
        store.list_namespaces()
    except (LakehouseError, NoSuchNamespaceError, ValueError, HTTPError) as error:
        reason = error.message if isinstance(error, LakehouseError) else "it is no Iceberg REST catalog"
        if isinstance(error, NoSuchNamespaceError):
            reason = "it does not know the warehouse of catalog.properties"
        raise ConfigError(
            f"the service of catalog '{settings.name}' cannot be used: {reason}",
            "see catalog.uri, catalog.credential and catalog.token",
        ) from error
    return store


def _pair(identifier: str | Identifier) -> Name:
    return identifier[0], identifier[1]


def _change(
    name: Name, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
) -> CommitTableRequest:
    identifier = TableIdentifier(namespace=name[:1], name=name[1])
    return CommitTableRequest(identifier=identifier, requirements=requirements, updates=updates)


def _current(view: ViewMetadata) -> dict[str, Any]:
    """The current version, as the wire has it."""
    (found,) = [each for each in view.versions if each.version_id == view.current_version_id]
    return found.model_dump(mode="json")


def _checked(response: Response, special: dict[int, type[Exception]]) -> Response:
    try:
        response.raise_for_status()
    except HTTPError as error:
        _handle_non_200_response(error, special)
    return response


def _may_have_arrived(error: Exception) -> bool:
    """Whether a request that failed may have been, or may yet be, carried out."""
    if isinstance(error, RESTError):
        # What is not the server's failure is an answer; 503 says that it did not begin.
        return isinstance(error, ServerError) and not isinstance(error, ServiceUnavailableError)
    if isinstance(error, ConnectTimeout):
        return False
    cause = error.args[0] if isinstance(error, NoConnection) and error.args else None
    return not (isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError))
