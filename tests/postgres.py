"""A PostgreSQL of the test run's own: Debian's package ``postgresql``, started on a port of its own."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from conftest import need
from ports import free_ports

PASSWORD = "p/w@1"
_ENCODED = "p%2Fw%401"


@dataclass
class Postgres:
    """A running database server. It holds nothing that outlives the run."""

    directory: Path
    port: int
    control: str
    as_user: tuple[str, ...]
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def database(self) -> str:
        """The URL of a new, empty database, password included."""
        name = f"test{next(self.numbers)}"
        where = f"host=127.0.0.1 port={self.port} user=lake password={PASSWORD} dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://lake:{_ENCODED}@127.0.0.1:{self.port}/{name}"

    def dsn(self, database: str, user: str = "lake", password: str = _ENCODED) -> str:
        """A URL of one of its databases, as libpq wants it."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def halt(self) -> None:
        """End it as a crash would; its files stay."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        """Start it again, on the same port."""
        self._control("-l", str(self.directory / "log"), "-o", _server(self.port), "start")

    def restart(self) -> None:
        """Crash it and start it again."""
        self.halt()
        self.start()

    def stop(self) -> None:
        """End it and remove its files."""
        self.halt()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        subprocess.run(
            [*self.as_user, self.control, "-D", str(self.directory / "data"), "-w", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )


def _server(port: int) -> str:
    return f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"


def start_postgres() -> Postgres:
    """Start a server; skips the test where the package ``postgresql`` is missing, but fails in CI."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    control = str(installed[-1]) if installed else need("pg_ctl")
    # The temporary directory of a test run is closed to other users.
    directory = Path(tempfile.mkdtemp(prefix="lakehouse-postgres-"))
    (directory / "password").write_text(PASSWORD)
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root. Were it for subprocess to change the user, it would have to fork,
        # which gRPC in this process does not always survive.
        user = pwd.getpwnam("postgres")
        as_user = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        for path in (directory, directory / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
    (port,) = free_ports(1)
    first = f"--auth=scram-sha-256 --username=lake --pwfile={directory}/password --encoding=UTF8 --no-sync"
    command = [*as_user, control, "-D", f"{directory}/data", "-l", f"{directory}/log", "-w"]
    for more in (["-o", first, "initdb"], ["-o", _server(port), "start"]):
        subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL, cwd="/")
    return Postgres(directory, port, control, as_user)
