"""The password of a database, from where users of ``psql`` keep it: no command line has to hold it."""

from __future__ import annotations

import getpass
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

import click

from flight_server.cli.options import stderr

_URI = re.compile(
    r"(?P<scheme>postgres(?:ql)?)://(?:(?P<user>[^@/?#]*)@)?(?P<hosts>[^/?#]*)"
    r"(?:/(?P<dbname>[^?#]*))?(?:\?(?P<query>.*))?"
)
_HOST = re.compile(r"(?P<host>\[[^]]*\]|[^:]*)(?::(?P<port>\d*))?")
_FIELDS = 5


@dataclass(frozen=True, slots=True)
class DatabaseUri:
    """A URI of a database, taken apart as far as its password is concerned."""

    scheme: str
    user: str
    password: str
    hosts: str
    dbname: str
    query: str

    @classmethod
    def parse(cls, text: str) -> DatabaseUri:
        """Take a URI apart; a user who is not named is ``PGUSER``, or the one of this machine.

        Raises:
            UsageError: It is none. The text is not repeated: it may hold a password.
        """
        found = _URI.fullmatch(text)
        if found is None:
            raise click.UsageError("expected postgresql://user@host:port/database")
        user, _, password = (found["user"] or "").partition(":")
        parameters = dict(parse_qsl(found["query"] or ""))
        return cls(
            found["scheme"],
            unquote(user) or parameters.get("user") or os.environ.get("PGUSER") or _operator(),
            unquote(password) or parameters.get("password", ""),
            found["hosts"],
            unquote(found["dbname"] or ""),
            found["query"] or "",
        )

    def text(self, password: str = "") -> str:
        """The URI again, with this password or its own."""
        secret = password or self.password
        login = quote(self.user, safe="") + (f":{quote(secret, safe='')}" if secret else "")
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{login}@{self.hosts}/{quote(self.dbname, safe='')}{query}"

    def known_password(self) -> str:
        """From ``PGPASSWORD``, else from the password file; empty where neither has it."""
        return os.environ.get("PGPASSWORD") or _from_file(self._places())

    def _places(self) -> list[tuple[str, str, str, str]]:
        """Host, port, database and user, for each host."""
        parameters = dict(parse_qsl(self.query))
        found = []
        dbname = self.dbname or parameters.get("dbname") or self.user
        for place in self.hosts.split(","):
            parts = _HOST.match(place)
            host, port = (parts["host"].strip("[]"), parts["port"]) if parts else ("", "")
            host = host or parameters.get("host", "")
            found.append((host, port or parameters.get("port", "5432"), dbname, self.user))
        return found


def with_password(text: str) -> str:
    """A URI with its password, if that is known: its own, ``PGPASSWORD``, or the password file's.

    Raises:
        UsageError: It is no URI.
    """
    uri = DatabaseUri.parse(text)
    return uri.text() if uri.password else uri.text(uri.known_password())


def with_asked_password(text: str) -> str:
    """A URI with a password that is asked for on the terminal.

    Raises:
        UsageError: It is no URI.
    """
    uri = DatabaseUri.parse(text)
    asked = click.prompt(f"Password of {uri.user} at {uri.hosts}", hide_input=True, err=True)
    return uri.text(str(asked))


def _from_file(places: list[tuple[str, str, str, str]]) -> str:
    """The password of the first line that fits, as libpq finds it."""
    file = Path(os.environ.get("PGPASSFILE") or Path.home() / ".pgpass")
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return ""
        if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            stderr().print(f"{file} is passed over: others may read it (chmod 0600)", markup=False)
            return ""
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    for place in places:
        for line in lines:
            fields = _fields(line)
            if len(fields) == _FIELDS and all(
                said in ("*", asked) for said, asked in zip(fields, place, strict=False)
            ):
                return fields[-1]
    return ""


def _fields(line: str) -> list[str]:
    r"""The fields of a line of a password file: ``:`` parts them, ``\`` takes the next character as it is."""
    if line.startswith("#"):
        return []
    fields = re.findall(r"((?:\\.|[^:\\])*)(?::|\Z)", line)[:_FIELDS]
    return [re.sub(r"\\(.)", r"\1", field) for field in fields]


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        return ""
