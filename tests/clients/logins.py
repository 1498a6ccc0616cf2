"""How each real client is told who it is and whom to trust, and what ``SELECT current_user`` then gives it.

A client in this process is a function; the others are programs that log in once for each line they are given.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import lakehouse_client
import pandas as pd
import polars as pl
import pyarrow.flight as flight
import sqlalchemy
from adbc_driver_flightsql import DatabaseOptions
from doors import Credential, Door, environment_of_clients

BUILD = Path(__file__).parents[2] / "build"
JDBC_VERSIONS = re.findall(
    r"^\d\S*", (Path(__file__).parent / "jdbc" / "versions.txt").read_text("utf-8"), re.MULTILINE
)
QUERY = "SELECT current_user"
_LOGIN_SECONDS = 120


@dataclass(frozen=True)
class Login:
    """One attempt to get in.

    Attributes:
        way: ``password`` (user and password, as the client sends them by itself), ``basic`` (the same as a
            header of every call), ``bearer``, ``certificate`` (and nothing else), or ``nothing``.
        trusts_anybody: Whether the client is told not to look at the server's certificate.
    """

    id: str
    door: Door
    way: str
    credential: Credential
    trusts_anybody: bool = False


@dataclass(frozen=True)
class Outcome:
    """Who the server said was calling, or why the client could not ask."""

    principal: str = ""
    error: str = ""


def attempt(whoami: Callable[[Login], str], login: Login) -> Outcome:
    """The outcome of a login in this process."""
    try:
        return Outcome(whoami(login))
    except Exception as error:  # noqa: BLE001 - whatever a client raises is what is looked at
        return Outcome(error=f"{type(error).__name__}: {error}")


# -- ADBC and what stands on it ---------------------------------------------------------------------------


def _adbc_options(login: Login) -> dict[str, str]:
    credential, door = login.credential, login.door
    options: dict[str, str] = {}
    match login.way:
        case "password":
            options |= {"username": credential.user, "password": credential.secret}
        case "basic":
            options[DatabaseOptions.AUTHORIZATION_HEADER.value] = credential.basic
        case "bearer":
            options[DatabaseOptions.AUTHORIZATION_HEADER.value] = f"Bearer {credential.secret}"
    if login.trusts_anybody:
        options[DatabaseOptions.TLS_SKIP_VERIFY.value] = "true"
    elif door.authority is not None:
        options[DatabaseOptions.TLS_ROOT_CERTS.value] = door.authority.read_text()
    if credential.certificate is not None and credential.key is not None:
        options[DatabaseOptions.MTLS_CERT_CHAIN.value] = credential.certificate.read_text()
        options[DatabaseOptions.MTLS_PRIVATE_KEY.value] = credential.key.read_text()
    return options


def _connected(login: Login) -> adbc.Connection:
    return adbc.connect(login.door.uri, db_kwargs=_adbc_options(login), autocommit=True)


def by_adbc(login: Login) -> str:
    """adbc_driver_flightsql.dbapi."""
    with _connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(QUERY)
        return str(cursor.fetchone()[0])


def by_polars(login: Login) -> str:
    """polars over an ADBC connection."""
    with _connected(login) as connection:
        return str(pl.read_database(QUERY, connection).item())


def by_polars_address(login: Login) -> str:
    """polars by address, in which there is room for user and password only."""
    credential = login.credential
    quoted = urllib.parse.quote(credential.user), urllib.parse.quote(credential.secret, safe="")
    own = f"{quoted[0]}:{quoted[1]}@" if credential.user else ""
    transport = "tls" if login.door.authority else "tcp"
    address = f"flightsql://{own}127.0.0.1:{login.door.port}?transport={transport}"
    return str(pl.read_database_uri(QUERY, address, engine="adbc").item())


def by_pandas(login: Login) -> str:
    """pandas over an ADBC connection."""
    with _connected(login) as connection:
        return str(pd.read_sql(QUERY, connection).iloc[0, 0])


def by_sqlalchemy(login: Login) -> str:
    """SQLAlchemy with the dialect of sqlalchemy-adbc; driver options go into the address."""
    options = _adbc_options(login)
    header = options.pop(DatabaseOptions.AUTHORIZATION_HEADER.value, None)
    if header is not None:
        options["authorization"] = header
    tls = "true" if login.door.authority else "false"
    query = urllib.parse.urlencode({"tls": tls, **options})
    engine = sqlalchemy.create_engine(f"adbc+flightsql://127.0.0.1:{login.door.port}?{query}")
    try:
        with engine.connect() as connection:
            return str(connection.execute(sqlalchemy.text(QUERY)).scalar_one())
    finally:
        engine.dispose()


# -- Flight and our own client ------------------------------------------------------------------------------


def by_pyarrow(login: Login) -> str:
    """pyarrow.flight, which knows actions."""
    credential, door = login.credential, login.door
    options: dict[str, Any] = {}
    if login.trusts_anybody:
        options["disable_server_verification"] = True
    elif door.authority is not None:
        options["tls_root_certs"] = door.authority.read_bytes()
    if credential.certificate is not None and credential.key is not None:
        options["cert_chain"] = credential.certificate.read_bytes()
        options["private_key"] = credential.key.read_bytes()
    headers: list[tuple[bytes, bytes]] = []
    with flight.connect(door.uri, **options) as client:
        match login.way:
            case "password":
                headers = [client.authenticate_basic_token(credential.user, credential.secret)]
            case "basic":
                headers = [(b"authorization", credential.basic.encode())]
            case "bearer":
                headers = [(b"authorization", f"Bearer {credential.secret}".encode())]
        call = flight.FlightCallOptions(timeout=_LOGIN_SECONDS, headers=headers)
        [answer] = client.do_action(flight.Action("auth.whoami", b"{}"), call)
        return str(json.loads(answer.body.to_pybytes())["name"])


def by_lakehouse_client(login: Login) -> str:
    """lakehouse_client."""
    credential = login.credential
    user = {"user": credential.user, "password": credential.secret} if login.way == "password" else {}
    with lakehouse_client.connect(
        login.door.uri,
        **user,
        token=credential.secret if login.way == "bearer" else None,
        tls_root_certs=login.door.authority,
        tls_client_cert=credential.certificate,
        tls_client_key=credential.key,
    ) as client:
        principal = client.actions.auth.whoami().name
        assert client.sql(QUERY).table().column(0).to_pylist() == [principal]
        return principal


IN_PROCESS: dict[str, Callable[[Login], str]] = {
    "adbc": by_adbc,
    "polars": by_polars,
    "polars_address": by_polars_address,
    "pandas": by_pandas,
    "sqlalchemy": by_sqlalchemy,
    "pyarrow": by_pyarrow,
    "lakehouse_client": by_lakehouse_client,
}


# -- programs -----------------------------------------------------------------------------------------------


def by_command(login: Login) -> Outcome:
    """The command ``lakehouse``, told everything through its environment."""
    credential, own = login.credential, {"LAKEHOUSE_URI": login.door.uri}
    if login.way == "password":
        own |= {"LAKEHOUSE_USER": credential.user, "LAKEHOUSE_PASSWORD": credential.secret}
    elif login.way == "bearer":
        own["LAKEHOUSE_TOKEN"] = credential.secret
    files = {
        "LAKEHOUSE_TLS_ROOT_CERTS": login.door.authority,
        "LAKEHOUSE_TLS_CERT": credential.certificate,
        "LAKEHOUSE_TLS_KEY": credential.key,
    }
    own |= {name: str(path) for name, path in files.items() if path is not None}
    done = subprocess.run(
        [sys.executable, "-m", "flight_server", "sql", QUERY, "--format", "csv"],
        env={**environment_of_clients(), **own},
        capture_output=True,
        text=True,
        timeout=_LOGIN_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return Outcome(done.stdout.splitlines()[1])
    return Outcome(error=done.stderr)


_DBAPI_PROGRAM = """
import json, sys
from flightsql import FlightSQLClient, connect
for line in sys.stdin:
    asked = json.loads(line)
    said = {"id": asked["id"], "principal": "", "error": ""}
    try:
        for name in asked["files"]:
            asked["options"][name] = open(asked["files"][name], "rb").read()
        client = FlightSQLClient(host="127.0.0.1", **asked["options"])
        with connect(client) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT current_user")
            said["principal"] = cursor.fetchone()[0]
    except Exception as error:
        said["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(said), flush=True)
"""


def by_flightsql_dbapi(python: Path, logins: Iterable[Login]) -> dict[str, Outcome]:
    """flightsql-dbapi, in an environment of its own."""
    return _json_program([str(python), "-c", _DBAPI_PROGRAM], [_for_flightsql_dbapi(x) for x in logins])


def _for_flightsql_dbapi(login: Login) -> dict[str, Any]:
    credential, door = login.credential, login.door
    options: dict[str, Any] = {"port": door.port}
    files: dict[str, str] = {}
    match login.way:
        case "password":
            options |= {"user": credential.user, "password": credential.secret}
        case "bearer":
            options["token"] = credential.secret
    if door.authority is None:
        options["insecure"] = True
    elif login.trusts_anybody:
        options["disable_server_verification"] = True
    else:
        files["tls_root_certs"] = str(door.authority)
    if credential.certificate is not None:
        files |= {"cert_chain": str(credential.certificate), "private_key": str(credential.key)}
    return {"id": login.id, "options": options, "files": files}


def by_go(program: Path, logins: Iterable[Login]) -> dict[str, Outcome]:
    """The driver of arrow-go for database/sql."""
    return _json_program([str(program)], [_for_go(login) for login in logins])


def _for_go(login: Login) -> dict[str, Any]:
    credential, door = login.credential, login.door
    own, parameters = "", {"timeout": "20s"}
    if login.way == "password":
        user, password = credential.user, urllib.parse.quote(credential.secret, safe="")
        own = f"{user}:{password}@"
    elif login.way == "bearer":
        parameters["token"] = credential.secret
    asked = {"id": login.id}
    if login.trusts_anybody:
        parameters["tls"] = "skip-verify"
    elif door.authority is not None:
        asked["authority"] = str(door.authority)
    if credential.certificate is not None:
        asked |= {"certificate": str(credential.certificate), "key": str(credential.key)}
    query = urllib.parse.urlencode(parameters)
    return {**asked, "address": f"flightsql://{own}127.0.0.1:{door.port}?{query}"}


def by_grafana(program: Path, authority: Path, logins: Iterable[Login]) -> dict[str, Outcome]:
    """Flight SQL as Grafana's plug-in speaks it. It trusts what its system trusts, here ``authority``."""
    lines = [
        {
            "id": login.id,
            "host": f"127.0.0.1:{login.door.port}",
            "secure": login.door.authority is not None,
            "user": login.credential.user,
            "password": login.credential.secret if login.way == "password" else "",
            "token": login.credential.secret if login.way == "bearer" else "",
        }
        for login in logins
    ]
    return _json_program([str(program)], lines, SSL_CERT_FILE=str(authority))


def _json_program(command: list[str], lines: list[dict[str, Any]], **environment: str) -> dict[str, Outcome]:
    output = _run(command, "".join(json.dumps(line) + "\n" for line in lines), **environment)
    said = [json.loads(line) for line in output.splitlines()]
    return {each["id"]: Outcome(each["principal"], each["error"]) for each in said}


def by_jdbc(java: str, classes: Path, jar: Path, store: Path, logins: Iterable[Login]) -> dict[str, Outcome]:
    """The JDBC driver in ``jar``. It takes the authority from the key store ``store``."""
    return java_program(java, classes, jar, [(x.id, _jdbc_url(x, store)) for x in logins])


def seen_by_other_jdbc(
    java: str, classes: Path, jar: Path, pairs: Mapping[str, tuple[Login, Login]]
) -> dict[str, Outcome]:
    """What the second of two JDBC connections says about a temporary table of the first."""
    lines = [(name, _jdbc_url(one, jar), _jdbc_url(two, jar)) for name, (one, two) in pairs.items()]
    return java_program(java, classes, jar, lines)


def java_program(java: str, classes: Path, jar: Path, lines: Iterable[tuple[str, ...]]) -> dict[str, Outcome]:
    """What becomes of the logins; a line is an id and one or two URLs."""
    command = [
        java,
        "-Xmx512m",
        "-XX:TieredStopAtLevel=1",
        "--add-opens=java.base/java.nio=ALL-UNNAMED",
        "-cp",
        f"{classes}:{jar}",
        "AuthChecks",
    ]
    output = _run(command, "".join("\t".join(line) + "\n" for line in lines))
    outcomes: dict[str, Outcome] = {}
    for line in output.splitlines():
        state, name, text = [*line.split("\t", 2), "", "", ""][:3]
        if state in ("ok", "FAIL"):
            outcomes[name] = Outcome(text) if state == "ok" else Outcome(error=text)
    return outcomes


def _jdbc_url(login: Login, store: Path) -> str:
    credential, door = login.credential, login.door
    properties = {"useEncryption": "true" if door.authority else "false"}
    if login.way == "password":
        properties |= {"user": credential.user, "password": credential.secret}
    elif login.way == "basic":
        # What the driver does not know it sends as a header.
        properties["authorization"] = credential.basic
    elif login.way == "bearer":
        properties["token"] = credential.secret
    if login.trusts_anybody:
        properties["disableCertificateVerification"] = "true"
    elif door.authority is not None:
        properties |= (
            {"tlsRootCerts": str(door.authority)}
            if credential.certificate
            else {
                "useSystemTrustStore": "false",
                "trustStore": str(store),
                "trustStorePassword": STORE_PASSWORD,
            }
        )
    if credential.certificate is not None:
        properties |= {"clientCertificate": str(credential.certificate), "clientKey": str(credential.key)}
    return f"jdbc:arrow-flight-sql://127.0.0.1:{door.port}?" + urllib.parse.urlencode(
        properties, quote_via=urllib.parse.quote
    )


STORE_PASSWORD = "changeit"


def make_trust_store(keytool: str, authority: Path, store: Path) -> None:
    """Put an authority into a Java key store."""
    command = [keytool, "-importcert", "-noprompt", "-alias", "authority", "-storepass", STORE_PASSWORD]
    subprocess.run(
        [*command, "-file", str(authority), "-keystore", str(store)],
        check=True,
        capture_output=True,
    )


def _run(command: list[str], lines: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        input=lines,
        env={**environment_of_clients(), **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
