"""Where a PostgreSQL database is and how to get in, with nothing of the secrets in what can be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote as percent_encoded

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from lakehouse.config.secret_ref import SecretRef
from lakehouse.errors import InvalidRequest

TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# What makes libpq look at files or sockets of this machine, or at identities that belong to it.
_LOCAL = frozenset(
    "gssencmode gsslib krbsrvname passfile requirepeer service sslcert sslcrl sslcrldir sslkey sslkeylogfile "
    "sslpassword sslrootcert".split()
)
_OURS = frozenset({"client_encoding", "replication", "fallback_application_name"})
_NOWHERE = "/nonexistent/lakehouse"
_SECRETS = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
_HIDDEN = "***"


class Dsn:
    """How to connect. It shows the host, port and database, and nothing else.

    The password is asked for at each connection, so that a secret that was changed is used.
    """

    __slots__ = ("_password", "_secrets", "_values", "dbname", "host", "port")

    def __init__(self, values: Mapping[str, str], password: SecretRef | None) -> None:
        self._values = {name: SecretStr(value) for name, value in values.items()}
        self._password = password
        self._secrets: set[str] = set()
        self.host = values["host"]
        self.port = values.get("port", "5432")
        self.dbname = values.get("dbname") or values.get("user", "")

    @classmethod
    def parse(cls, text: str | SecretStr, password: SecretRef | None = None, *, local: bool = False) -> Dsn:
        """Read a URI (``postgresql://user@host/database``) or keywords (``host=… dbname=… user=…``).

        Args:
            text: The DSN; best without a password.
            password: Where the password is; not together with one in the text.
            local: Whether it may name files and sockets of this machine: certificates, keys, ``passfile``,
                ``service``. Only for text that the operator wrote: to others it would lend the identities
                that this machine has.

        Raises:
            InvalidRequest: It cannot be read, or names what it must not. The text is not repeated.
        """
        values = _values(text.get_secret_value() if isinstance(text, SecretStr) else text)
        host = values.get("host") or values.get("hostaddr")
        if not host or not values.get("user"):
            lacking = "host" if not host else "user"
            raise InvalidRequest(f"the DSN names no {lacking}, expected postgresql://user@host:port/database")
        values["host"] = host
        if refused := sorted(_OURS & values.keys()):
            raise InvalidRequest(f"the DSN sets {', '.join(refused)}, which the server sets itself")
        if not local and (refused := sorted(_LOCAL & values.keys())):
            raise InvalidRequest(
                f"the DSN sets {', '.join(refused)}, files or identities of the server's machine",
                "only the configuration of the server may do so",
            )
        if not local and any(each.startswith(("/", "@")) or not each for each in host.split(",")):
            raise InvalidRequest("the DSN names a local socket, expected the name of a host")
        if (mode := values.get("sslmode", "prefer")) not in TLS_MODES:
            raise InvalidRequest(f"the DSN's sslmode is '{mode}', expected one of {', '.join(TLS_MODES)}")
        if password is not None and values.get("password"):
            raise InvalidRequest("the DSN holds a password and a secret reference is given; give one of them")
        return cls(values, password)

    def conninfo(self) -> str:
        """The whole of it, password included: for a driver's ears only.

        Raises:
            ConfigError: The secret reference leads nowhere.
        """
        values = {name: value.get_secret_value() for name, value in self._values.items()}
        if self._password is not None:
            values["password"] = self._password.resolve().get_secret_value()
        self._secrets.update(_parts_to_hide(values))
        # Nothing may come from PG* variables or the home directory of whoever runs the server.
        values = {
            "port": "5432",
            "dbname": self.dbname,
            "password": "",
            "passfile": _NOWHERE,
            "sslmode": "prefer",
            "sslcertmode": "disable" if "sslcert" not in values else "allow",
            "gssencmode": "disable",
            "options": "",
            "connect_timeout": "10",
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
            "application_name": "lakehouse",
            **values,
            "client_encoding": "UTF8",
        }
        return make_conninfo(**values)

    @property
    def where(self) -> str:
        """Host and port, as messages name the server."""
        return f"{self.host}:{self.port}"

    def scrub(self, text: str) -> str:
        """A message of a driver without the secrets that went into it."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return text

    def __str__(self) -> str:
        return f"postgresql://{self.where}/{percent_encoded(self.dbname, safe='')}"

    def __repr__(self) -> str:
        return f"Dsn({str(self)!r})"


def _values(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    if "\0" not in text:
        try:
            values = {name: str(value) for name, value in conninfo_to_dict(text).items() if value is not None}
        except ProgrammingError:
            values = {}  # its message repeats the text
    if not values:
        raise InvalidRequest(
            "the DSN cannot be read, expected a URI (postgresql://user@host:port/database) or "
            "keywords (host=… port=… dbname=… user=…)",
            "characters such as / @ : % in a URI's user or password have to be percent-encoded",
        )
    return values


def _parts_to_hide(values: Mapping[str, str]) -> set[str]:
    found = {values.get(name, "") for name in _SECRETS}
    # -c name=value: a setting of the session may be a key.
    found.update(re.findall(r"=((?:\\.|[^\s\\])+)", values.get("options", "")))
    found = {each for each in found if len(each) > 1}
    return found | {percent_encoded(each, safe="") for each in found}
