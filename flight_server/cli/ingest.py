"""The command that brings files into tables."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from flight_server.cli.options import CLIENT, connected, listing, options, print_listing, stderr
from flight_server.cli.program import cli
from flight_server.cli.querying import call_with_progress

if TYPE_CHECKING:
    from lakehouse_client import Client

_OBJECTS = "bucket://"
_WILDCARDS = set("*?[")


class _TableName(click.ParamType[tuple[str, ...]]):
    name = "table"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        parts = tuple(str(value).split("."))
        if not 1 <= len(parts) <= 3 or not all(parts):
            self.fail(f"expected table, schema.table or catalog.schema.table, found '{value}'", param, ctx)
        return parts


class _Type(click.ParamType[tuple[str, str]]):
    name = "column=type"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        column, separator, kind = str(value).partition("=")
        if not separator or not column or not kind:
            self.fail(f"expected column=TYPE, found '{value}'", param, ctx)
        return column, kind


@cli.command()
@click.argument("source")
@click.option(
    "--into", "table", type=_TableName(), required=True, help="The table; made where there is none."
)
@click.option(
    "--mode",
    type=click.Choice(("append", "create", "replace", "upsert")),
    default="append",
    show_default=True,
    help="What is to become of the table.",
)
@click.option("--key", "keys", multiple=True, metavar="COLUMN", help="Tells rows apart, for upsert. Repeat.")
@click.option(
    "--on-error",
    type=click.Choice(("fail", "reject")),
    default="fail",
    show_default=True,
    help="reject keeps rows that do not fit in TABLE_rejects.",
)
@click.option("--type", "types", type=_Type(), multiple=True, help="A type that is not inferred. Repeat.")
@click.option("--evolve", type=click.Choice(("add", "widen", "strict")), help="How the table may change.")
@click.option(
    "--format", "form", help="csv, jsonl, json, parquet, arrow, avro, orc, excel; found out if left out."
)
@click.option(
    "--again", is_flag=True, help="Bring the rows even if the same content is in the table already."
)
@click.option("--preview", is_flag=True, help="Show what would become of it, and first rows; store nothing.")
@options(*CLIENT)
def ingest(
    source: str,
    table: tuple[str, ...],
    mode: str,
    keys: tuple[str, ...],
    on_error: str,
    types: tuple[tuple[str, str], ...],
    evolve: str | None,
    form: str | None,
    again: bool,
    preview: bool,
    **server: Any,
) -> None:
    """Bring a file, the files of a directory, or objects of a bucket into a table.

    SOURCE is a FILE, a DIRECTORY, or bucket://NAME/KEY; with wildcards in the key, or a slash at its end,
    all objects that fit. Each file is one commit; one whose content is in the table already is passed over.
    """
    said: dict[str, Any] = {"mode": mode, "on_error": on_error, "keys": list(keys), "types": dict(types)}
    said |= {name: value for name, value in {"evolve": evolve, "format": form}.items() if value}
    if again:
        said["key"] = ""
    with connected(**server) as client:
        if source.startswith(_OBJECTS):
            _objects(client, source.removeprefix(_OBJECTS), table, said, preview)
            return
        path = Path(source)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if not files:
            raise click.UsageError(f"there is no file in {source}")
        if preview:
            for file in files:
                with _sending(file) as sent:
                    found = client.preview_file(
                        file, table[-1], **_place(table), on_sent=sent, **_reading(said)
                    )
                _show(str(file), asdict(found))
            return
        for number, file in enumerate(files):
            # What was replaced or made for the first file has to stay for the others.
            later = {"mode": "append"} if number and mode in ("create", "replace") else {}
            with _sending(file) as sent:
                run = client.ingest_file(file, table[-1], **_place(table), on_sent=sent, **said | later)
            _say(str(file), asdict(run))


def _place(table: tuple[str, ...]) -> dict[str, Any]:
    names = ("catalog", "db_schema")[3 - len(table) :]
    return dict(zip(names, table[:-1], strict=True))


def _objects(client: Client, place: str, table: tuple[str, ...], said: dict[str, Any], preview: bool) -> None:
    bucket, _, key = place.partition("/")
    if not bucket or not key:
        raise click.UsageError(f"expected bucket://NAME/KEY, found '{_OBJECTS}{place}'")
    which: dict[str, Any] = {"bucket": bucket, "key": key}
    if key.endswith("/") or _WILDCARDS & set(key):
        prefix = key[: min((key.index(sign) for sign in _WILDCARDS if sign in key), default=len(key))]
        which = {"bucket": bucket, "prefix": prefix, "pattern": key[len(prefix) :] or "*"}
    if preview:
        _show(place, client.call("ingest.preview", which | _reading(said)))
        return
    run = call_with_progress(client, "ingest.file", {"table": table[-1], **_place(table), **which, **said})
    _say(run["source"], run)


@contextmanager
def _sending(file: Path) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal, about a file that is sent."""
    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(file.name, total=file.stat().st_size)
        yield lambda size: progress.advance(task, size)


def _say(source: str, run: dict[str, Any]) -> None:
    """What became of a file, and of which columns somebody may want to know more."""
    rejected = (
        f", {run['rows_rejected']:,} rejected into {run['rejects_table']}" if run["rows_rejected"] else ""
    )
    if run["state"] == "repeated":
        click.echo(f"{source}: its rows are in {run['table']} already (--again brings them again)")
        return
    rows = f"{run['rows_stored']:,} row{'' if run['rows_stored'] == 1 else 's'}"
    click.echo(f"{source}: {rows} into {run['table']}{rejected} (run {run['id']})")
    for column in run["columns"]:
        if column["stricter"]:
            stderr().print(f"  {column['name']}: {column['stricter']}", style="dim", markup=False)


def _reading(said: dict[str, Any]) -> dict[str, Any]:
    """What is said of how files are to be read."""
    return {name: said[name] for name in ("types", "format", "on_error") if name in said}


def _show(source: str, found: dict[str, Any]) -> None:
    """What a source would become: how it is read, its columns, its first rows, and what does not fit."""
    import pyarrow as pa  # noqa: PLC0415

    from flight_server.output import write_table  # noqa: PLC0415

    details = ", ".join(f"{name} {value}" for name, value in found["details"].items())
    click.echo(f"{source}: {details}")
    table = listing("column", "type", "why", "a stricter reading")
    for column in found["columns"]:
        table.add_row(column["name"], column["type"], column["reason"], column["stricter"])
    print_listing(table)
    first = pa.ipc.open_stream(base64.b64decode(found["arrow"])).read_all()
    if first.num_rows:
        click.echo()
        write_table(first, None)
    for reason in found["rejected"]:
        stderr().print(f"  does not fit: {reason}", style="dim", markup=False)
