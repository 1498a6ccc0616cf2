"""Opens the two ways to a server, ADBC for SQL and Flight for the rest, as one session."""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
from adbc_driver_flightsql import DatabaseOptions

from lakehouse_client.errors import LakehouseClientError, client_errors

_URI = re.compile(r"grpc(\+tcp|\+tls)?://[^/\s]+:\d+/?|grpc\+unix://.+")
# Servers keep messages small unless a single row is large; ADBC by itself refuses more than 16 MiB.
_MAX_MESSAGE_BYTES = 2_147_483_647


Pem: TypeAlias = bytes | str | PathLike[str]


@dataclass(frozen=True)
class Access:
    """Who is calling, whom to trust, and how long one call may take."""

    token: str | None = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls_root_certs: Pem | None = None
    tls_client_cert: Pem | None = None
    tls_client_key: Pem | None = field(default=None, repr=False)
    timeout_s: float | None = None

    def transport(self) -> Transport:
        """The certificates to trust and to show, read from their files where those are named.

        Raises:
            LakehouseClientError: A file cannot be read, or one of certificate and key is missing.
        """
        if (self.tls_client_cert is None) != (self.tls_client_key is None):
            raise LakehouseClientError("TLS_FAILED", "a client certificate and its key are needed together")
        return Transport(_pem(self.tls_root_certs), _pem(self.tls_client_cert), _pem(self.tls_client_key))


@dataclass(frozen=True)
class Transport:
    """What encrypts a connection: PEM texts, or None."""

    root_certs: bytes | None
    client_cert: bytes | None
    client_key: bytes | None = field(repr=False)

    def of_flight(self) -> dict[str, bytes]:
        """As pyarrow names them."""
        named = {
            "tls_root_certs": self.root_certs,
            "cert_chain": self.client_cert,
            "private_key": self.client_key,
        }
        return {name: text for name, text in named.items() if text is not None}

    def of_adbc(self) -> dict[str, str]:
        """As ADBC names them."""
        named = {
            DatabaseOptions.TLS_ROOT_CERTS: self.root_certs,
            DatabaseOptions.MTLS_CERT_CHAIN: self.client_cert,
            DatabaseOptions.MTLS_PRIVATE_KEY: self.client_key,
        }
        return {name.value: text.decode() for name, text in named.items() if text is not None}


def _pem(source: Pem | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        message = f"cannot read {source}: {error.strerror}"
        raise LakehouseClientError("TLS_FAILED", message) from None


@dataclass(frozen=True)
class Channel:
    """Both ways to a server, in one session.

    Attributes:
        sql: The ADBC connection, in autocommit mode.
        flight: The Flight client.
        call: Options of every Flight call.
    """

    sql: adbc.Connection
    flight: flight.FlightClient
    call: flight.FlightCallOptions

    def enter(self, catalog: str | None, schema: str | None) -> None:
        """Set what names without a catalog or schema refer to.

        Raises:
            LakehouseClientError: There is no such catalog or schema.
        """
        for kind, name in (("catalog", catalog), ("db_schema", schema)):
            if name is None:
                continue
            try:
                with client_errors():
                    setattr(self.sql, f"adbc_current_{kind}", name)
            except LakehouseClientError as error:
                if error.code != "FAILED":
                    raise
                # The protocol says "invalid value" and no more.
                what = kind.removeprefix("db_")
                raise LakehouseClientError(
                    f"{what.upper()}_NOT_FOUND", f"there is no {what} '{name}'"
                ) from None

    def close(self) -> None:
        """End the session. A server that is gone has ended it already."""
        with suppress(LakehouseClientError), client_errors():
            self.sql.close()
        with suppress(LakehouseClientError), client_errors():
            self.flight.close()


class _Cookies(flight.ClientMiddlewareFactory):
    """Keeps the cookies that a server sets: they carry the session from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.jar: dict[str, str] = {}

    def start_call(self, info: flight.CallInfo) -> _CookiesOfCall:
        return _CookiesOfCall(self)

    @property
    def header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.jar.items())


class _CookiesOfCall(flight.ClientMiddleware):
    def __init__(self, cookies: _Cookies) -> None:
        super().__init__()
        self._cookies = cookies

    def sending_headers(self) -> dict[str, str]:
        return {"cookie": self._cookies.header} if self._cookies.jar else {}

    def received_headers(self, headers: dict[str, list[str]]) -> None:
        for text in headers.get("set-cookie", []):
            name, _, value = text.partition(";")[0].partition("=")
            self._cookies.jar[name.strip()] = value.strip()


def open_channel(uri: str, access: Access) -> Channel:
    """Connect both ways; the server is asked once, so that one that is not there is noticed now.

    Raises:
        LakehouseClientError: The address makes no sense, the server cannot be reached, or it refuses.
    """
    if not _URI.fullmatch(uri):
        raise LakehouseClientError(
            "INVALID_URI", f"expected grpc://host:port or grpc+tls://host:port, found '{uri}'"
        )
    cookies, transport = _Cookies(), access.transport()
    try:
        with client_errors():
            client = flight.connect(uri, middleware=[cookies], **transport.of_flight())
            try:
                authorization = _authorization(client, access)
                call = _call_options(authorization, access.timeout_s)
                _join(client, call)
                sql = adbc.connect(
                    uri, db_kwargs=_adbc_options(access, authorization, cookies, transport), autocommit=True
                )
            except BaseException:
                client.close()
                raise
    except LakehouseClientError as error:
        if error.code in ("UNREACHABLE", "TLS_FAILED"):
            raise LakehouseClientError(error.code, f"{uri}: {error.message}") from None
        raise
    return Channel(sql, client, call)


def _authorization(client: flight.FlightClient, access: Access) -> bytes | None:
    """What every call sends as ``authorization``: the given token, or the one that a login gives.

    A server that knows its clients by their certificates may offer no login; it gets user and password with
    every call instead.
    """
    if access.user is None:
        return None if access.token is None else b"Bearer " + access.token.encode()
    password = access.password or ""
    try:
        _, value = client.authenticate_basic_token(access.user, password)
    except pa.ArrowNotImplementedError:
        value = b""
    return bytes(value) or b"Basic " + base64.b64encode(f"{access.user}:{password}".encode())


def _call_options(authorization: bytes | None, timeout_s: float | None) -> flight.FlightCallOptions:
    headers = [] if authorization is None else [(b"authorization", authorization)]
    return flight.FlightCallOptions(timeout=timeout_s, headers=headers)


def _join(client: flight.FlightClient, call: flight.FlightCallOptions) -> None:
    """Get the cookie of a session; servers that keep none may not know the question."""
    with suppress(pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowKeyError):
        list(client.do_action(flight.Action("GetSessionOptions", b""), call))


def _adbc_options(
    access: Access, authorization: bytes | None, cookies: _Cookies, transport: Transport
) -> dict[str, str]:
    options = {DatabaseOptions.WITH_MAX_MSG_SIZE.value: str(_MAX_MESSAGE_BYTES), **transport.of_adbc()}
    if cookies.jar:
        options[DatabaseOptions.RPC_CALL_HEADER_PREFIX.value + "cookie"] = cookies.header
    else:
        options[DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value] = "true"
    if authorization is not None:
        options[DatabaseOptions.AUTHORIZATION_HEADER.value] = authorization.decode()
    if access.timeout_s is not None:
        kinds = (DatabaseOptions.TIMEOUT_QUERY, DatabaseOptions.TIMEOUT_FETCH, DatabaseOptions.TIMEOUT_UPDATE)
        options.update({kind.value: str(access.timeout_s) for kind in kinds})
    return options
