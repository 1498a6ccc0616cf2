"""The command ``lakehouse``: serve, try out, and query any server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import structlog
from lakehouse_client import DEFAULT_URI, Client, LakehouseClientError, connect
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flight_server import __version__
from flight_server.output import FORMATS, write_result
from lakehouse.config import Settings, load_settings
from lakehouse.errors import LakehouseError

F = TypeVar("F", bound=Callable[..., Any])

_errors = Console(stderr=True, highlight=False, soft_wrap=True)


def _with_uri(command: F) -> F:
    return click.option(
        "--uri", envvar="LAKEHOUSE_URI", default=DEFAULT_URI, show_default=True, help="Server to talk to."
    )(command)


def _with_server_options(command: F) -> F:
    for option in (
        click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one."),
        click.option("--host", help="Address to listen on."),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            help="Configuration file [default: ./lakehouse.toml].",
        ),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lakehouse")
def cli() -> None:
    """An Arrow Flight SQL server over a lakehouse of Iceberg tables."""


def main() -> None:
    """Run the command; every foreseeable error is one line on standard error and exit status 1."""
    try:
        status = cli(standalone_mode=False)
    except click.exceptions.Abort:
        status = 130
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (LakehouseError, LakehouseClientError) as error:
        _errors.print(f"error: {error}", markup=False)
        status = 1
    except BrokenPipeError:
        # Whoever read the output has had enough; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    from flight_server.app import leave  # noqa: PLC0415 - the client commands start faster without the server

    leave(status if isinstance(status, int) else 0)


def _settings(config: Path | None, host: str | None, port: int | None) -> Settings:
    server = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    return load_settings(config, {"server": server} if server else None)


# -- the server -----------------------------------------------------------------------------------------


@cli.command()
@_with_server_options
def serve(config: Path | None, host: str | None, port: int | None) -> int:
    """Serve until SIGTERM or Ctrl-C, then let running statements finish and stop."""
    from flight_server import app  # noqa: PLC0415 - see main
    from flight_server.logs import configure_logging  # noqa: PLC0415

    settings = _settings(config, host, port)
    configure_logging(settings.log)
    log = structlog.get_logger(__name__)
    # At a quieter level than info the line would be lost, and with it the port.
    say = log.info if settings.log.level in ("debug", "info") else log.error
    return app.serve(settings, ready=lambda uri: say("listening", uri=uri, version=__version__))


@cli.command()
@_with_server_options
@click.option("--exit", "leave_after", is_flag=True, envvar="DEMO_EXIT", help="Stop after the answers.")
def demo(config: Path | None, host: str | None, port: int | None, leave_after: bool) -> int:
    """Serve sample data and show what can be done with it."""
    from flight_server.demo import run_demo  # noqa: PLC0415 - see main

    return run_demo(_settings(config, host, port), stay=not leave_after)


@cli.command("check-config")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Configuration file [default: ./lakehouse.toml]."
)
@click.option("--show", is_flag=True, help="Print every setting that holds.")
def check_config(config: Path | None, show: bool) -> None:
    """Say whether the configuration is right."""
    settings = load_settings(config)
    if show:
        click.echo(settings.model_dump_json(indent=2))
    else:
        click.echo("the configuration is right")


# -- clients --------------------------------------------------------------------------------------------


@cli.command()
@click.argument("query")
@_with_uri
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option("--max-rows", default=100, show_default=True, help="Rows a table shows; 0 for all.")
@click.option("--schema", help="Schema that names without one refer to.")
def sql(query: str, uri: str, form: str, output: Path | None, max_rows: int, schema: str | None) -> None:
    """Run a statement on a server; with - it is read from standard input.

    Progress goes to standard error, so the output can be piped.
    """
    text = sys.stdin.read() if query == "-" else query
    with connect(uri, schema=schema) as client:
        result = client.sql(text)
        with _reading(result.rows) as advance:
            summary = write_result(result, form, output, max_rows, advance)
    _errors.print(summary, style="dim")


@contextmanager
def _reading(rows: int) -> Iterator[Callable[[int], None]]:
    """A progress line on a terminal, for reads that take a while."""
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal) as progress:
        task = progress.add_task("reading", total=rows if rows > 0 else None)
        yield lambda count: progress.advance(task, count)


@cli.command()
@click.argument("pattern", default="")
@_with_uri
def flights(pattern: str, uri: str) -> None:
    """List the datasets of a server, all or those matching a PATTERN such as 'nyc.*'."""
    with connect(uri) as client:
        found = client.flights(pattern)
    table = Table("dataset", "rows", "bytes", "endpoints", "columns")
    for column in table.columns[1:4]:
        column.justify = "right"
    for item in found:
        names = ", ".join(item.schema.names)
        table.add_row(".".join(item.path), f"{item.rows:,}", f"{item.bytes:,}", str(item.endpoints), names)
    Console().print(table)


@cli.command()
@click.argument("name")
@click.argument("request", default="{}", metavar="[JSON]")
@_with_uri
def action(name: str, request: str, uri: str) -> None:
    """Run an action with a JSON request; its result is printed as JSON."""
    try:
        body = json.loads(request)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="JSON") from error
    if not isinstance(body, dict):
        raise click.BadParameter("expected a JSON object", param_hint="JSON")
    with connect(uri) as client:
        click.echo(json.dumps(call_with_progress(client, name, body), indent=2, ensure_ascii=False))


def call_with_progress(client: Client, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Run an action while a bar on standard error shows how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal) as progress:
        task = progress.add_task(name, total=1.0)
        return client.call(
            name, body, lambda share, text: progress.update(task, completed=share, description=text)
        )


@cli.command()
@_with_uri
def actions(uri: str) -> None:
    """List the actions of a server."""
    with connect(uri) as client:
        found = client.actions.actions.describe().actions
    table = Table("action", "permission", "what it does")
    for item in found:
        table.add_row(item.name, item.permission, item.summary)
    Console().print(table)
