"""The command that brings files and tables of databases into tables."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from flight_server.cli import databases
from flight_server.cli.databases import DATABASE, FromDatabase
from flight_server.cli.options import CLIENT, connected, listing, options, print_listing, stderr
from flight_server.cli.program import cli
from flight_server.cli.querying import call_with_progress

if TYPE_CHECKING:
    from lakehouse_client import Client
    from lakehouse_client.actions import RunResponse

_OBJECTS = "bucket://"
_WILDCARDS = set("*?[")


_HELP = """\
Bring files, objects of a bucket, or tables of a database into tables.

\b
SOURCE is
  FILE or DIRECTORY               each file is one commit
  bucket://NAME/KEY               objects of a bucket, all in one commit; with
                                  wildcards in KEY, or a slash at its end, many
  postgresql://USER@HOST/DATABASE a database, as the server reaches it; for admins
  source://NAME                   one that the server's configuration names

Files whose content is in the table already are passed over. The password of a database is taken from
PGPASSWORD or the password file (~/.pgpass), or asked for; none stands on the command line. Ctrl-C ends
what runs, at the server and in the database too.

\b
Examples:
  lakehouse ingest people.csv --into crm.people
  lakehouse ingest 'bucket://primary/in/*.csv' --into crm.days --preview
  lakehouse ingest postgresql://reader@db/shop --table orders --into crm.orders
  lakehouse ingest source://shop --table public.orders --into crm.orders --mode upsert
  lakehouse ingest source://shop --query 'SELECT * FROM orders WHERE paid' --into crm.paid
  lakehouse ingest source://shop --table orders --into crm.orders --sync --watermark id
  lakehouse ingest source://shop --all --schema public --into crm
"""


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


@cli.command(help=_HELP)
@click.argument("source")
@click.option(
    "--into",
    "table",
    type=_TableName(),
    help="The table, as schema.table; made where there is none. With --all a schema.",
)
@click.option(
    "--mode",
    type=click.Choice(("append", "create", "replace", "upsert")),
    help="What is to become of the table [default: append, or replace with --all].",
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
@click.option(
    "--sync",
    is_flag=True,
    help="Bring only what is new since the last time: objects, or rows with --watermark.",
)
@click.option("--preview", is_flag=True, help="Show what would become of it, and first rows; store nothing.")
@click.option(
    "--background", is_flag=True, help="Do not wait; of objects of a bucket and of rows of a database."
)
@options(*DATABASE, *CLIENT)
def ingest(
    source: str,
    table: tuple[str, ...] | None,
    mode: str | None,
    keys: tuple[str, ...],
    on_error: str,
    types: tuple[tuple[str, str], ...],
    evolve: str | None,
    form: str | None,
    again: bool,
    run_key: str | None,
    sync: bool,
    preview: bool,
    background: bool,
    **server: Any,
) -> int:
    """Bring what SOURCE is into tables; gives the exit status."""
    wanted = FromDatabase.taken_from(server)
    said: dict[str, Any] = {"mode": mode or "append", "keys": list(keys), "evolve": evolve}
    said["key"] = "" if again else run_key
    said = {name: value for name, value in said.items() if value is not None}
    reading = {"on_error": on_error, "types": dict(types), **({"format": form} if form else {})}
    if again and run_key:
        raise click.UsageError("--again and --run-key contradict each other")
    if sync and (again or run_key or preview):
        raise click.UsageError("--sync knows no --again, --run-key and --preview")
    if databases.is_database(source):
        wanted.check()
        wanted.check_sync(wanted=sync)
        if types or form or on_error != "fail":
            raise click.UsageError("--type, --format and --on-error are about files")
        if wanted.whole and (preview or background):
            raise click.UsageError("--preview and --background are about one table, not about --all")
        if wanted.whole:
            return _whole_database(source, table, wanted, said | {"mode": mode or "replace"}, server)
    elif wanted.says_anything:
        raise click.UsageError("--table, --query, --all and what goes with them are about databases")
    if (background or sync) and not databases.is_database(source) and not source.startswith(_OBJECTS):
        raise click.UsageError("--background and --sync are not about files that are sent")
    if table is None:
        raise click.UsageError("Missing option '--into'.")
    with connected(**server) as client:
        if databases.is_database(source):
            said |= {"background": True} if background else {}
            _database(client, source, table, wanted, said, preview=preview, sync=sync)
        elif source.startswith(_OBJECTS):
            said |= {"background": True} if background else {}
            _objects(client, source.removeprefix(_OBJECTS), table, said | reading, preview=preview, sync=sync)
        else:
            _files(client, Path(source), table, said | reading, preview=preview)
    return 0


def _files(
    client: Client, path: Path, table: tuple[str, ...], said: dict[str, Any], *, preview: bool
) -> None:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if not files:
        raise click.UsageError(f"there is no file in {path}")
    if preview:
        for file in files:
            with _sending(file) as sent:
                found = client.preview_file(file, table[-1], **_place(table), on_sent=sent, **_reading(said))
            _show(str(file), asdict(found))
        return
    for number, file in enumerate(files):
        _say(str(file), asdict(send_file(client, file, table, said, first=number == 0)))


def send_file(
    client: Client, file: Path, table: tuple[str, ...], said: dict[str, Any], *, first: bool
) -> RunResponse:
    """Send one of several files into a table, with a bar about it.

    Args:
        client: The connection.
        file: The file.
        table: The name of the table, with schema and catalog before it if they are said.
        said: The options.
        first: Whether none was sent before; what was replaced or made for the first stays for the others.
    """
    later = {"mode": "append"} if not first and said.get("mode") in ("create", "replace") else {}
    with _sending(file) as sent:
        return client.ingest_file(file, table[-1], **_place(table), on_sent=sent, **said | later)


def _database(
    client: Client,
    source: str,
    table: tuple[str, ...],
    wanted: FromDatabase,
    said: dict[str, Any],
    *,
    preview: bool,
    sync: bool,
) -> None:
    body = {"relation": wanted.relation, "query": wanted.query, "table": table[-1], **_place(table)}
    body = {name: value for name, value in body.items() if value is not None} | wanted.reading
    if preview:
        action = "ingest.postgres_preview"
        _show(source, databases.call(client, action, source, body, ask=wanted.ask_password))
        return
    if sync:
        said |= {"watermark": wanted.watermark, "overlap": wanted.overlap or ""}
    action = "ingest.sync" if sync else "ingest.postgres"
    run = databases.call(client, action, source, body | said, ask=wanted.ask_password)
    _say(run["source"], run)


def _whole_database(
    source: str,
    into: tuple[str, ...] | None,
    wanted: FromDatabase,
    said: dict[str, Any],
    server: dict[str, Any],
) -> int:
    """Bring all tables; gives the exit status."""
    if into is not None and len(into) > 2:
        raise click.UsageError("with --all, --into is a schema, or catalog.schema")
    if said["keys"] or "key" in said:
        raise click.UsageError("--key, --run-key and --again are about one table, not about --all")
    names = dict(zip(("db_schema", "catalog"), reversed(into or ()), strict=False))
    patterns = {name: list(getattr(wanted, name)) for name in ("schemas", "include", "exclude")}
    body = {"mode": said["mode"], **names, **patterns, **wanted.reading}
    body |= {"evolve": said["evolve"]} if "evolve" in said else {}
    with connected(**server) as client:
        found = databases.call(client, "ingest.postgres_all", source, body, ask=wanted.ask_password)
    databases.show_runs(found["runs"])
    if found["failed"]:
        stderr().print(f"{found['failed']} of {len(found['runs'])} tables failed", markup=False)
    return 1 if found["failed"] else 0


def _place(table: tuple[str, ...]) -> dict[str, Any]:
    names = ("catalog", "db_schema")[3 - len(table) :]
    return dict(zip(names, table[:-1], strict=True))


def _objects(
    client: Client, place: str, table: tuple[str, ...], said: dict[str, Any], *, preview: bool, sync: bool
) -> None:
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
    if sync:
        if "prefix" not in which:
            raise click.UsageError(
                "--sync is about all objects that fit: name them with wildcards or a slash"
            )
        run = call_with_progress(
            client, "ingest.sync", {"table": table[-1], **_place(table), **which, **said}
        )
        _say_new(run)
        return
    said = {"run_key" if name == "key" else name: value for name, value in said.items()}
    run = call_with_progress(client, "ingest.file", {"table": table[-1], **_place(table), **which, **said})
    _say(run["source"], run)


def _say_new(run: dict[str, Any]) -> None:
    """What a run found new."""
    found = run["sync"]
    if found is None:
        _say(run["source"], run)
        return
    counts = {kind: found[f"objects_{kind}"] for kind in ("new", "known", "changed", "gone", "left")}
    told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count or kind == "new")
    click.echo(f"{found['name']}: {told}")
    if run["state"] != "repeated":
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
    if run["state"] in ("queued", "running"):
        click.echo(f"{source}: run {run['id']} is on its way into {run['table']}")
        asking = json.dumps({"run": run["id"]})
        stderr().print(f"  lakehouse action ingest.status '{asking}'", style="dim", markup=False)
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
