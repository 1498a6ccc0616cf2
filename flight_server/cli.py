"""The command ``lakehouse``: serve, try out, and query any server."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flight_server import __version__
from lakehouse.errors import LakehouseError

if TYPE_CHECKING:
    from lakehouse_client import Client

    from flight_server.output import Head
    from lakehouse.config import Settings

# What serves and what queries is imported by the commands that need it: each is a second of starting up.

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_URI = "grpc://127.0.0.1:31337"
_PROGRESS_AFTER_SECONDS = 0.5
_CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration file [default: ./lakehouse.toml where there is one].",
)
_SERVER = (
    _CONFIG,
    click.option("--host", help="Address to listen on."),
    click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one."),
)
_CLIENT = (
    click.option(
        "--uri",
        envvar="LAKEHOUSE_URI",
        default=_DEFAULT_URI,
        show_default=True,
        show_envvar=True,
        help="Server to talk to: grpc://host:port or grpc+tls://host:port.",
    ),
    click.option(
        "--token", envvar="LAKEHOUSE_TOKEN", show_envvar=True, help="Bearer token; better in the environment."
    ),
    click.option(
        "--tls-root-certs",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        envvar="LAKEHOUSE_TLS_ROOT_CERTS",
        show_envvar=True,
        help="PEM file with the certificates to trust instead of the system's.",
    ),
)


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class _Commands(click.Group):
    """Commands whose reader may leave before they have said everything, as ``head`` does."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python would complain once more when it flushes on leaving.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return result


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lakehouse")
def cli() -> None:
    """An Arrow Flight SQL server over a lakehouse of Iceberg tables."""


def main() -> None:
    """Run the command. Exit status: 0 done, 1 refused or failed (one line says why), 2 wrong usage."""
    status = run()
    server = sys.modules.get("flight_server.app")
    if server is not None:
        server.leave(status)
    sys.exit(status)


def run(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    try:
        status = cli.main(arguments, prog_name="lakehouse", standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        text = _explained(error)
        if text is None:
            raise
        _stderr().print(f"error: {text}", markup=False)
        return 1
    return status if isinstance(status, int) else 0


def _explained(error: Exception) -> str | None:
    """What a foreseeable error says in one line; none for a defect."""
    if isinstance(error, LakehouseError) or type(error).__name__ == "LakehouseClientError":
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"[FAILED] {error.filename}: {error.strerror}"
    arrow = sys.modules.get("pyarrow")
    if arrow is not None and isinstance(error, arrow.ArrowException | OSError):
        return f"[FAILED] {' '.join(str(error).split())}"
    return None


def _stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


# -- the server -----------------------------------------------------------------------------------------


def _settings(config: Path | None, host: str | None, port: int | None) -> Settings:
    from lakehouse.config import load_settings  # noqa: PLC0415

    server = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    return load_settings(config, {"server": server} if server else None)


@cli.command()
@_options(*_SERVER)
def serve(config: Path | None, host: str | None, port: int | None) -> int:
    """Serve until SIGTERM or Ctrl-C, then let running statements finish and stop."""
    import structlog  # noqa: PLC0415

    from flight_server import app  # noqa: PLC0415
    from flight_server.logs import configure_logging  # noqa: PLC0415

    settings = _settings(config, host, port)
    configure_logging(settings.log)
    log = structlog.get_logger(__name__)
    # At a quieter level than info the line would be lost, and with it the port.
    say = log.info if settings.log.level in ("debug", "info") else log.error
    return app.serve(settings, ready=lambda uri: say("listening", uri=uri, version=__version__))


@cli.command()
@_options(*_SERVER)
@click.option("--exit", "leave_after", is_flag=True, envvar="DEMO_EXIT", help="Stop after the answers.")
def demo(config: Path | None, host: str | None, port: int | None, leave_after: bool) -> int:
    """Serve sample data and show what can be done with it."""
    from flight_server.demo import run_demo  # noqa: PLC0415

    return run_demo(_settings(config, host, port), stay=not leave_after)


@cli.command("check-config")
@_options(_CONFIG)
@click.option("--show", is_flag=True, help="Print every setting that holds, as JSON.")
def check_config(config: Path | None, show: bool) -> None:
    """Say whether the configuration is right."""
    settings = _settings(config, None, None)
    click.echo(settings.model_dump_json(indent=2) if show else "the configuration is right")


# -- clients --------------------------------------------------------------------------------------------


@contextmanager
def _connected(
    uri: str, token: str | None, tls_root_certs: Path | None, schema: str | None = None
) -> Iterator[Client]:
    from lakehouse_client import LakehouseClientError, connect  # noqa: PLC0415

    # Otherwise the transport writes to standard error what the one line of an error says better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        client = connect(uri, token=token, tls_root_certs=tls_root_certs, schema=schema)
    except LakehouseClientError as error:
        if error.code == "INVALID_URI":
            raise click.BadParameter(error.message, param_hint="--uri") from None
        raise
    with client:
        yield client


@cli.command()
@click.argument("query")
@_options(*_CLIENT)
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "csv", "json", "parquet", "arrow")),
    default="table",
    show_default=True,
    help="json is one object a line, arrow an IPC stream.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file, which appears when it is complete.",
)
@click.option(
    "--max-rows",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Rows that a table shows; 0 for all.",
)
@click.option("--schema", help="Schema that names without one refer to.")
def sql(query: str, form: str, output: Path | None, max_rows: int, schema: str | None, **server: Any) -> None:
    """Run a statement on a server; with - it is read from standard input.

    What is not the result goes to standard error, so the output can be piped. Nothing but a table holds the
    whole result in memory.
    """
    from flight_server import output as out  # noqa: PLC0415

    text = sys.stdin.read() if query == "-" else query
    if not text.strip():
        raise click.UsageError("the statement is empty")
    to_terminal = output is None and sys.stdout.isatty()
    if to_terminal and form in out.BINARY:
        raise click.UsageError(f"{form} is binary: name a file with --output, or redirect it")
    console, head, rows = _stderr(), None, 0
    with _connected(schema=schema, **server) as client, _reading(console) as reading:
        started = time.perf_counter()
        with client.sql(text) as result:
            advance = reading(result.rows, visible=form == "table" or not to_terminal)
            if form == "table":
                head = out.first_rows(result, max_rows, advance)
            else:
                rows = out.write_rows(result, form, output, advance)
        seconds = time.perf_counter() - started
    if head is not None:
        shown = out.write_table(head.rows, output)
        console.print(f"{_summary(head, shown)} in {seconds:.3f} s", style="dim")
    elif console.is_terminal:
        console.print(f"{_count(rows)} in {seconds:.3f} s", style="dim")


def _summary(head: Head, columns_shown: int) -> str:
    text = _count(head.total) if head.complete else f"more than {_count(head.total)}"
    if head.rows.num_rows < head.total:
        text += f", {head.rows.num_rows:,} shown (--max-rows 0 shows all)"
    if columns_shown < head.rows.num_columns:
        text += f", {columns_shown} of {head.rows.num_columns} columns fit (--format csv has them all)"
    return text


def _count(rows: int) -> str:
    return f"{rows:,} row{'' if rows == 1 else 's'}"


class _Opened(Protocol):
    """Told that the rows begin to come: how many, or -1, and whether a line about them is to be seen."""

    def __call__(self, rows: int, *, visible: bool) -> Callable[[int], None]:
        """Gives a function that is told the number of rows of each batch."""
        ...


@contextmanager
def _reading(console: Console) -> Iterator[_Opened]:
    """A line on the terminal about reads that take a while."""
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task("reading", total=None)
    later = threading.Timer(_PROGRESS_AFTER_SECONDS, progress.start)
    later.daemon = True
    later.start()

    def stop() -> None:
        later.cancel()
        later.join()
        progress.stop()

    def opened(rows: int, *, visible: bool) -> Callable[[int], None]:
        if not visible:
            stop()
        if rows > 0:
            progress.update(task, total=rows)
        return lambda count: progress.advance(task, count)

    try:
        yield opened
    finally:
        stop()


@cli.command()
@click.argument("pattern", default="")
@_options(*_CLIENT)
def flights(pattern: str, **server: Any) -> None:
    """List the datasets of a server, all or those matching a PATTERN such as 'nyc.*'."""
    with _connected(**server) as client:
        found = client.flights(pattern)
    table = _list("dataset", "rows", "bytes", "endpoints", "columns")
    for column in table.columns[1:4]:
        column.justify = "right"
    for item in found:
        numbers = (_number(item.rows), _number(item.bytes), str(item.endpoints))
        table.add_row(".".join(item.path), *numbers, ", ".join(item.schema.names))
    _print_list(table)


def _number(value: int) -> str:
    return "?" if value < 0 else f"{value:,}"


@cli.command()
@click.argument("name")
@click.argument("request", default="{}", metavar="[JSON]")
@_options(*_CLIENT)
def action(name: str, request: str, **server: Any) -> None:
    """Run an action with a JSON request; its result is printed as JSON."""
    try:
        body = json.loads(request)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="JSON") from error
    if not isinstance(body, dict):
        raise click.BadParameter("expected a JSON object", param_hint="JSON")
    with _connected(**server) as client:
        click.echo(json.dumps(call_with_progress(client, name, body), indent=2, ensure_ascii=False))


def call_with_progress(client: Client, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Run an action while a bar on standard error, where that is a terminal, shows how far it is."""
    console = _stderr()
    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.description}"))
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(name, total=1.0, start=False)

    def show(share: float, message: str) -> None:
        progress.start()
        progress.update(task, completed=share, description=message or name)

    try:
        return client.call(name, body, show)
    finally:
        progress.stop()


@cli.command()
@_options(*_CLIENT)
def actions(**server: Any) -> None:
    """List the actions of a server."""
    with _connected(**server) as client:
        found = client.actions.actions.describe().actions
    table = _list("action", "permission", "what it does")
    for item in found:
        table.add_row(item.name, item.permission, item.summary)
    _print_list(table)


def _list(*names: str) -> Table:
    return Table(*names, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def _print_list(table: Table) -> None:
    from flight_server.output import fitting  # noqa: PLC0415

    fitting(Console()).print(table)
