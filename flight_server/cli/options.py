"""Options that several commands take, and what they stand for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lakehouse_client import Client

    from lakehouse.config import Settings

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_URI = "grpc://127.0.0.1:31337"
_PEM = click.Path(path_type=Path, exists=True, dir_okay=False)

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration file [default: ./lakehouse.toml where there is one].",
)
SERVER = (
    CONFIG,
    click.option("--host", help="Address to listen on."),
    click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one."),
    click.option(
        "--insecure", is_flag=True, help="Serve other machines even without encryption and authentication."
    ),
)
CREDENTIALS = (
    click.option(
        "--token",
        envvar="LAKEHOUSE_TOKEN",
        show_envvar=True,
        help="Bearer token or API key; better in the environment.",
    ),
    click.option(
        "--user",
        envvar="LAKEHOUSE_USER",
        show_envvar=True,
        help="User name. The password is taken from LAKEHOUSE_PASSWORD, or asked for.",
    ),
    click.option(
        "--tls-root-certs",
        type=_PEM,
        envvar="LAKEHOUSE_TLS_ROOT_CERTS",
        show_envvar=True,
        help="PEM file with the certificates to trust instead of the system's.",
    ),
    click.option(
        "--tls-cert",
        type=_PEM,
        envvar="LAKEHOUSE_TLS_CERT",
        show_envvar=True,
        help="PEM file with the certificate to show to a server that asks for one.",
    ),
    click.option(
        "--tls-key",
        type=_PEM,
        envvar="LAKEHOUSE_TLS_KEY",
        show_envvar=True,
        help="PEM file with the key of that certificate.",
    ),
)
CLIENT = (
    click.option(
        "--uri",
        envvar="LAKEHOUSE_URI",
        default=_DEFAULT_URI,
        show_default=True,
        show_envvar=True,
        help="Server to talk to: grpc://host:port or grpc+tls://host:port.",
    ),
    *CREDENTIALS,
)


def options(*chosen: Callable[[F], F]) -> Callable[[F], F]:
    """These options, in this order."""

    def decorate(command: F) -> F:
        for option in reversed(chosen):
            command = option(command)
        return command

    return decorate


def settings_of(config: Path | None, **server: Any) -> Settings:
    """The configuration, with what the command line overrides of its section ``server``."""
    from lakehouse.config import load_settings  # noqa: PLC0415

    # Neither an option left out nor a flag not given says anything.
    given = {key: value for key, value in server.items() if value is not None and value is not False}
    return load_settings(config, {"server": given} if given else None)


@contextmanager
def connected(
    uri: str,
    token: str | None,
    user: str | None,
    tls_root_certs: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    schema: str | None = None,
) -> Iterator[Client]:
    """A client of the server that the options name."""
    from lakehouse_client import LakehouseClientError, connect  # noqa: PLC0415

    # Otherwise the transport writes to standard error what the one line of an error says better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        client = connect(
            uri,
            token=None if user else token,
            user=user,
            password=_password() if user else None,
            tls_root_certs=tls_root_certs,
            tls_client_cert=tls_cert,
            tls_client_key=tls_key,
            schema=schema,
        )
    except LakehouseClientError as error:
        if error.code == "INVALID_URI":
            raise click.BadParameter(error.message, param_hint="--uri") from None
        raise
    try:
        yield client
    except KeyboardInterrupt:
        raise  # the end of the program ends the session sooner than asking for it
    except BaseException:
        client.close()
        raise
    client.close()


def _password() -> str:
    """From the environment, else asked for; never from the command line, which others can see."""
    found = os.environ.get("LAKEHOUSE_PASSWORD")
    return found if found is not None else str(click.prompt("Password", hide_input=True, err=True))


def stderr() -> Console:
    """Where everything goes that is not the result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def listing(*names: str) -> Table:
    """An empty table of these columns."""
    return Table(*names, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def print_listing(table: Table) -> None:
    """Show a table as it is, brackets included, and whole even where the output is no terminal."""
    from flight_server.output import fitting  # noqa: PLC0415

    fitting(Console(markup=False)).print(table)
