"""Commands that ask a server."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from flight_server.cli.options import CLIENT, connected, listing, options, print_listing, stderr
from flight_server.cli.program import cli

if TYPE_CHECKING:
    from lakehouse_client import Client

    from flight_server.output import Head

T = TypeVar("T")
_PROGRESS_AFTER_SECONDS = 0.5
_INTERRUPTS_SECONDS = 0.1


@cli.command()
@click.argument("query")
@options(*CLIENT)
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
    console, head, rows = stderr(), None, 0
    with connected(schema=schema, **server) as client, _reading(console) as reading:
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
@options(*CLIENT)
def flights(pattern: str, **server: Any) -> None:
    """List the datasets of a server, all or those matching a PATTERN such as 'nyc.*'."""
    with connected(**server) as client:
        found = client.flights(pattern)
    table = listing("dataset", "rows", "bytes", "endpoints", "columns")
    for column in table.columns[1:4]:
        column.justify = "right"
    for item in found:
        numbers = (_number(item.rows), _number(item.bytes), str(item.endpoints))
        table.add_row(".".join(item.path), *numbers, ", ".join(item.schema.names))
    print_listing(table)


def _number(value: int) -> str:
    return "?" if value < 0 else f"{value:,}"


@cli.command()
@click.argument("name")
@click.argument("request", default="{}", metavar="[JSON]")
@options(*CLIENT)
def action(name: str, request: str, **server: Any) -> None:
    """Run an action with a JSON request; its result is printed as JSON."""
    try:
        body = json.loads(request)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="JSON") from error
    if not isinstance(body, dict):
        raise click.BadParameter("expected a JSON object", param_hint="JSON")
    with connected(**server) as client:
        click.echo(json.dumps(call_with_progress(client, name, body), indent=2, ensure_ascii=False))


def call_with_progress(client: Client, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Run an action while a bar on standard error, where that is a terminal, shows how far it is."""
    console = stderr()
    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.description}"))
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(name, total=1.0, start=False)

    def show(share: float, message: str) -> None:
        progress.start()
        progress.update(task, completed=share, description=message or name)

    try:
        return _interruptible(lambda: client.call(name, body, show))
    finally:
        progress.stop()


def _interruptible(work: Callable[[], T]) -> T:
    """What ``work`` gives; Ctrl-C does not wait for it, and the server stops when the program has ended."""
    results: queue.Queue[T | BaseException] = queue.Queue()

    def run() -> None:
        try:
            results.put(work())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            results.put(error)

    threading.Thread(target=run, name="action", daemon=True).start()
    while True:
        # Not without end: where the driver has set its own handler, an interrupt does not end the waiting.
        with suppress(queue.Empty):
            result = results.get(timeout=_INTERRUPTS_SECONDS)
            break
    if isinstance(result, BaseException):
        raise result
    return result


@cli.command()
@options(*CLIENT)
def actions(**server: Any) -> None:
    """List the actions of a server."""
    with connected(**server) as client:
        found = client.actions.actions.describe().actions
    table = listing("action", "permission", "what it does")
    for item in found:
        table.add_row(item.name, item.permission, item.summary)
    print_listing(table)
