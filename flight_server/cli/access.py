"""Commands about who gets in."""

from __future__ import annotations

import getpass
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flight_server.cli.options import (
    CONFIG,
    CREDENTIALS,
    connected,
    listing,
    options,
    print_listing,
    settings_of,
    stderr,
)
from flight_server.cli.program import cli

if TYPE_CHECKING:
    from lakehouse.access.api_keys import ApiKeys

_WHERE = (
    CONFIG,
    click.option(
        "--uri", help="Ask this server, as an admin, instead of opening the configuration's bucket."
    ),
    *CREDENTIALS,
)


@cli.command("hash-password")
def hash_password() -> None:
    """Print the argon2 hash of a password for auth.users; it is asked for, or read from standard input."""
    from lakehouse.access.passwords import hash_password as hashed  # noqa: PLC0415

    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise click.UsageError("the password is empty")
    click.echo(hashed(password))


@cli.group()
def keys() -> None:
    """Make, list and revoke API keys.

    Without --uri this works on the bucket of the configuration, whether a server runs or not; running
    servers know within seconds.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--role", "roles", multiple=True, required=True, help="What its holder may do; may be repeated."
)
@click.option("--principal", help="Who its holder is [default: the key's own name].")
@click.option(
    "--expires-days", type=click.FloatRange(min=0, min_open=True, max=36_500), help="How long it is good for."
)
@options(*_WHERE)
def create(
    name: str, roles: tuple[str, ...], principal: str | None, expires_days: float | None, **where: Any
) -> None:
    """Make a key called NAME; it is printed once and can never be shown again."""
    if expires_days is not None and math.isnan(expires_days):
        raise click.BadParameter("not a number", param_hint="--expires-days")
    expires_in = None if expires_days is None else timedelta(days=expires_days)
    holder = name if principal is None else principal
    if where["uri"] is None:
        with _offline(where["config"]) as found:
            key, text = found.create(name, holder, roles, expires_in, _operator())
            key_id = key.id
    else:
        with _online(where) as client:
            made = client.call(
                "auth.keys.create",
                {
                    "name": name,
                    "principal": holder,
                    "roles": list(roles),
                    "expires_in_seconds": None
                    if expires_in is None
                    else max(1, round(expires_in.total_seconds())),
                },
            )
            key_id, text = made["id"], made["key"]
    click.echo(text)
    stderr().print(f"key {key_id}: keep it now, it is not stored", style="dim")


@keys.command("list")
@options(*_WHERE)
def list_keys(**where: Any) -> None:
    """List every key, the oldest first."""
    table = listing("id", "name", "principal", "roles", "state", "created", "expires")
    if where["uri"] is None:
        with _offline(where["config"]) as found:
            rows = [state.public() for state in found.states()]
    else:
        with _online(where) as client:
            rows = client.call("auth.keys.list")["keys"]
    for row in rows:
        table.add_row(
            row["id"],
            row["name"],
            row["principal"],
            ", ".join(row["roles"]),
            row["state"],
            _day(row["created_at"]),
            _day(row["expires_at"]) or "never",
        )
    print_listing(table)


@keys.command()
@click.argument("key_id", metavar="ID")
@options(*_WHERE)
def revoke(key_id: str, **where: Any) -> None:
    """Revoke the key with this ID."""
    if where["uri"] is None:
        with _offline(where["config"]) as found:
            revoked = found.revoke(key_id, _operator())
    else:
        with _online(where) as client:
            revoked = client.call("auth.keys.revoke", {"id": key_id})["revoked"]
    stderr().print(f"key {key_id} is revoked" if revoked else f"key {key_id} was revoked before")


@contextmanager
def _offline(config: Path | None) -> Iterator[ApiKeys]:
    """The keys in the configuration's bucket."""
    from lakehouse.access.api_keys import ApiKeys  # noqa: PLC0415
    from lakehouse.clock import SystemClock  # noqa: PLC0415
    from lakehouse.config.access import BUILT_IN_ROLES  # noqa: PLC0415
    from lakehouse.storage import open_bucket  # noqa: PLC0415

    settings = settings_of(config)
    roles = [*BUILT_IN_ROLES, *(role.name for role in settings.roles)]
    yield ApiKeys(open_bucket(settings.primary_bucket), SystemClock(), roles)
    if not settings.auth.api_keys:
        stderr().print("servers with this configuration accept no API keys: auth.api_keys = false")


def _online(where: dict[str, Any]) -> Any:
    return connected(**{key: value for key, value in where.items() if key != "config"})


def _operator() -> str:
    try:
        return f"{getpass.getuser()} (lakehouse keys)"
    except (KeyError, OSError):  # a user id without a name, as containers have
        return "lakehouse keys"


def _day(value: Any) -> str:
    return "" if value is None else str(value)[:16].replace("T", " ")
